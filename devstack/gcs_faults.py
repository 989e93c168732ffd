"""Faults that `devstack.gcs_front` plays, with the answers that Google Cloud Storage gives in the same trouble.

A fault answers in the place of the server, which then hears nothing of the request. Held and retained objects are what
the server would refuse itself: like there, a generation that does not match comes first.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple

from shared.clock import format_rfc3339

On = Literal["object", "list", "bucket", "upload", "other"]
Name = str | Callable[[str], bool] | None
# What a request without these is refused, and where.
_PERMISSIONS: Final[dict[str, tuple[str, On]]] = {
    "storage.objects.delete": ("DELETE", "object"),
    "storage.objects.get": ("GET", "object"),
    "storage.objects.list": ("GET", "list"),
    "storage.objects.create": ("POST", "upload"),
    "storage.buckets.get": ("GET", "bucket"),
}
_REASONS: Final = {
    401: "authError",
    403: "forbidden",
    404: "notFound",
    408: "requestTimeout",
    412: "conditionNotMet",
    429: "rateLimitExceeded",
    500: "internalError",
}
_MESSAGES: Final = {
    401: "Invalid Credentials",
    412: "At least one of the pre-conditions you specified did not hold.",
    429: "The rate of requests exceeds the limit. Please reduce your request rate.",
}
_PRINCIPAL: Final = "maintenance@project.iam.gserviceaccount.com"


class Target(NamedTuple):
    """What a request is about: a bucket, the list of its objects, an object. `path` as sent, without the query.

    `name` is the object's, or the prefix that a listing is asked for.
    """

    method: str
    path: str
    on: On
    bucket: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a request."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(
    status: int, message: str | None = None, reason: str | None = None, retry_after: float | None = None
) -> Answer:
    """An error as Google Cloud Storage's JSON API words it; reason and message have defaults."""
    reason = reason or _REASONS.get(status, "backendError")
    message = message or _MESSAGES.get(status, "We encountered an internal error. Please try again.")
    error = {"message": message, "domain": "global", "reason": reason}
    if status == 412:
        error |= {"locationType": "header", "location": "If-Match"}
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    if retry_after is not None:
        headers["Retry-After"] = f"{retry_after:g}"
    body = {"error": {"code": status, "message": message, "errors": [error]}}
    return Answer(status, json.dumps(body).encode(), headers)


@dataclass
class Fault:
    """One fault; `times` counts down, None: for ever. `share`: how many of the matching requests it takes."""

    kind: Literal["answer", "refuse", "cut_before", "cut_after"]
    method: str
    on: On | None
    name: Name
    times: int | None
    share: float
    answer: Callable[[Target], Answer] | None
    seen: int = 0

    def takes(self, target: Target) -> bool:
        """Whether it is for this request; counts it."""
        if self.times == 0 or self.method not in ("*", target.method) or self.on not in (None, target.on):
            return False
        if callable(self.name):
            if target.name is None or not self.name(target.name):
                return False
        elif self.name not in (None, target.name):
            return False
        before, self.seen = self.seen, self.seen + 1
        # Evenly: with 0.5 each second one.
        if int(self.seen * self.share + 1e-9) == int(before * self.share + 1e-9):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """The faults, in the order in which they were planned: a request gets the first that is for it. Thread-safe.

    `method` "*" stands for any, `on` None for anything, `name` None for any object, and a function chooses by name.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._delays: dict[str, float] = {}

    def fail(
        self,
        status: int = 503,
        *,
        method: str = "DELETE",
        on: On | None = None,
        name: Name = None,
        times: int | None = None,
        share: float = 1.0,
        reason: str | None = None,
        message: str | None = None,
        retry_after: float | None = None,
    ) -> Fault:
        """Answer with an error, and do nothing. `retry_after`, in seconds, goes into the header."""
        answer = refusal(status, message, reason, retry_after)
        return self._plan(Fault("answer", method, on, name, times, share, lambda _: answer))

    def forbid(
        self, permission: str = "storage.objects.delete", method: str | None = None, *, times: int | None = None
    ) -> Fault:
        """Refuse what needs a permission, as if the account lacked it. Raises KeyError for one that is not known."""
        usual, on = _PERMISSIONS[permission]
        what = "object" if on == "object" else "bucket"
        message = (
            f"{_PRINCIPAL} does not have {permission} access to the Google Cloud Storage {what}. "
            f"Permission '{permission}' denied on resource (or it may not exist)."
        )
        return self.fail(403, method=method or usual, on=on, times=times, reason="forbidden", message=message)

    def hold(
        self, name: Name, *, kind: Literal["Temporary", "Event-Based"] = "Temporary", reason: str = "forbidden"
    ) -> Fault:
        """Have objects under a hold: a delete is refused.

        The reason is the one that the server is seen to give; documented is "objectUnderActiveHold".
        """

        def answer(target: Target) -> Answer:
            message = (
                f"Object '{target.bucket}/{target.name}' is under active {kind} hold and cannot be deleted, "
                "overwritten or archived until hold is removed."
            )
            return refusal(403, message, reason)

        return self._plan(Fault("refuse", "DELETE", "object", name, None, 1.0, answer))

    def retain(self, name: Name, until: datetime) -> Fault:
        """Have objects kept by a retention policy: a delete is refused."""

        def answer(target: Target) -> Answer:
            message = (
                f"Object '{target.bucket}/{target.name}' is subject to bucket's retention policy or object retention "
                f"and cannot be deleted or overwritten until {format_rfc3339(until)}"
            )
            return refusal(403, message, "retentionPolicyNotMet")

        return self._plan(Fault("refuse", "DELETE", "object", name, None, 1.0, answer))

    def cut(
        self,
        when: Literal["before", "after"] = "before",
        times: int | None = 1,
        *,
        method: str = "DELETE",
        on: On | None = None,
        name: Name = None,
        share: float = 1.0,
    ) -> Fault:
        """Have the connection die, before or after the server has done what was asked."""
        return self._plan(
            Fault("cut_before" if when == "before" else "cut_after", method, on, name, times, share, None)
        )

    def delay(self, seconds: float, method: str = "*") -> None:
        """Let every request take so much longer, from now on; 0 ends it."""
        with self._lock:
            self._delays[method] = seconds

    def clear(self) -> None:
        """Forget all faults and delays: from now on everything goes well."""
        with self._lock:
            self._faults, self._delays = [], {}

    def _plan(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def _take(self, target: Target, *kinds: str) -> Fault | None:
        """The fault of these kinds for this request, counted."""
        if not self._faults:
            return None
        with self._lock:
            return next((fault for fault in self._faults if fault.kind in kinds and fault.takes(target)), None)

    def _delay(self, method: str) -> float:
        return self._delays.get(method, 0.0) or self._delays.get("*", 0.0)
