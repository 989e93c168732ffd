"""What Stripe checks at once in a meter event and in a question for totals. Each raises `Refused` (400)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from devstack.stripe_objects import Meter, epoch, invalid

OLDEST: Final = timedelta(days=35)
FURTHEST_AHEAD: Final = timedelta(minutes=5)

_VALUE = re.compile(r"-?(\d+)(?:\.(\d+))?", re.ASCII)
_BUCKETS = {None: timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}


def read_payload(payload: Mapping[str, str], meter: Meter | None) -> tuple[str, int]:
    """The customer and the value of a meter event for this meter, or for none."""
    if meter is None:
        # Nobody knows which fields it should have. It will be refused later, and never counts.
        return payload.get("stripe_customer_id", ""), 0
    for key in (meter.customer_key, meter.value_key):
        if not payload.get(key):
            raise invalid(f"Payload must contain a value for '{key}'.", param="payload")
    text = payload[meter.value_key]
    read = _VALUE.fullmatch(text)
    if read is None:
        raise invalid(f"Invalid value for meter event: '{text}' is not a number.", param="payload")
    if len((read[1] + (read[2] or "")).lstrip("0")) > 15:
        raise invalid(f"Invalid value for meter event: '{text}' has more than 15 significant digits.", param="payload")
    # A fraction is accepted, as Stripe does; but pages are whole, and here it counts for nothing.
    return payload[meter.customer_key], int(text.partition(".")[0])


def occurred_at(timestamp: int | None, now: datetime) -> datetime:
    """When a meter event occurred: now, or at a time that is neither too far back nor ahead."""
    if timestamp is None:
        return now.replace(microsecond=0)
    try:
        occurred = datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):
        raise invalid(f"Invalid timestamp: {timestamp}", param="timestamp") from None
    if now - occurred > OLDEST:
        raise invalid("The event timestamp cannot be more than 35 days in past", param="timestamp")
    if occurred - now > FURTHEST_AHEAD:
        raise invalid("The event timestamp cannot be more than 5 minutes in future", param="timestamp")
    return occurred


def bucket_of(start: datetime, end: datetime, grouping: str | None) -> timedelta:
    """How long a span each total stands for, if start and end fit it; without grouping, the minute they must fit."""
    if grouping not in _BUCKETS:
        raise invalid("Invalid value_grouping_window: must be one of hour or day", param="value_grouping_window")
    bucket = _BUCKETS[grouping]
    for name, moment in (("start_time", start), ("end_time", end)):
        if epoch(moment) % bucket.total_seconds() or moment.microsecond:
            raise invalid(f"{name} must be aligned with {grouping or 'minute'} boundaries.", param=name)
    if start >= end:
        raise invalid("start_time must be before end_time.", param="start_time")
    return bucket
