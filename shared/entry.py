"""The HTTP side: an entry point for each job, and the only place that knows HTTP codes.

`POST /` runs the job, `GET /` is the health check; everything else is refused. Every answer is JSON.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from flask import Request, Response

from shared.clock import Clock, SystemClock
from shared.errors import BadRequest
from shared.failures import outcome_of
from shared.health import health
from shared.invocation import SCHEDULE_TIME_HEADER, TASK_NAME_HEADER, Invocation, parse_invocation, parse_task
from shared.job import Job
from shared.outcome import Status
from shared.runner import run_job
from shared.services import Services

_LARGEST_BODY = 64 * 1024
_HTTP = {
    Status.COMPLETED: 200,
    Status.REPLAYED: 200,
    Status.PAUSED: 200,
    Status.BUSY: 409,
    Status.FENCED: 409,
    Status.REFUSED: 500,
    Status.INCOMPLETE: 503,
    Status.UNAVAILABLE: 503,
    Status.MISCONFIGURED: 500,
    Status.FAILED: 500,
}
_RETRY_AFTER_SECONDS = {Status.BUSY: 60, Status.INCOMPLETE: 5, Status.UNAVAILABLE: 30}

EntryPoint = Callable[[Request], Response]


def entry_points(
    jobs: Mapping[str, Job], *, environ: Mapping[str, str] = os.environ, clock: Clock | None = None
) -> dict[str, EntryPoint]:
    """A function for each job, by its name. They share one set of clients, made with the first request.

    `environ` is read with the first request; `clock` is the machine's own unless given.
    """
    services = Services(environ, clock or SystemClock(), sys.stdout)
    return {job.name: _entry_point(services, job, jobs) for job in jobs.values()}


def _entry_point(services: Services, job: Job, jobs: Mapping[str, Job]) -> EntryPoint:
    # functions-framework takes real functions only, so this is a closure and no partial.
    def entry_point(request: Request) -> Response:
        try:
            return respond(request)
        except Exception as error:  # noqa: BLE001  the boundary: whatever it is, it becomes an answer and a log line
            return _failure(services, job, error)
        finally:
            # functions-framework reads what is left of the body before it answers: all of one that is too large, or
            # has no end, and one that broke off would break at the same place.
            request.stream = io.BytesIO()

    def respond(request: Request) -> Response:
        if request.path != "/":
            return _refusal(404, "not_found", job, "There is nothing here. The job is at /.")
        if request.method == "GET":
            return _answer(200, health(services, job, jobs))
        if request.method == "POST":
            return _run(services, job, request)
        refusal = _refusal(405, "method_not_allowed", job, "Use POST to run the job or GET for the health check.")
        refusal.headers["Allow"] = "GET, POST"
        return refusal

    entry_point.__name__ = entry_point.__qualname__ = job.name
    entry_point.__doc__ = f"{job.description}."
    return entry_point


def _run(services: Services, job: Job, request: Request) -> Response:
    try:
        body = _body(request)
        if body is None:
            return _refusal(413, "too_large", job, f"The body is larger than {_LARGEST_BODY} bytes.")
        invocation = replace(_invocation(request, body, services.clock.now(), job.shards), host=request.host)
    except BadRequest as error:
        services.log.write("WARNING", str(error), event="refused", job=job.name, field=error.field)
        return _refusal(400, "bad_request", job, str(error), field=error.field)
    outcome = run_job(services, job, invocation)
    if outcome.details.keys() & {"continued_by", "last_step", "handed_to"}:
        # Nobody is to try again: what goes on is queued, or that was the last step.
        return _answer(200, outcome.as_json())
    return _answer(_HTTP[outcome.status], outcome.as_json(), _RETRY_AFTER_SECONDS.get(outcome.status))


def _invocation(request: Request, body: bytes, now: datetime, shards: int) -> Invocation:
    if TASK_NAME_HEADER in request.headers:
        return parse_task(body, now, shards)
    return parse_invocation(request.headers.get(SCHEDULE_TIME_HEADER), body, now)


def _body(request: Request) -> bytes | None:
    """The whole body; None if it is too large.

    Raises BadRequest for one that broke off: what is left of a dry run's body must not start a run.
    """
    declared = request.content_length
    if declared is not None and declared > _LARGEST_BODY:
        return None
    try:
        body = request.stream.read(_LARGEST_BODY + 1)
    except Exception:  # noqa: BLE001  werkzeug's, gunicorn's or the socket's own: the body is not whole
        raise BadRequest("body", "The body broke off.") from None
    if declared is not None and len(body) != declared:
        raise BadRequest("body", "The body is shorter than its Content-Length.")
    return None if len(body) > _LARGEST_BODY else body


def _failure(services: Services, job: Job, error: Exception) -> Response:
    outcome = outcome_of(services, job.name, error)
    fields = {**outcome.as_json(), "message": services.redact(outcome.message)}
    services.log.write("ERROR", str(fields["message"]), event="answer", job=job.name, status=outcome.status.value)
    return _answer(_HTTP[outcome.status], fields, _RETRY_AFTER_SECONDS.get(outcome.status))


def _refusal(code: int, status: str, job: Job, message: str, **fields: str) -> Response:
    return _answer(code, {"success": False, "status": status, "message": message, "job": job.name, **fields})


def _answer(code: int, fields: Mapping[str, object], retry_after: int | None = None) -> Response:
    response = Response(json.dumps(fields) + "\n", status=code, mimetype="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response
