"""Jobs by the names that people type."""

from functions.registry import JOBS
from shared.job import Job


def job_named(name: str) -> Job | None:
    """The job of a short name, an entry point's name or a function's (with dashes); None where there is none."""
    return next((job for job in JOBS.values() if name.replace("-", "_") in (job.cli, job.name)), None)
