"""What happened in the month, and when: the runs, what they left behind and what people did tell the same."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shared.job import Job

OPERATORS = ("maria", "tom")
PAUSED_FOR_STRIPE = "Stripe's status page says API errors; see incident 2207"
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True)
class Attempt:
    """One attempt at a firing and what came of it. A message is missing while it runs."""

    status: str
    message: str | None
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.1
    error_type: str | None = None
    error_id: str | None = None


class Story:
    """The month's events, all counted back from its end."""

    refused_days = 8
    misconfigured_days = 11
    lost_days = 5
    erased_on_request = 7 * _DAY + 5 * _HOUR
    paused_why = "Legal looks at the retention of case 4711"

    def __init__(self, now: datetime, days: int) -> None:
        self.now = now
        self.since = now - days * _DAY
        # It began in report mode, as the handbook says it should.
        self.enforced_at = self.since + 2 * _DAY
        day = (now - 10 * _DAY).replace(hour=0, minute=0, second=0, microsecond=0)
        self.outage_from, self.outage_until = day + 8 * _HOUR, day + 18 * _HOUR
        self.stripe_paused_from, self.stripe_paused_until = day + 11 * _HOUR, day + 13 * _HOUR
        self.paused_from, self.paused_until = now - 3 * _DAY, now + 4 * _DAY

    def days_before(self, slot: datetime) -> int:
        """How many whole days a moment is ago."""
        return (self.now - slot) // _DAY

    def is_first(self, job: Job, slot: datetime) -> bool:
        """Whether it is the job's first firing that was to change something."""
        return slot == job.next_firing(self.enforced_at)

    def busy(self, slot: datetime, rng: random.Random) -> int:
        """How many events the job finds lost at this hour: more by day than by night, fewer at weekends."""
        by_hour = 16 + 14 * math.sin((slot.hour - 8) / 24 * 2 * math.pi)
        return max(0, round((by_hour + rng.gauss(0, 4)) * (0.4 if slot.weekday() >= 5 else 1.0)))

    def dead_letters(self, slot: datetime) -> int:
        """How many dead letters there were: they only become more."""
        return min(11, 2 + (slot - self.since) // (3 * _DAY))

    def blocked(self, slot: datetime) -> int:
        """How many events were blocked."""
        return min(5, (slot - self.since) // (6 * _DAY))

    def open_drift(self, slot: datetime) -> int:
        """How many differences were open."""
        return 3 if slot >= self.outage_until else self.days_before(slot) % 3
