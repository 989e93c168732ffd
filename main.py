"""The entry points of the functions, one for each job of functions/jobs.json, and nothing else."""

from functions.registry import JOBS
from shared.entry import entry_points

globals().update(entry_points(JOBS))
