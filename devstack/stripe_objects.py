"""What the stand-in's Stripe account holds, and how Stripe writes it as JSON. No HTTP, no I/O, no clock.

The shapes are those that the Stripe SDK reads; a field that usage reporting never looks at is left out.
"""

from __future__ import annotations

import calendar
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

ERROR_REPORT: Final = "v1.billing.meter.error_report_triggered"
NO_METER_FOUND: Final = "v1.billing.meter.no_meter_found"
REPORT_WINDOW: Final = timedelta(seconds=10)

# What Stripe says in an error report, by code. Other codes get a sentence that names them.
_REPORTED = {
    "archived_meter": "The meter for this event name is deactivated.",
    "meter_event_customer_not_found": "The customer of this event does not exist.",
    "meter_event_invalid_value": "The value of this event is invalid.",
    "no_meter": "There is no meter for this event name.",
}
# Statuses that a subscription never leaves again.
_OVER = frozenset({"canceled", "incomplete_expired"})


class Answer(NamedTuple):
    """An answer as it is sent."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Refused(Exception):
    """An answer of Stripe's that is not 2xx: HTTP status, the error's type, code and message.

    `should_retry` is what the header Stripe-Should-Retry says, None for no header; `param` names the parameter at
    fault; `retry_after` is the header of that name, in seconds.
    """

    def __init__(
        self,
        status: int,
        type_: str,
        code: str | None,
        message: str,
        should_retry: bool | None = None,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.code = code
        self.message = message
        self.should_retry = should_retry
        self.param = param
        self.retry_after = retry_after

    def body(self, *, v2: bool) -> bytes:
        """The answer's body, in the form of the API's first or second version."""
        error: Json = {"type": self.type, "message": self.message}
        if self.code is not None:
            error["code"] = self.code
        if v2:
            # The second version has a type of its own for rates, and names no parameter.
            if self.status == 429:
                error["type"] = "rate_limit"
        elif self.param is not None:
            error["param"] = self.param
        return json.dumps({"error": error}).encode()


def invalid(message: str, *, code: str | None = None, param: str | None = None, status: int = 400) -> Refused:
    """A refusal because of a parameter."""
    return Refused(status, "invalid_request_error", code, message, param=param)


def random_id(prefix: str) -> str:
    """An id in Stripe's form that nobody had before."""
    return f"{prefix}_{secrets.token_hex(12)}"


def epoch(moment: datetime) -> int:
    """Whole seconds since 1970."""
    return int(moment.timestamp())


