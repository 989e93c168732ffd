"""Cloud Scheduler's jobs, through Google's client: looking at them, firing, pausing and resuming.

Google calls them jobs; here they are schedules, because a job is what runs. Google's client is imported late: it takes
longer to load than most commands to run. Its errors become ours, so that the exit codes say the same as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ops.shell import NotThere, printable
from shared.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from google.cloud.scheduler_v1 import CloudSchedulerClient

_TIMEOUT_SECONDS: Final = 20.0
_ROLES: Final = {"list": "viewer", "get": "viewer", "run": "jobRunner", "pause": "admin", "resume": "admin"}


@dataclass(frozen=True)
class Schedule:
    """One of Cloud Scheduler's jobs as it is deployed; `name` is the short one. Durations are in seconds.

    `result` is how the last attempt ended, by the name of Google's code (OK, UNAVAILABLE, …); None before the first.
    """

    name: str
    state: str
    schedule: str
    time_zone: str
    deadline: float
    retries: int
    retrying_for: float
    first_wait: float
    longest_wait: float
    doublings: int
    # None for what is called otherwise than over HTTP.
    method: str | None
    uri: str | None
    # None without a token.
    audience: str | None
    has_body: bool
    next_firing: datetime | None
    last_attempt: datetime | None
    result: str | None


class CloudScheduler:
    """The schedules of one project and region.

    `emulator` is the address (host:port) of a stand-in, which is spoken to without credentials. All methods raise
    Misconfigured for credentials and rights, NotThere for what there is not, and Unavailable.
    """

    def __init__(self, project: str, region: str, emulator: str | None = None) -> None:
        self.location = f"projects/{project}/locations/{region}"
        with _translated("reach", self.location):
            self._client = _connect(emulator)

    def close(self) -> None:
        """Close the connection."""
        self._client.transport.close()  # type: ignore[no-untyped-call]  # Google's

    def schedules(self) -> list[Schedule]:
        """All schedules, by name."""
        with _translated("list", self.location):
            found = self._client.list_jobs(parent=self.location, retry=None, timeout=_TIMEOUT_SECONDS)
            return sorted(map(_read, found), key=lambda each: each.name)

    def get(self, name: str) -> Schedule:
        """One schedule."""
        return self._do("get", name)

    def run(self, name: str) -> Schedule:
        """Fire it now. Comes back before the function has answered."""
        return self._do("run", name)

    def pause(self, name: str) -> Schedule:
        """Let it not fire any more. Gives what it is then."""
        return self._do("pause", name)

    def resume(self, name: str) -> Schedule:
        """Let it fire again. Gives what it is then."""
        return self._do("resume", name)

    def _do(self, verb: str, name: str) -> Schedule:
        call = getattr(self._client, f"{verb}_job")
        with _translated(verb, f"{self.location}/jobs/{name}"):
            return _read(call(name=f"{self.location}/jobs/{name}", retry=None, timeout=_TIMEOUT_SECONDS))


def _connect(emulator: str | None) -> CloudSchedulerClient:
    try:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.scheduler_v1 import CloudSchedulerClient
        from google.cloud.scheduler_v1.services.cloud_scheduler.transports import CloudSchedulerRestTransport
    except ImportError as error:
        raise Misconfigured(
            "google-cloud-scheduler",
            "Google's client for Cloud Scheduler is not installed. `make install` installs all that commands need.",
        ) from error
    if emulator is None:
        return CloudSchedulerClient(transport="rest")
    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]  # Google's
    return CloudSchedulerClient(
        transport=CloudSchedulerRestTransport(host=emulator, url_scheme="http", credentials=nobody)
    )


@contextmanager
def _translated(verb: str, name: str) -> Iterator[None]:
    """Turn the errors of Google's client into ours."""
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth
    from requests import RequestException

    try:
        yield
    except auth.DefaultCredentialsError as error:
        raise Misconfigured(
            "Google credentials",
            "There are no credentials for Google, or not such as can be read. `gcloud auth application-default login` "
            "makes them; where they are in a file, GOOGLE_APPLICATION_CREDENTIALS names it.",
        ) from error
    except (auth.TransportError, RequestException) as error:
        raise Unavailable("Cloud Scheduler", "Cloud Scheduler cannot be reached. Try again.") from error
    except (auth.GoogleAuthError, api.Unauthorized) as error:
        if getattr(error, "retryable", False):
            raise Unavailable("Cloud Scheduler", "Google's login does not serve now. Try again.") from error
        raise Misconfigured(
            "Google credentials",
            "Google does not take the credentials any more. `gcloud auth application-default login` makes new ones.",
        ) from error
    except api.Forbidden as error:
        raise Misconfigured(
            "Google rights",
            f"This account may not {verb} {name}, or the API is not enabled. Google says: {_said(error)} The role "
            f"roles/cloudscheduler.{_ROLES.get(verb, 'viewer')} would do.",
        ) from error
    except api.NotFound as error:
        raise NotThere(
            f"Cloud Scheduler has no {name}. Check the project and the region; `terraform apply` makes what is missing."
        ) from error
    except (api.TooManyRequests, api.ServerError, api.RetryError) as error:
        raise Unavailable(
            "Cloud Scheduler", f"Cloud Scheduler does not serve now. Google says: {_said(error)} Try again."
        ) from error
    except api.GoogleAPIError as error:
        raise NotThere(f"Cloud Scheduler refuses to {verb} {name}. Google says: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Google's own words as one sentence, without the address that was called."""
    message = str(getattr(error, "message", error))
    words = message.partition(": ")[2] if message.startswith(("GET http", "POST http")) else message
    return printable(" ".join(words.split())).rstrip(".") + "."


def _read(job: Any) -> Schedule:
    retry, target = job.retry_config, job.http_target if "http_target" in job else None
    return Schedule(
        name=job.name.rpartition("/")[2],
        state=job.state.name,
        schedule=job.schedule,
        time_zone=job.time_zone,
        deadline=_seconds(job.attempt_deadline),
        retries=retry.retry_count,
        retrying_for=_seconds(retry.max_retry_duration),
        first_wait=_seconds(retry.min_backoff_duration),
        longest_wait=_seconds(retry.max_backoff_duration),
        doublings=retry.max_doublings,
        method=target.http_method.name if target else None,
        uri=target.uri if target else None,
        audience=target.oidc_token.audience if target and "oidc_token" in target else None,
        has_body=bool(target and target.body),
        next_firing=_moment(job.schedule_time),
        last_attempt=_moment(job.last_attempt_time),
        result=_result(job.status.code) if "status" in job else None,
    )


def _result(code: int) -> str:
    from google.rpc.code_pb2 import Code  # type: ignore[import-untyped]  # Google's

    return next((str(name) for name, number in Code.items() if number == code), str(code))


def _seconds(duration: timedelta | None) -> float:
    return duration.total_seconds() if duration is not None else 0.0


def _moment(value: datetime | None) -> datetime | None:
    # Google's type has nanoseconds, and does not compare with others' times in every way.
    return datetime.fromtimestamp(value.timestamp(), value.tzinfo) if value is not None else None
