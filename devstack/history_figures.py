"""What a run of a job counts, by the very names that the job declares."""

from __future__ import annotations

from shared.job import FAILED_COUNT, Job


def figures(job: Job, **values: int) -> dict[str, int]:
    """The figures of a run that ended by itself: all that the job declares, nought where nothing is said.

    Raises ValueError for one that the job does not declare.
    """
    known = (*job.counts, *job.gauges, FAILED_COUNT)
    strangers = values.keys() - set(known)
    if strangers:
        raise ValueError(f"{job.name} does not declare {', '.join(sorted(strangers))}.")
    return {**dict.fromkeys(known, 0), **values}


def counted(job: Job, **values: int) -> dict[str, int]:
    """The figures of a run that was broken off: what it had done so far, and nothing of what waits."""
    return {name: value for name, value in figures(job, **values).items() if name not in job.gauges}
