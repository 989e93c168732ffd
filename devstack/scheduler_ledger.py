"""What the Cloud Scheduler stand-in did: every firing, attempt and delivery, and the firings that it left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from devstack.scheduler_jobs import ScheduledJob
from devstack.scheduler_times import firings
from shared.clock import format_rfc3339

# google.rpc.Code, the numbers that a job's status shows.
OK: Final = 0
UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
UNAVAILABLE: Final = 14
# As the comments of google/rpc/code.proto map them.
_CODES: Final = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 429: 8, 499: 1, 500: 13, 501: 12, 503: 14, 504: 4}


def code_of(status: int) -> int:
    """The google.rpc.Code of an HTTP status: 0 for 200 to 299, which alone is success."""
    return OK if 200 <= status <= 299 else _CODES.get(status, UNKNOWN)


class Outcome(StrEnum):
    """How a firing ended. Cloud Scheduler does not catch up on one that was paused or overlapped."""

    UNDER_WAY = "under way"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"
    OVERLAPPED = "overlapped"


@dataclass(frozen=True)
class Delivery:
    """The request as it was sent once, at a moment of the test's clock, and the whole answer of the function.

    `error` says why there is no answer. Whether Cloud Scheduler heard it is the attempt's to tell.
    """

    at: datetime
    status: int | None = None
    body: bytes = b""
    error: str | None = None
    code: int = OK

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty where it is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass
class Attempt:
    """One attempt as Cloud Scheduler saw it: `status` and `code` are what counted, `deliveries` what truly arrived.

    `code` is None until it has ended.
    """

    number: int
    at: datetime
    fault: str | None = None
    ended_at: datetime | None = None
    status: int | None = None
    code: int | None = None
    deliveries: list[Delivery] = field(default_factory=list)


@dataclass
class Firing:
    """One firing. `slot` is the time that its requests carry; None: a forced run that carries none."""

    job: str
    slot: datetime | None
    forced: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    outcome: Outcome = Outcome.UNDER_WAY

    @property
    def deliveries(self) -> list[Delivery]:
        """Everything that arrived for it, attempt by attempt."""
        return [delivery for attempt in self.attempts for delivery in attempt.deliveries]


class Ledger:
    """All firings, in the order in which they came due. Jobs go by their short names."""

    def __init__(self) -> None:
        self.firings: list[Firing] = []

    def of(self, job: str, *, forced: bool = False) -> list[Firing]:
        """A job's firings by its schedule, or its forced ones."""
        return [firing for firing in self.firings if firing.job == job and firing.forced == forced]

    def slots(self, job: str) -> dict[datetime, Firing]:
        """A job's firings by its schedule, by their times."""
        return {firing.slot: firing for firing in self.of(job) if firing.slot is not None}

    def gaps(self, jobs: Iterable[ScheduledJob], after: datetime, until: datetime) -> list[str]:
        """What is not in order with the slots that the schedules give after one moment, up to and with another.

        A sentence for each that is missing, there twice, unasked for or still under way; empty: every slot is there
        exactly once, and has ended.
        """
        found = []
        for job in jobs:
            wanted = set(firings(job.schedule, after, until))
            there = [firing for firing in self.of(job.id) if firing.slot and after < firing.slot <= until]
            counted = Counter(firing.slot for firing in there if firing.slot)
            told = dict.fromkeys(wanted - set(counted), "is missing")
            told |= dict.fromkeys(set(counted) - wanted, "is not in the schedule")
            told |= {slot: f"is there {count} times" for slot, count in counted.items() if count > 1}
            told |= {each.slot: "is under way" for each in there if each.slot and each.outcome is Outcome.UNDER_WAY}
            found += [f"{job.id} of {format_rfc3339(slot)} {what}." for slot, what in sorted(told.items())]
        return found
