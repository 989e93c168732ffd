"""What the Stripe stand-in does with one HTTP request, faults included. No I/O: the server carries it out.

reaction = front.react(method, target, headers, body)    # processed, as far as it will be
...                                                      # the server waits, and sends or cuts
reaction.finish()                                        # the call is no longer in flight
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from devstack.stripe_account import Account
from devstack.stripe_faults import METER_EVENTS, Fault
from devstack.stripe_objects import Answer, Refused, invalid
from devstack.stripe_routes import Params, Routes, read_params, unknown_path

# Questions to the stand-in itself, which Stripe does not have: no key, no faults, no record.
OWN_PATHS: Final = "/standin/"
_NOT_JSON: Final = b"<html><body>upstream connect error</body></html>"


@dataclass(slots=True)
class Reaction:
    """What becomes of a request: its answer after a delay, or none: the connection is cut, or nothing ever comes."""

    answer: Answer | None = None
    delay: float = 0.0
    hang: bool = False
    kept: Answer | None = None  # what its Idempotency-Key keeps
    _at_end: list[Callable[[], None]] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        """The status of the answer; None when there will be none."""
        return None if self.answer is None or self.hang else self.answer.status

    def at_end(self, end: Callable[[], None]) -> None:
        """Have something done when the call is over."""
        self._at_end.append(end)

    def finish(self) -> None:
        """The call is over, however it ended."""
        while self._at_end:
            self._at_end.pop()()


class Front:
    """The way into an account: the key, the limits, the faults, the Idempotency-Key, and then the route."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._routes = Routes(account)
        self._prefix = f"req_{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)

    def react(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reaction:
        """Process a request as far as Stripe would. `headers` is found in any case."""
        reaction = Reaction()
        path, _, query = target.partition("?")
        request_id = f"{self._prefix}{next(self._numbers):08x}"
        try:
            if path.startswith(OWN_PATHS):
                written = json.dumps(self._routes.own(path, read_params(query))).encode()
                reaction.answer = _answer(200, written, request_id)
                return reaction
            if self._account.faults.down:
                return reaction
            self._react(reaction, request_id, method, path, query, headers, body)
        except Refused as refused:
            reaction.answer = _refusal(refused, request_id, v2=path.startswith("/v2/"))
        return reaction

    def _react(
        self,
        reaction: Reaction,
        request_id: str,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        self._check_key(headers)
        if path.startswith("/v2/") and "Stripe-Version" not in headers:
            raise invalid("You must provide a Stripe-Version header.", code="missing_version")
        params = read_params(query if method == "GET" else body.decode(errors="replace"))
        is_event = method == "POST" and path == METER_EVENTS
        self._account.admit(event=is_event)
        saved = self._begin_event(reaction, params, headers.get("Idempotency-Key")) if is_event else None
        fault = self._account.faults.take(method, path, params.get("identifier"))
        kind = None if fault is None else fault.kind
        if fault is not None and self._instead(fault, reaction, request_id):
            return
        if saved is not None:
            first = {"Idempotent-Replayed": "true", "Original-Request": saved.headers["Request-Id"]}
            reaction.answer = saved._replace(headers={**saved.headers, **first, "Request-Id": request_id})
        elif is_event:
            reaction.answer = self._event(reaction, request_id, params, kind)
        elif method != "GET":
            raise unknown_path(method, path)
        elif kind in ("500_before", "500_after"):
            reaction.answer = _server_error(request_id)
        else:
            reaction.answer = _answer(200, json.dumps(self._routes.get(path, params)).encode(), request_id)
        if fault is not None:
            _afterwards(fault, reaction)

    def _check_key(self, headers: Mapping[str, str]) -> None:
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                given = base64.b64decode(given).decode().partition(":")[0]
        if not given:
            raise Refused(401, "invalid_request_error", None, "You did not provide an API key.")
        refused = self._account.key_refused
        if given != self._account.secret_key or refused == 401:
            raise Refused(401, "invalid_request_error", None, f"Invalid API Key provided: {_masked(given)}")
        if refused is not None:
            message = f"The provided key '{_masked(given)}' does not have the required permissions for this endpoint."
            raise Refused(refused, "invalid_request_error", None, message)

    def _begin_event(self, reaction: Reaction, params: Params, key: str | None) -> Answer | None:
        """Begin a meter event; give the answer that its Idempotency-Key has got already."""
        if key is not None:
            saved = self._account.begin_key(key, hash(frozenset(params.items())))
            if saved is not None:
                return saved
            reaction.at_end(lambda: self._account.end_key(key, reaction.kept))
        name = params.get("event_name", "")
        mapped = next((meter.customer_key for meter in self._account.meters if meter.event_name == name), None)
        customer = params.get(f"payload[{mapped or 'stripe_customer_id'}]")
        if customer:
            self._account.begin_event(name, customer)
            reaction.at_end(lambda: self._account.end_event(name, customer))
        return None

    def _event(self, reaction: Reaction, request_id: str, params: Params, kind: str | None) -> Answer:
        answer, keep = _server_error(request_id), True
        if kind != "500_before":
            try:
                body = json.dumps(self._routes.create_event(params)).encode()
                if kind != "500_after":
                    answer = _answer(200, body, request_id)
            except Refused as refused:
                # Parameters that fail validation are refused before anything is executed, and no key keeps that. A
                # duplicate is found out later.
                answer, keep = _refusal(refused, request_id, v2=False), refused.should_retry is False
        if keep:
            reaction.kept = answer
        return answer

    def _instead(self, fault: Fault, reaction: Reaction, request_id: str) -> bool:
        """Play a fault that stands in the place of processing; say whether it was one."""
        options = fault.options
        match fault.kind:
            case "429":
                raise _refused_by(fault, "Request rate limit exceeded.")
            case "409":
                raise _refused_by(fault, "The request conflicts with another one.")
            case "status":
                body = options["body"]
                if not isinstance(body, bytes):
                    body = (body if isinstance(body, str) else json.dumps(body)).encode()
                reaction.answer = _answer(options["status"], body, request_id, options["headers"])
            case "hang" if not options["accept"]:
                reaction.hang = True
            case "cut_before":
                reaction.answer = None
            case _:
                return False
        return True


def _refused_by(fault: Fault, message: str) -> Refused:
    options = fault.options
    return Refused(
        int(fault.kind),
        "invalid_request_error",
        options["code"],
        message,
        options["should_retry"],
        retry_after=options["retry_after"],
    )


def _afterwards(fault: Fault, reaction: Reaction) -> None:
    match fault.kind:
        case "cut_after":
            reaction.answer = None
        case "unreadable" if reaction.answer is not None:
            reaction.answer = reaction.answer._replace(status=200, body=_NOT_JSON)
        case "slow":
            reaction.delay = fault.options["seconds"]
        case "hang":
            reaction.hang = True


def _answer(status: int, body: bytes, request_id: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, body, {"Content-Type": "application/json", "Request-Id": request_id, **(headers or {})})


def _refusal(refused: Refused, request_id: str, *, v2: bool) -> Answer:
    headers: dict[str, str] = {}
    if refused.should_retry is not None:
        headers["Stripe-Should-Retry"] = str(refused.should_retry).lower()
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    return _answer(refused.status, refused.body(v2=v2), request_id, headers)


def _server_error(request_id: str) -> Answer:
    return _refusal(Refused(500, "api_error", None, "An unknown error occurred."), request_id, v2=False)


def _masked(key: str) -> str:
    """The key as Stripe shows it: what kind of key it is, and its last four characters."""
    kind, sep, secret = key.rpartition("_")
    if len(secret) <= 8:
        return "*" * len(key)
    return f"{kind}{sep}{'*' * (len(secret) - 4)}{secret[-4:]}"
