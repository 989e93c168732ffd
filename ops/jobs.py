"""Jobs by the names that people type."""

from functions.registry import JOBS
from shared.job import Job

# Erasing on request runs as a job of its own, which nothing fires.
ERASURE, ERASURE_CLI = "erasure_on_request", "erase"


def recorded_as(name: str) -> str | None:
    """Under which name runs are on record: those of a job, by any of its names, or of erasing on request."""
    if name.replace("-", "_") in (ERASURE, ERASURE_CLI):
        return ERASURE
    job = job_named(name)
    return job.name if job else None


def job_named(name: str) -> Job | None:
    """The job of a short name, an entry point's name or a function's (with dashes); None where there is none."""
    return next((job for job in JOBS.values() if name.replace("-", "_") in (job.cli, job.name)), None)