def to_milliseconds(moment: datetime) -> datetime:
    """The moment, cut off to what Stripe writes of it in its second version."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _months_later(start: datetime, months: int) -> datetime:
    years, month = divmod(start.month - 1 + months, 12)
    year = start.year + years
    return start.replace(year=year, month=month + 1, day=min(start.day, calendar.monthrange(year, month + 1)[1]))


def billing_period(anchor: datetime, moment: datetime) -> tuple[datetime, datetime]:
    """The monthly period that the moment lies in, counted from the anchor: its start and its end."""
    months = max(0, (moment.year - anchor.year) * 12 + moment.month - anchor.month)
    if months and _months_later(anchor, months) > moment:
        months -= 1
    return _months_later(anchor, months), _months_later(anchor, months + 1)


# A list within an object is cut off, and says so ("Pagination", Stripe API reference).
_ITEMS_SHOWN = 10


@dataclass
class Meter:
    """A billing meter. Change its fields to play a meter that was set up in another way."""

    created: datetime
    livemode: bool
    event_name: str = "pages"
    id: str = field(default_factory=lambda: random_id("mtr"))
    status: str = "active"
    formula: str = "sum"
    event_time_window: str | None = None
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"

    def to_json(self) -> Json:
        """The meter as Stripe writes it."""
        return {
            "id": self.id,
            "object": "billing.meter",
            "created": epoch(self.created),
            "customer_mapping": {"event_payload_key": self.customer_key, "type": "by_id"},
            "default_aggregation": {"formula": self.formula},
            "display_name": self.event_name,
            "event_name": self.event_name,
            "event_time_window": self.event_time_window,
            "livemode": self.livemode,
            "status": self.status,
            "status_transitions": {"deactivated_at": None if self.status == "active" else epoch(self.created)},
            "updated": epoch(self.created),
            "value_settings": {"event_payload_key": self.value_key},
        }


@dataclass
class Subscription:
    """A customer's subscription: `items` prices, the last of which is metered if there is a meter.

    Only the first ten are shown, as in every list within an object.
    """

    customer: str
    start: datetime
    livemode: bool
    given_status: str = "active"
    ended_at: datetime | None = None
    meter_id: str | None = None
    items: int = 1
    id: str = field(default_factory=lambda: random_id("sub"))

    def status(self, now: datetime) -> str:
        """Its status at that time: one that has ended is canceled, whatever it was before."""
        if self.given_status not in _OVER and self.ended_at is not None and self.ended_at <= now:
            return "canceled"
        return self.given_status

    def to_json(self, now: datetime) -> Json:
        """The subscription as Stripe writes it at that time."""
        ended = self.ended_at if self.ended_at is not None and self.ended_at <= now else None
        period = billing_period(self.start, now if ended is None else ended)
        return {
            "id": self.id,
            "object": "subscription",
            "billing_cycle_anchor": epoch(self.start),
            "cancel_at": epoch(self.ended_at) if self.ended_at is not None and ended is None else None,
            "cancel_at_period_end": False,
            "canceled_at": None if ended is None else epoch(ended),
            "collection_method": "charge_automatically",
            "created": epoch(self.start),
            "currency": "usd",
            "customer": self.customer,
            "ended_at": None if ended is None else epoch(ended),
            "items": {
                "object": "list",
                "data": [self._item(number, period) for number in range(min(self.items, _ITEMS_SHOWN))],
                "has_more": self.items > _ITEMS_SHOWN,
                "url": f"/v1/subscription_items?subscription={self.id}",
            },
            "livemode": self.livemode,
            "metadata": {},
            "start_date": epoch(self.start),
            "status": self.status(now),
            "trial_end": None,
            "trial_start": None,
        }

    def _item(self, number: int, period: tuple[datetime, datetime]) -> Json:
        # Metered last: whoever looks at the first item only shall be found out.
        meter = self.meter_id if number == self.items - 1 else None
        suffix = f"{self.id.removeprefix('sub_')}{number}"
        item: Json = {
            "id": f"si_{suffix}",
            "object": "subscription_item",
            "created": epoch(self.start),
            "current_period_start": epoch(period[0]),
            "current_period_end": epoch(period[1]),
            "metadata": {},
            "price": {
                "id": f"price_{suffix}",
                "object": "price",
                "active": True,
                "currency": "usd",
                "livemode": self.livemode,
                "product": f"prod_{suffix}",
                "recurring": {
                    "interval": "month",
                    "interval_count": 1,
                    "meter": meter,
                    "usage_type": "licensed" if meter is None else "metered",
                },
                "type": "recurring",
                "unit_amount": 2,
            },
            "subscription": self.id,
        }
        if meter is None:
            item["quantity"] = 1
        return item


@dataclass(slots=True)
class ReceivedEvent:
    """A meter event that was accepted. `refused_code` is set when it was refused later: then it does not count."""

    identifier: str
    event_name: str
    customer: str
    value: int
    timestamp: datetime
    received_at: datetime
    refused_code: str | None = None


@dataclass(frozen=True)
class Summary:
    """What a meter counted for one customer from `start` (inclusive) to `end` (exclusive)."""

    meter_id: str
    customer: str
    start: datetime
    end: datetime
    value: int
    livemode: bool

    @property
    def id(self) -> str:
        """The same for the same customer and span, so that it can be a cursor."""
        return f"mtrsum_{self.meter_id}_{self.customer}_{epoch(self.start)}_{epoch(self.end)}"

    def to_json(self) -> Json:
        """The summary as Stripe writes it."""
        return {
            "id": self.id,
            "object": "billing.meter_event_summary",
            "aggregated_value": float(self.value),
            "end_time": epoch(self.end),
            "livemode": self.livemode,
            "meter": self.meter_id,
            "start_time": epoch(self.start),
        }


@dataclass
class ErrorType:
    """How often one code was reported, and some examples: message and identifier of each."""

    count: int = 0
    samples: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Report:
    """A thin event that says which meter events were refused after they had been accepted.

    Only its totals are complete: of each code it shows at most `sample_limit` identifiers.
    """

    type: str
    created: datetime
    livemode: bool
    meter_id: str | None
    sample_limit: int
    id: str = field(default_factory=lambda: random_id("evt"))
    errors: dict[str, ErrorType] = field(default_factory=dict)

    def add(self, code: str, identifier: str, message: str | None = None) -> None:
        """Take one more refusal in."""
        error = self.errors.setdefault(code, ErrorType())
        error.count += 1
        if len(error.samples) < self.sample_limit:
            error.samples.append((message or _REPORTED.get(code, f"The event was refused: {code}."), identifier))

    def to_json(self, *, with_data: bool = True) -> Json:
        """The thin event as Stripe writes it."""
        related = None
        if self.meter_id is not None:
            related = {"id": self.meter_id, "type": "billing.meter", "url": f"/v1/billing/meters/{self.meter_id}"}
        written: Json = {
            "id": self.id,
            "object": "v2.core.event",
            "changes": None,
            "context": None,
            "created": _rfc3339(self.created),
            "livemode": self.livemode,
            "reason": None,
            "related_object": related,
            "type": self.type,
        }
        if with_data:
            written["data"] = self._data()
        return written

    def _data(self) -> Json:
        total = sum(error.count for error in self.errors.values())
        types = [
            {
                "code": code,
                "error_count": error.count,
                "sample_errors": [
                    {"error_message": message, "request": {"identifier": identifier}}
                    for message, identifier in error.samples
                ],
            }
            for code, error in self.errors.items()
        ]
        counted = "is 1 invalid event" if total == 1 else f"are {total} invalid events"
        return {
            "developer_message_summary": f"There {counted}",
            "reason": {"error_count": total, "error_types": types},
            "validation_start": _rfc3339(self.created),
            "validation_end": _rfc3339(self.created + REPORT_WINDOW),
        }
