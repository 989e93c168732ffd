"""A job's request, with the headers that Cloud Scheduler sends, and its way over HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from devstack.scheduler_jobs import ScheduledJob
from devstack.scheduler_ledger import DEADLINE_EXCEEDED, UNAVAILABLE, Delivery, code_of
from shared.clock import format_rfc3339

_TOKEN_LIFE_S: Final = 3600
# What Cloud Run puts in the place of a token's signature before the code sees it.
_NO_SIGNATURE: Final = "SIGNATURE_REMOVED_BY_GOOGLE"
# Cloud Scheduler's own: what a job sets of these is replaced.
_OWN: Final = ("host", "content-length", "user-agent", "x-google-", "x-appengine-", "x-cloudscheduler")


@dataclass(frozen=True)
class Request:
    """What is sent: the same for every attempt of a firing, but for its token."""

    url: str
    method: str
    headers: dict[str, str]
    body: bytes | None


def make_request(job: ScheduledJob, target: str, slot: datetime | None, now: datetime) -> Request:
    """The request of a firing. `target` is where the function is served."""
    headers = {name: value for name, value in (job.headers or {}).items() if not name.lower().startswith(_OWN)}
    if job.body is not None and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = "application/octet-stream"
    if job.account is not None:
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        headers["Authorization"] = f"Bearer {_token(job.account, job.audience or '', now)}"
    headers |= {
        "User-Agent": "Google-Cloud-Scheduler",
        "X-CloudScheduler": "true",
        "X-CloudScheduler-JobName": job.id,
    }
    if slot is not None:
        headers["X-CloudScheduler-ScheduleTime"] = format_rfc3339(slot)
    return Request(f"{target.rstrip('/')}{job.path}", job.method, headers, job.body)


def deliver(request: Request, at: datetime, patience: float, sent: threading.Event) -> Delivery:
    """Send it, say when that is done, and wait for so many real seconds at most. What goes wrong is in the delivery."""
    parts = urlsplit(request.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=patience)
    try:
        connection.request(request.method, path, request.body, request.headers)
        sent.set()
        answer = connection.getresponse()
        return Delivery(at, answer.status, answer.read(), code=code_of(answer.status))
    except TimeoutError:
        return Delivery(at, error=f"no answer within {patience:g} s", code=DEADLINE_EXCEEDED)
    except (OSError, http.client.HTTPException) as error:
        return Delivery(at, error=str(error) or repr(error), code=UNAVAILABLE)
    finally:
        sent.set()
        connection.close()


def _token(account: str, audience: str, now: datetime) -> str:
    issued = int(now.timestamp())
    header = {"alg": "RS256", "kid": "stand-in", "typ": "JWT"}
    claims = {
        "aud": audience,
        "azp": account,
        "email": account,
        "email_verified": True,
        "exp": issued + _TOKEN_LIFE_S,
        "iat": issued,
        "iss": "https://accounts.google.com",
        "sub": account,
    }
    return f"{_encoded(header)}.{_encoded(claims)}.{_NO_SIGNATURE}"


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
