"""The functions as they are deployed, in small: all served, and fired at their times by the Cloud Scheduler stand-in.

The schedules are those that functions/jobs.json declares, with the figures that Terraform adds, so that `python -m ops
schedules` finds here what it finds at Google.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from devstack.scheduler import Scheduler
from devstack.scheduler_api import SchedulerApi
from devstack.scheduler_jobs import Retries, ScheduledJob
from devstack.scheduler_keeper import Keeper
from devstack.serving import Served
from functions.registry import JOBS
from ops import declared_schedules as declared
from ops.declared_schedules import slug
from ops.grants import HEALTH_JOB
from shared.clock import Clock

_PROJECT, _REGION = "bytereview-dev", "europe-west1"
# A start keeps a core busy; more at once would only wait for each other.
_STARTS_AT_ONCE = 3


def deploy(settings: Mapping[str, str], folder: Path, cleanup: contextlib.ExitStack, clock: Clock) -> dict[str, str]:
    """Serve and fire all functions until `cleanup` ends it; give the settings with which `ops schedules` finds them.

    In: the functions' settings, a folder for their logs, and the clock by which they are fired. Raises StartError.
    """
    served = {slug(name): Served(name, settings, log=folder / f"{slug(name)}.log") for name in JOBS}
    with ThreadPoolExecutor(_STARTS_AT_ONCE) as pool:
        # Entered here, one after the other as they are up: what started is stopped even where another did not.
        for started in [pool.submit(cleanup.enter_context, each) for each in served.values()]:
            started.result()
    targets = {function: each.url for function, each in served.items()}
    scheduler = Scheduler(schedules(), targets, clock)
    api = cleanup.enter_context(SchedulerApi(scheduler))
    cleanup.enter_context(Keeper(scheduler))
    return {
        "GOOGLE_CLOUD_PROJECT": _PROJECT,
        "GOOGLE_CLOUD_REGION": _REGION,
        "CLOUD_SCHEDULER_EMULATOR_HOST": api.url.removeprefix("http://"),
    }


def schedules() -> list[ScheduledJob]:
    """What Terraform deploys to Cloud Scheduler."""
    jobs = [
        _schedule(
            slug(job.name),
            slug(job.name),
            schedule=job.schedule,
            deadline=timedelta(seconds=job.timeout_seconds + declared.ANSWER_SECONDS),
            retries=Retries(
                count=job.retries,
                first_wait=timedelta(seconds=declared.FIRST_WAIT),
                longest_wait=timedelta(seconds=declared.LONGEST_WAIT),
                doublings=declared.DOUBLINGS,
            ),
        )
        for job in JOBS.values()
    ]
    health = _schedule(
        declared.HEALTH_SCHEDULE,
        slug(HEALTH_JOB),
        schedule=declared.HEALTH_CRON,
        deadline=timedelta(seconds=declared.HEALTH_DEADLINE),
        method="GET",
    )
    return [*jobs, health]


def _schedule(name: str, function: str, **fields: object) -> ScheduledJob:
    # As at Google: what is fired here is told by the function's name, wherever it is served.
    address = f"https://{function}-0000000000-ew.a.run.app"
    return ScheduledJob(
        name=f"projects/{_PROJECT}/locations/{_REGION}/jobs/{name}",
        function=function,
        address=address,
        audience=address,
        account=f"scheduler@{_PROJECT}.iam.gserviceaccount.com",
        **fields,  # type: ignore[arg-type]  # what varies between the two kinds
    )
