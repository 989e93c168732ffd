"""Faults that the Cloud Scheduler stand-in plays: in the order in which they were added, or drawn by chance.

    faults.add("cut", job="period-reset")              # the next attempt is processed, and its answer lost
    faults.add("late", slot=slot, seconds=240)         # that firing comes four minutes late
    faults.random(7, {"twice": 0.1, "503": 0.2})       # three attempts of ten, the same ones each time

| kind | the request arrives | what Cloud Scheduler sees |
|---|---|---|
| refused | no | no connection |
| 503, 429 | no | that answer, of the platform |
| cut | yes | no answer: the connection breaks |
| slow | yes | the answer, `seconds` later; from the deadline on DEADLINE_EXCEEDED instead, which is the default |
| overrun | yes | DEADLINE_EXCEEDED; nobody waits for the attempt, which may still run when the next one is made |
| twice | twice, one after the other | the first answer; the second delivery comes `seconds` later, at once by default |
| twin | twice, at the same time | the answer to one of them |
| late | as ever | the firing begins `seconds` late, 60 by default, with the time that it was to begin at |

`late` is for a firing as a whole, all others for an attempt. A chance is drawn for a job, a slot and an attempt, so it
does not depend on what else happens.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final

LATE: Final = "late"
KINDS: Final = frozenset({"refused", "503", "429", "cut", "slow", "overrun", "twice", "twin", LATE})
_DRAWN_LATE_S: Final = (1, 240)


@dataclass
class Fault:
    """One fault, and how many times it is still to be played; None: for ever."""

    kind: str
    times: int | None = 1
    job: str = "*"
    slot: datetime | None = None
    attempt: int | None = None
    seconds: float | None = None

    def matches(self, job: str, slot: datetime | None, attempt: int | None) -> bool:
        """Whether it is for this attempt of this firing."""
        return (
            self.times != 0
            and fnmatchcase(job, self.job)
            and self.slot in (None, slot)
            and self.attempt in (None, attempt)
        )


class Faults:
    """The faults of one stand-in."""

    def __init__(self) -> None:
        self._planned: list[Fault] = []
        self._draws: list[tuple[int, Mapping[str, float], str]] = []
        self._lock = threading.Lock()

    def add(
        self,
        kind: str,
        *,
        times: int | None = 1,
        job: str = "*",
        slot: datetime | None = None,
        attempt: int | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """Plan a fault for the next firings or attempts that match; `*` in the short name stands for anything.

        Its `times` counts down. Raises ValueError for a kind that there is not.
        """
        _check(kind)
        fault = Fault(kind, times, job, slot, attempt, seconds)
        with self._lock:
            self._planned.append(fault)
        return fault

    def random(self, seed: int, weights: Mapping[str, float], *, job: str = "*") -> None:
        """Draw a fault where no planned one is taken: `weights` has the probability of each kind.

        Raises ValueError for an unknown kind or if the probabilities exceed 1.
        """
        for kind in weights:
            _check(kind)
        if sum(weights.values()) > 1 or any(weight < 0 for weight in weights.values()):
            raise ValueError("Probabilities must not be below 0 nor exceed 1 together.")
        with self._lock:
            self._draws.append((seed, dict(weights), job))

    def clear(self) -> None:
        """Forget them all: from now on everything goes well."""
        with self._lock:
            self._planned, self._draws = [], []

    def take(self, job: str, slot: datetime | None, attempt: int | None) -> Fault | None:
        """The fault for an attempt, or with None for a firing as a whole, counted down."""
        with self._lock:
            for fault in self._planned:
                if (fault.kind == LATE) == (attempt is None) and fault.matches(job, slot, attempt):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
            for seed, weights, pattern in self._draws:
                if fnmatchcase(job, pattern):
                    drawn = _draw(f"{seed} {job} {slot} {attempt}", weights, whole=attempt is None)
                    if drawn is not None:
                        return drawn
            return None


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"There is no fault {kind!r}; there are {', '.join(sorted(KINDS))}.")


def _draw(seed: str, weights: Mapping[str, float], *, whole: bool) -> Fault | None:
    chance = random.Random(seed)  # noqa: S311 - the same ones each time, not a secret
    point = chance.random()
    for kind, weight in weights.items():
        if (kind == LATE) == whole:
            if point < weight:
                return Fault(kind, seconds=chance.randint(*_DRAWN_LATE_S) if whole else None)
            point -= weight
    return None
