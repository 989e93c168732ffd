"""What Stripe refuses before it looks at a request: too many a second, too many at once, a key used twice.

Times come from the caller. Nothing here is locked: the account does that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from devstack.stripe_objects import Answer, Refused

KEY_LIFETIME: Final = timedelta(hours=24)
_SECOND: Final = timedelta(seconds=1)


class Rate:
    """At most so many calls in any one second."""

    def __init__(self) -> None:
        self._taken: deque[datetime] = deque()

    def take(self, limit: int, now: datetime, retry_after: int | None) -> None:
        """Take a place. Raises `Refused` (429) when there is none."""
        while self._taken and now - self._taken[0] >= _SECOND:
            self._taken.popleft()
        if len(self._taken) >= limit:
            message = "Request rate limit exceeded."
            raise Refused(429, "invalid_request_error", "rate_limit", message, retry_after=retry_after)
        self._taken.append(now)


class _Key(NamedTuple):
    parameters: Hashable
    since: datetime
    answer: Answer | None


class IdempotencyKeys:
    """Idempotency-Keys of the last 24 hours, each with the answer that its first request got."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}

    def begin(self, key: str, parameters: Hashable, now: datetime) -> Answer | None:
        """Begin a request; give the saved answer if it is a repeat.

        Raises `Refused`: 409 while the first request with this key lasts, 400 when the parameters are others.
        """
        self._forget(now)
        known = self._keys.get(key)
        if known is None:
            self._keys[key] = _Key(parameters, now, None)
            return None
        if known.parameters != parameters:
            message = (
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request."
            )
            raise Refused(400, "idempotency_error", None, message)
        if known.answer is None:
            message = f"There is currently another in-progress request using this Idempotent Key: {key}."
            raise Refused(409, "idempotency_error", "idempotency_key_in_use", message)
        return known.answer

    def end(self, key: str, answer: Answer | None) -> None:
        """End a request that was begun. Without an answer to keep, the key is as if it had never been used."""
        if answer is None:
            self._keys.pop(key, None)
        elif key in self._keys:
            self._keys[key] = self._keys[key]._replace(answer=answer)

    def _forget(self, now: datetime) -> None:
        # They stand in the order in which they were begun.
        while self._keys:
            key, oldest = next(iter(self._keys.items()))
            if now - oldest.since < KEY_LIFETIME:
                return
            del self._keys[key]
