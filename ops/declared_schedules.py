"""What should be deployed in Cloud Scheduler: what functions/jobs.json and infra/terraform say, against what is there.

Terraform makes the schedules; its figures that are not in jobs.json stand here a second time, and a test holds them
together. What an installation's own variables change (`schedules`, `attempts`, `paused_jobs`) is a difference too.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ops.cloud_scheduler import Schedule
from ops.grants import HEALTH_JOB
from shared.job import Job

HEALTH_SCHEDULE = "maintenance-health"
_ZONE = "Etc/UTC"
# How much longer than the function may take Cloud Scheduler waits for its answer.
ANSWER_SECONDS = 90
FIRST_WAIT, LONGEST_WAIT, DOUBLINGS = 30, 240, 3
HEALTH_CRON, HEALTH_DEADLINE = "*/5 * * * *", 60
# The two forms of a Run service's address: with a hash, and with the project's number.
_ADDRESS = re.compile(r"https://(?P<service>[a-z0-9-]+)-(?:[a-z0-9]{10}-[a-z]{2,4}\.a|\d+\.[a-z0-9-]+)\.run\.app/?")


@dataclass(frozen=True)
class Difference:
    """One way in which a schedule is not as declared: `what` is it, and how it is and should be."""

    schedule: str
    what: str
    deployed: object
    declared: object

    @property
    def sentence(self) -> str:
        """It as a line of text."""
        if self.declared is None:
            return f"{self.schedule}: it is deployed, and nothing declares it."
        if self.deployed is None:
            return f"{self.schedule}: it is not deployed."
        return f"{self.schedule}: {self.what} is {self.deployed}, and should be {self.declared}."


def slug(name: str) -> str:
    """The name of a job's function and of its schedule, from the entry point's: Google's names take no underscore."""
    return name.replace("_", "-")


def differences(deployed: Iterable[Schedule], jobs: Mapping[str, Job], ignored: Collection[str]) -> list[Difference]:
    """Every way in which what is deployed is not as declared, by schedule. What is `ignored` may be there or not."""
    there = {each.name: each for each in deployed}
    wanted = {slug(name): _wanted(job) for name, job in jobs.items()}
    wanted[HEALTH_SCHEDULE] = _wanted_health()
    found = []
    for name in sorted({*there, *wanted} - {*ignored}):
        if name not in there:
            found.append(Difference(name, "schedule", None, "deployed"))
        elif name not in wanted:
            found.append(Difference(name, "schedule", "deployed", None))
        else:
            found += _compared(name, _deployed(there[name]), wanted[name])
    return found


def _compared(name: str, deployed: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[Difference]:
    for what, value in wanted.items():
        if deployed[what] != value:
            yield Difference(name, what, deployed[what], value)


def _wanted(job: Job) -> dict[str, object]:
    return {
        "the schedule": job.schedule,
        "the deadline": _seconds(job.timeout_seconds + ANSWER_SECONDS),
        "the number of retries": job.retries,
        "the wait before the first retry": _seconds(FIRST_WAIT),
        "the longest wait before a retry": _seconds(LONGEST_WAIT),
        "the number of doublings": DOUBLINGS,
        **_common("POST", slug(job.name)),
    }


def _wanted_health() -> dict[str, object]:
    # It is not retried, so that nothing is declared of the waits.
    return {
        "the schedule": HEALTH_CRON,
        "the deadline": _seconds(HEALTH_DEADLINE),
        "the number of retries": 0,
        **_common("GET", slug(HEALTH_JOB)),
    }


def _common(method: str, function: str) -> dict[str, object]:
    return {
        "the time zone": _ZONE,
        # With a limit of its own, retries go on until both are reached.
        "the limit of retrying": _seconds(0),
        "the state": "ENABLED",
        "the method": method,
        "the function that it calls": function,
        "the token's audience": "the function's address",
        "the body": "empty",
    }


def _deployed(schedule: Schedule) -> dict[str, object]:
    return {
        "the schedule": schedule.schedule,
        "the time zone": schedule.time_zone,
        "the deadline": _seconds(schedule.deadline),
        "the number of retries": schedule.retries,
        "the limit of retrying": _seconds(schedule.retrying_for),
        "the wait before the first retry": _seconds(schedule.first_wait),
        "the longest wait before a retry": _seconds(schedule.longest_wait),
        "the number of doublings": schedule.doublings,
        "the state": schedule.state,
        "the method": schedule.method or "none: it does not call over HTTP",
        "the function that it calls": _function(schedule.uri),
        "the token's audience": _audience(schedule),
        "the body": "not empty" if schedule.has_body else "empty",
    }


def _function(uri: str | None) -> str:
    """The function whose address this is; the address itself where it is none of a function."""
    if uri is None:
        return "none"
    match = _ADDRESS.fullmatch(uri)
    return match["service"] if match else uri


def _audience(schedule: Schedule) -> str:
    if schedule.audience is None:
        return "missing: it sends no token"
    same = (schedule.audience or "").rstrip("/") == (schedule.uri or "").rstrip("/")
    return "the function's address" if same else schedule.audience


def _seconds(number: float) -> str:
    return f"{number:g} s"
