"""Cloud Scheduler as Terraform makes it, on the stand-in with its API, for the commands that look at it."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from click.testing import Result

from devstack.scheduler import Scheduler
from devstack.scheduler_api import SchedulerApi
from devstack.scheduler_jobs import Retries, ScheduledJob
from functions.registry import JOBS
from tests.support.clock import ManualClock
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.scheduler import Function

PROJECT, REGION = "bytereview-test", "europe-west1"
LOCATION = f"projects/{PROJECT}/locations/{REGION}"
PLACE = {"GOOGLE_CLOUD_PROJECT": PROJECT, "GOOGLE_CLOUD_REGION": REGION}
SCHEDULES = sorted([*(name.replace("_", "-") for name in JOBS), "maintenance-health"])


def address_of(function: str) -> str:
    return f"https://{function}-ab12cd34ef-ew.a.run.app"


def make(name: str, function: str | None = None, **fields: Any) -> ScheduledJob:
    function = function or name
    address = address_of(function)
    values = {"function": function, "address": address, "audience": address, "account": "a@b", **fields}
    return ScheduledJob(name=f"{LOCATION}/jobs/{name}", **values)


def declared() -> list[ScheduledJob]:
    """What Terraform deploys."""
    retries = Retries(first_wait=timedelta(seconds=30), longest_wait=timedelta(seconds=240), doublings=3)
    jobs = [
        make(
            job.name.replace("_", "-"),
            schedule=job.schedule,
            deadline=timedelta(seconds=job.timeout_seconds + 90),
            retries=dataclasses.replace(retries, count=job.retries),
        )
        for job in JOBS.values()
    ]
    health = make(
        "maintenance-health", "period-reset", schedule="*/5 * * * *", deadline=timedelta(minutes=1), method="GET"
    )
    return [*jobs, health]


def changed(name: str, **fields: Any) -> list[ScheduledJob]:
    """What Terraform deploys, with one schedule changed by hand."""
    return [dataclasses.replace(job, **fields) if job.id == name else job for job in declared()]


class Cloud:
    """Cloud Scheduler's stand-in with its API, and one function behind all its addresses."""

    def __init__(self, function: Function, api: SchedulerApi, scheduler: Scheduler) -> None:
        self.function = function
        self.scheduler = scheduler
        self.environ = {**PLACE, "CLOUD_SCHEDULER_EMULATOR_HOST": api.url.removeprefix("http://")}

    def run(self, *arguments: str, database: TestDatabase | None = None) -> Result:
        """Run a command of `schedules`."""
        environ = {**self.environ, **({"DATABASE_URL": database.url} if database else {})}
        return run_command("schedules", *arguments, environ=environ)

    def states(self) -> dict[str, bool]:
        """Whether each schedule is paused."""
        return {job.id: self.scheduler.show(job.id).paused for job in self.scheduler.jobs}


@contextmanager
def cloud_of(jobs: Sequence[ScheduledJob], api_of: type[SchedulerApi] = SchedulerApi) -> Iterator[Cloud]:
    clock = ManualClock()
    with Function(clock) as function:
        scheduler = Scheduler(jobs, {job.function: function.url for job in jobs}, clock)
        with api_of(scheduler) as api:
            yield Cloud(function, api, scheduler)
