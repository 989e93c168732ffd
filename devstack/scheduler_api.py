"""Cloud Scheduler's API over REST, for the google-cloud-scheduler client: list, get, run, pause and resume.

    with SchedulerApi(scheduler) as api:
        transport = CloudSchedulerRestTransport(
            host=api.url.removeprefix("http://"), url_scheme="http", credentials=AnonymousCredentials()
        )
        CloudSchedulerClient(transport=transport).run_job(name=...)

As at Google, `run` answers at once and the request goes out behind it. Jobs come from Terraform's plan alone: creating,
changing and deleting are UNIMPLEMENTED. Nobody is asked who they are.
"""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from devstack.scheduler import Scheduler, Shown, StateError
from devstack.scheduler_jobs import ScheduledJob
from devstack.threaded_server import ThreadedServer
from shared.clock import format_rfc3339

_LIST: Final = re.compile(r"/v1/(?P<parent>projects/[^/]+/locations/[^/]+)/jobs")
_JOB: Final = re.compile(r"/v1/(?P<name>projects/[^/]+/locations/[^/]+/jobs/[^/:]+)(?::(?P<verb>[a-z]+))?")
_LARGEST_PAGE: Final = 500
_STATUS: Final = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 501: "UNIMPLEMENTED"}


class _RefusedError(Exception):
    """An error as Google's APIs answer it."""

    def __init__(self, code: int, message: str, status: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.fields = {"error": {"code": code, "message": message, "status": status or _STATUS[code]}}


class SchedulerApi(ThreadedServer):
    """The API of one stand-in, while the `with` block lasts, on a free port. Raises StartError."""

    name = "The Cloud Scheduler stand-in"

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._since = scheduler.clock.now()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        try:
            return web.json_response(self._answer(request))
        except _RefusedError as refused:
            return web.json_response(refused.fields, status=refused.code)

    def _answer(self, request: web.BaseRequest) -> dict[str, Any]:
        path = unquote(request.rel_url.raw_path)
        if (listed := _LIST.fullmatch(path)) and request.method == "GET":
            return self._list(listed["parent"], request.query.get("pageSize", ""), request.query.get("pageToken", ""))
        if match := _JOB.fullmatch(path):
            job = self._find(match["name"])
            match request.method, match["verb"]:
                case "GET", None:
                    return self._shown(job)
                case "POST", "run":
                    self._scheduler.run(job.id, wait=False)
                    return self._shown(job)
                case "POST", "pause" | "resume":
                    return self._switch(job, match["verb"])
        raise _RefusedError(501, f"The stand-in has no {request.method} {path}.")

    def _list(self, parent: str, size: str, token: str) -> dict[str, Any]:
        jobs = [job for job in self._scheduler.jobs if job.name.startswith(f"{parent}/jobs/")]
        if not re.fullmatch(r"\d*", size, re.ASCII) or not re.fullmatch(r"\d*", token, re.ASCII):
            raise _RefusedError(400, "The page size or the page token is not one that this API gives.")
        first, count = int(token or 0), min(int(size or 0) or _LARGEST_PAGE, _LARGEST_PAGE)
        found: dict[str, Any] = {"jobs": [self._shown(job) for job in jobs[first : first + count]]}
        if first + count < len(jobs):
            found["nextPageToken"] = str(first + count)
        return found

    def _find(self, name: str) -> ScheduledJob:
        for job in self._scheduler.jobs:
            if job.name == name:
                return job
        raise _RefusedError(404, f"Requested entity was not found: {name}.")

    def _switch(self, job: ScheduledJob, verb: str) -> dict[str, Any]:
        try:
            (self._scheduler.pause if verb == "pause" else self._scheduler.resume)(job.id)
        except StateError as error:
            raise _RefusedError(400, str(error), "FAILED_PRECONDITION") from error
        return self._shown(job)

    def _shown(self, job: ScheduledJob) -> dict[str, Any]:
        shown = self._scheduler.show(job.id)
        return _fields(shown) | {"userUpdateTime": format_rfc3339(self._since)}


def _fields(shown: Shown) -> dict[str, Any]:
    """The job as the API's JSON has it. What the plan made up for an address is shown as it is."""
    job = shown.job
    target: dict[str, Any] = {"uri": job.address + job.path, "httpMethod": job.method, "headers": job.headers or {}}
    if job.body is not None:
        target["body"] = base64.b64encode(job.body).decode()
    if job.account is not None:
        target["oidcToken"] = {"serviceAccountEmail": job.account, "audience": job.audience}
    found: dict[str, Any] = {
        "name": job.name,
        "description": job.description,
        "httpTarget": target,
        "schedule": job.schedule,
        "timeZone": job.time_zone,
        "state": "PAUSED" if shown.paused else "ENABLED",
        "attemptDeadline": _seconds(job.deadline),
        "retryConfig": {
            "retryCount": job.retries.count,
            "maxRetryDuration": _seconds(job.retries.duration),
            "minBackoffDuration": _seconds(job.retries.first_wait),
            "maxBackoffDuration": _seconds(job.retries.longest_wait),
            "maxDoublings": job.retries.doublings,
        },
    }
    if shown.next_moment is not None:
        found["scheduleTime"] = format_rfc3339(shown.next_moment)
    if shown.last_attempt is not None:
        found["lastAttemptTime"] = format_rfc3339(shown.last_attempt)
    if shown.code is not None:
        found["status"] = {"code": shown.code} if shown.code else {}
    return found


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():f}".rstrip("0").rstrip(".") + "s"
