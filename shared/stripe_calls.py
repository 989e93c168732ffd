"""What is said to Stripe and what comes back, in words of our own. Importing this does not import Stripe's SDK."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

Grouping = Literal["hour"]


@dataclass(frozen=True)
class MeterEvent:
    """One meter event as it is sent: frozen before the first attempt, and the same in every later one."""

    event_name: str
    payload: Mapping[str, str]
    identifier: str
    timestamp: datetime


@dataclass(frozen=True)
class Answer:
    """How one call ended.

    `status` is the HTTP status, None where no answer came. `readable` is false where the answer was none of Stripe's.
    `code`, `kind` (Stripe's error type) and `message` are those of an error; `retry_after` is in seconds.
    """

    status: int | None
    readable: bool = True
    code: str | None = None
    kind: str | None = None
    message: str = ""
    retry_after: float | None = None


class CallFailed(Exception):
    """A read that did not give what was asked for. `answer` says how it ended."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


@dataclass(frozen=True)
class Meter:
    """A billing meter, as far as it matters here."""

    id: str
    event_name: str
    status: str
    formula: str
    event_time_window: str | None
    customer_key: str
    value_key: str
    livemode: bool


@dataclass(frozen=True)
class Subscription:
    """A subscription.

    `meters` are those that its prices bill; `all_shown` is false where Stripe listed only some of its prices.
    """

    id: str
    status: str
    start: datetime
    ended_at: datetime | None
    meters: frozenset[str]
    all_shown: bool


@dataclass(frozen=True)
class Refusal:
    """Meter events that Stripe took first and refused later, of one kind. `count` may be more than are named."""

    code: str
    count: int
    named: Mapping[str, str] = field(default_factory=dict)
    """Identifier -> Stripe's text."""


@dataclass(frozen=True)
class RefusalReport:
    """One report of later refusals.

    `meter_id` is None where Stripe found no meter at all. `refusals` is None where a list did not tell them: they are
    to be asked for. `is_readable` is false where it was none of what Stripe documents: then nothing is known of what it
    is about.
    """

    id: str
    created: datetime
    meter_id: str | None
    refusals: Sequence[Refusal] | None
    is_readable: bool = True


class Stripe(Protocol):
    """One Stripe account. Reads raise CallFailed; sending answers whatever happens."""

    def send(self, event: MeterEvent, idempotency_key: str) -> Answer:
        """Send one meter event, once."""
        ...

    def meter(self, meter_id: str) -> Meter:
        """Read a meter."""
        ...

    def subscriptions(self, customer: str) -> Sequence[Subscription]:
        """Read all subscriptions that a customer has or had."""
        ...

    def usage(
        self, meter_id: str, customer: str, start: datetime, end: datetime, grouping: Grouping | None = None
    ) -> Mapping[datetime, float]:
        """What Stripe has counted for a customer from `start` to before `end`, by the start of each span.

        Without grouping the one span is the whole. A span that Stripe leaves out has nothing in it.
        """
        ...

    def refusal_reports(
        self, since: datetime, until: datetime | None, most: int | None = None
    ) -> Sequence[RefusalReport]:
        """The reports of later refusals created from `since` on and before `until`, oldest first; None: up to now.

        At most `most` of them, and which those are is Stripe's choice; None: all.
        """
        ...

    def refusal_report(self, report_id: str) -> RefusalReport:
        """One of them, with its refusals."""
        ...
