"""Faults that the Stripe stand-in plays on command: in the order in which they were added, or drawn by chance.

    faults.add("500_after")                                    # the next meter event is accepted and answered by a 500
    faults.add("429", times=None, path="/v1/*", method="GET")  # every read of the first version is refused, for ever
    faults.random(7, {"cut_after": 0.1, "429": 0.2})           # three events of ten go wrong, the same ones each time
    faults.down = True                                         # nobody answers

| kind | the request is processed | what comes back | options |
|---|---|---|---|
| 429, 409 | no | that status | code, retry_after (seconds), should_retry |
| 500_before | no | 500, also for the same Idempotency-Key later | |
| 500_after | yes | 500, also for the same Idempotency-Key later | |
| cut_before | no | the connection is aborted | |
| cut_after | yes | the connection is aborted | |
| unreadable | yes | 200 with a body that is no JSON | |
| slow | yes | the answer, so many seconds later | seconds |
| hang | as told | nothing, until the client gives up or the server stops | accept |
| status | no | what is given | status, body, headers |
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

METER_EVENTS: Final = "/v1/billing/meter_events"

# The options of each kind, with their defaults.
_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "429": {"code": "rate_limit", "retry_after": None, "should_retry": None},
    "409": {"code": "too_many_concurrent_requests", "retry_after": None, "should_retry": None},
    "500_before": {},
    "500_after": {},
    "cut_before": {},
    "cut_after": {},
    "unreadable": {},
    "slow": {"seconds": 0.0},
    "hang": {"accept": True},
    "status": {"status": 500, "body": b"", "headers": {}},
}


@dataclass
class Fault:
    """One fault, and how many times it is still to be played; None: for ever."""

    kind: str
    times: int | None
    path: str
    method: str
    identifier: str | None
    options: Mapping[str, Any]

    def matches(self, method: str, path: str, identifier: str | None) -> bool:
        """Whether it is for this request."""
        return (
            self.times != 0
            and fnmatchcase(method, self.method)
            and fnmatchcase(path, self.path)
            and self.identifier in (None, identifier)
        )


@dataclass
class _Draw:
    chance: random.Random
    weights: Mapping[str, float]
    path: str
    method: str


class Faults:
    """The faults of one account. `down`: nobody answers. `key_refused`: the status (401, 403) of every answer."""

    def __init__(self) -> None:
        self.down = False
        self.key_refused: int | None = None
        self._planned: list[Fault] = []
        self._draw: _Draw | None = None
        self._lock = threading.Lock()

    def add(
        self,
        kind: str,
        *,
        times: int | None = 1,
        path: str = METER_EVENTS,
        method: str = "POST",
        identifier: str | None = None,
        **options: Any,
    ) -> Fault:
        """Plan a fault for the next requests that match; `*` in path and method stands for anything.

        Its `times` counts down. Raises ValueError for a kind or an option that there is not.
        """
        fault = Fault(kind, times, path, method, identifier, _with_defaults(kind, options))
        with self._lock:
            self._planned.append(fault)
        return fault

    def random(
        self, seed: int, weights: Mapping[str, float], *, path: str = METER_EVENTS, method: str = "POST"
    ) -> None:
        """Draw a fault for each matching request that no planned one takes: `weights` has the probability of each kind.

        Drawn ones have the default options. Raises ValueError for an unknown kind or if the probabilities exceed 1.
        """
        for kind in weights:
            _with_defaults(kind, {})
        if sum(weights.values()) > 1 or any(weight < 0 for weight in weights.values()):
            raise ValueError("the probabilities must be 0 or more, and at most 1 together")
        with self._lock:
            # Not for secrets: the same seed must give the same faults.
            self._draw = _Draw(random.Random(seed), dict(weights), path, method)  # noqa: S311

    def clear(self) -> None:
        """Forget all faults: from now on everything goes well."""
        with self._lock:
            self.down = False
            self.key_refused = None
            self._planned = []
            self._draw = None

    def take(self, method: str, path: str, identifier: str | None) -> Fault | None:
        """The fault to be played for this request, counted off; None if all goes well."""
        if not self._planned and self._draw is None:
            return None
        with self._lock:
            for fault in self._planned:
                if fault.matches(method, path, identifier):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
            return self._drawn(method, path)

    def _drawn(self, method: str, path: str) -> Fault | None:
        draw = self._draw
        if draw is None or not (fnmatchcase(method, draw.method) and fnmatchcase(path, draw.path)):
            return None
        at = draw.chance.random()
        for kind, limit in zip(draw.weights, itertools.accumulate(draw.weights.values()), strict=True):
            if at < limit:
                return Fault(kind, 1, path, method, None, _OPTIONS[kind])
        return None


def _with_defaults(kind: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    if kind not in _OPTIONS:
        raise ValueError(f"no fault is called {kind!r}; there are {', '.join(_OPTIONS)}")
    unknown = set(options) - set(_OPTIONS[kind])
    if unknown:
        raise ValueError(f"the fault {kind!r} has no option {', '.join(sorted(unknown))}")
    return {**_OPTIONS[kind], **options}
