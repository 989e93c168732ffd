"""When Cloud Scheduler fires, and when it tries again: arithmetic alone.

After Google's "Retry jobs" and the reference of RetryConfig: the wait before a retry doubles `doublings` times, then
grows by the last step, and is never longer than the longest. With both a count and a duration, retries go on until both
limits are reached; a duration of 0 is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from cronsim import CronSim

from devstack.scheduler_jobs import Retries


def next_firing(schedule: str, after: datetime) -> datetime:
    """The first scheduled time after the given one."""
    return next(CronSim(schedule, after))


def firings(schedule: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """The scheduled times after one moment, up to and with another."""
    for moment in CronSim(schedule, after):
        if moment > until:
            return
        yield moment


def wait_before(retry: int, retries: Retries) -> timedelta:
    """How long Cloud Scheduler waits before a retry; the first one is 1."""
    doublings = min(retry - 1, retries.doublings)
    steps = retry - doublings
    return min(retries.first_wait * (steps << doublings), retries.longest_wait)


def retry_moment(retries: Retries, *, attempts: int, first: datetime, failed: datetime) -> datetime | None:
    """When the next attempt is made after so many, of which the last has just failed; None: no more.

    `first` is when the first attempt was made, from which the duration counts.
    """
    moment = failed + wait_before(attempts, retries)
    in_count = attempts <= retries.count
    in_duration = retries.duration > timedelta(0) and moment - first <= retries.duration
    return moment if in_count or in_duration else None
