"""The jobs of Cloud Scheduler, as the stand-in takes them from Terraform's plan (`terraform show -json PLAN`).

The plan must be one made after an apply: only then does it say which function's address each job calls. What the
stand-in would play wrongly is refused with a PlanError, so that nothing is tested that would not be deployed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cronsim import CronSim, CronSimError

_JOB: Final = "google_cloud_scheduler_job"
_FUNCTION: Final = "google_cloudfunctions2_function"
_UTC: Final = frozenset({"utc", "etc/utc", "gmt", "etc/gmt"})
_METHODS: Final = frozenset({"POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"})
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
# Google's unix-cron has five fields of these. What else the parser takes (L, W, #, a sixth field) Google does not.
_CRON: Final = re.compile(r"[0-9A-Za-z*/,-]+( +[0-9A-Za-z*/,-]+){4}", re.ASCII)
_CRON_WORDS: Final = frozenset(
    "jan feb mar apr may jun jul aug sep oct nov dec mon tue wed thu fri sat sun".split()  # noqa: SIM905  words, not a list of quotes
)
_DURATION: Final = re.compile(r"(\d+(?:\.\d{1,9})?)s", re.ASCII)
_INDEX: Final = re.compile(r"\[[^]]*\]")


class PlanError(ValueError):
    """The plan has something that the stand-in does not understand. The message says what and where."""


@dataclass(frozen=True)
class Retries:
    """How a failed firing is repeated. The defaults are Google's."""

    count: int = 0
    duration: timedelta = timedelta(0)
    first_wait: timedelta = timedelta(seconds=5)
    longest_wait: timedelta = timedelta(hours=1)
    doublings: int = 5


@dataclass(frozen=True)
class ScheduledJob:
    """One job of Cloud Scheduler. `name` is the full one; `function` the name of the function that it calls.

    `address` is what the plan says of the function's address, `path` what the job adds to it.
    """

    name: str
    function: str
    address: str
    schedule: str
    description: str = ""
    path: str = ""
    method: str = "POST"
    time_zone: str = "Etc/UTC"
    headers: Mapping[str, str] | None = None
    body: bytes | None = None
    account: str | None = None
    audience: str | None = None
    deadline: timedelta = timedelta(minutes=3)
    retries: Retries = Retries()
    paused: bool = False

    @property
    def id(self) -> str:
        """The short name, which the requests carry."""
        return self.name.rpartition("/")[2]


def jobs_of_plan(plan: Mapping[str, Any]) -> tuple[ScheduledJob, ...]:
    """All jobs that the plan holds, in its order. Raises PlanError."""
    planned = plan.get("planned_values")
    if not isinstance(planned, Mapping):
        raise PlanError("This is no plan: planned_values is missing. Write it with `terraform show -json PLAN`.")
    resources = list(_resources(planned.get("root_module", {})))
    functions = {
        uri: str(each["values"]["name"])
        for each in resources
        if each["type"] == _FUNCTION and (uri := _first(each["values"].get("service_config")).get("uri"))
    }
    configured = _configured(plan.get("configuration", {}).get("root_module", {}))
    jobs = tuple(_read(each, functions, configured) for each in resources if each["type"] == _JOB)
    # The requests carry the short name alone.
    if len({job.id for job in jobs}) != len(jobs):
        raise PlanError("The plan has two jobs of one name.")
    return jobs


def read_duration(text: str) -> timedelta:
    """A duration as Google writes it, such as 1800s or 0.5s. Raises ValueError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration; 1800s is one.")
    return timedelta(seconds=float(match[1]))


def check_schedule(schedule: str) -> None:
    """Raise ValueError unless this is a cron of five fields, as Google's unix-cron takes them."""
    words = set(re.findall("[a-z]+", schedule.lower()))
    if _CRON.fullmatch(schedule) is None or not words <= _CRON_WORDS:
        raise ValueError(f"the schedule {schedule!r} is not five fields of unix-cron.")
    try:
        next(CronSim(schedule, datetime(2026, 1, 1)))  # noqa: DTZ001  only the expression is looked at
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"the schedule {schedule!r} cannot be: {error}.") from error


def _resources(module: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for each in module.get("resources", []):
        if each.get("mode") == "managed":
            yield each
    for child in module.get("child_modules", []):
        yield from _resources(child)


def _configured(module: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """What the configuration sets itself, by address without indexes."""
    found = {f"{prefix}{each['address']}": each.get("expressions", {}) for each in module.get("resources", [])}
    for name, call in module.get("module_calls", {}).items():
        found |= _configured(call.get("module", {}), f"{prefix}module.{name}.")
    return found


def _first(blocks: Any) -> Mapping[str, Any]:
    """A block that stands at most once; an empty one where it is left out."""
    return blocks[0] if blocks else {}


def _read(
    resource: Mapping[str, Any], functions: Mapping[str, str], configured: Mapping[str, Mapping[str, Any]]
) -> ScheduledJob:
    address, values = resource["address"], resource["values"]
    try:
        target = _target(values, functions)
        schedule, zone = values.get("schedule") or "", values.get("time_zone") or "Etc/UTC"
        check_schedule(schedule)
        if zone.lower() not in _UTC:
            raise ValueError(f"the time zone {zone} is not UTC, and the stand-in knows no other.")
        deadline = read_duration(values.get("attempt_deadline") or "180s")
        if not timedelta(seconds=15) <= deadline <= timedelta(minutes=30):
            raise ValueError(f"the deadline {deadline} is not from 15 s to 30 min.")
        return ScheduledJob(
            name=f"projects/{_known(values, 'project')}/locations/{_known(values, 'region')}/jobs/{values['name']}",
            description=values.get("description") or "",
            schedule=schedule,
            time_zone=zone,
            deadline=deadline,
            retries=_retries(values, configured.get(_INDEX.sub("", address), {})),
            paused=bool(values.get("paused")),
            **target,
        )
    except ValueError as error:
        raise PlanError(f"{address}: {error}") from error


def _known(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not value:
        raise ValueError(f"{name} is not known. Make the plan after an apply.")
    return str(value)


def _target(values: Mapping[str, Any], functions: Mapping[str, str]) -> dict[str, Any]:
    if values.get("pubsub_target") or values.get("app_engine_http_target"):
        raise ValueError("the target is not HTTP, and the stand-in speaks nothing else.")
    target = _first(values.get("http_target"))
    uri = target.get("uri")
    if not uri:
        raise ValueError("the address that it calls is not known. Make the plan after an apply.")
    found = [known for known in functions if uri == known or uri.startswith(f"{known}/")]
    if len(found) != 1:
        raise ValueError(f"it calls {uri}, which is not the address of one function of this plan.")
    if target.get("oauth_token"):
        raise ValueError("it sends an OAuth token; a function wants oidc_token.")
    method = target.get("http_method") or "POST"
    if method not in _METHODS:
        raise ValueError(f"{method} is no HTTP method that Cloud Scheduler sends.")
    body = base64.b64decode(target["body"], validate=True) if target.get("body") else None
    if body is not None and method not in _WITH_BODY:
        raise ValueError(f"a {method} takes no body.")
    token = _first(target.get("oidc_token"))
    return {
        "function": functions[found[0]],
        "address": found[0],
        "path": uri.removeprefix(found[0]),
        "method": method,
        "headers": dict(target.get("headers") or {}),
        "body": body,
        "account": token.get("service_account_email"),
        # Google takes the whole address where none is given.
        "audience": (token.get("audience") or uri) if token else None,
    }


def _retries(values: Mapping[str, Any], configured: Mapping[str, Any]) -> Retries:
    """What the configuration sets; Google's defaults for the rest, whatever an offline provider made up for it."""
    block, own = _first(values.get("retry_config")), _first(configured.get("retry_config"))
    given = {name: value for name, value in block.items() if value is not None and (name in own or not own)}
    default = Retries()

    def wait(name: str, otherwise: timedelta) -> timedelta:
        return read_duration(given[name]) if name in given else otherwise

    retries = Retries(
        count=int(given.get("retry_count", default.count)),
        duration=wait("max_retry_duration", default.duration),
        first_wait=wait("min_backoff_duration", default.first_wait),
        longest_wait=wait("max_backoff_duration", default.longest_wait),
        doublings=int(given.get("max_doublings", default.doublings)),
    )
    if not 0 <= retries.count <= 5:
        raise ValueError(f"{retries.count} retries are not from 0 to 5.")
    return retries
