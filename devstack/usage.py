"""Usage that is not reported to Stripe, of every kind that stripe_reconcile meets, and what must become of it.

    add_usage(connection, "paid, send lost", 500, now)             # the service's side, one statement
    used = usage_of(connection, "paid, send lost", 500)            # what was added
    tell_stripe(account, "paid, send lost", used, now)             # Stripe's side: customers, subscriptions, events

Used by the demo and the dev stack. All times are relative to one given moment. Keys and ids are hashes of kind and
number: as random in their order as the service's own, and the same in every run.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from devstack.stripe_account import Account
from functions.period_reset.month import month_of
from shared.clock import format_rfc3339

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_PERIOD: Final = 30 * _DAY
# How long after a page is used the service's own send reaches Stripe.
_ON_ITS_WAY: Final = timedelta(seconds=3)


class Standing(enum.Enum):
    """Where an event stands, or is to stand in the end."""

    WAITING = "not reported yet"
    BILLED = "reported, with Stripe's record"
    NOT_BILLED = "marked as not to be billed"
    BLOCKED = "kept for a person"
    IN_DOUBT = "may or may not be at Stripe"
    OTHER = "something else"


@dataclass(frozen=True)
class Kind:
    """Users of one kind. Each uses pages at the moments of `used`, so long ago, with what must become of each.

    `period` is how long ago the current period began, None for the calendar month of a free account; `paying` from and
    until when there was a subscription, None in it for no end. `is_at_stripe`: the service has sent the events, and
    could not mark them.
    """

    why: str
    used: Mapping[timedelta, Standing]
    plan: str = "pro"
    period: timedelta | None = 10 * _DAY
    has_customer: bool = True
    paying: tuple[timedelta, timedelta | None] | None = (100 * _DAY, None)
    has_pages: bool = True
    is_at_stripe: bool = False


def _all(standing: Standing, *ago: timedelta) -> dict[timedelta, Standing]:
    return dict.fromkeys(ago, standing)


KINDS: Mapping[str, Kind] = {
    "paid, send lost": Kind(
        "Billed: the service's own send has failed.",
        _all(Standing.BILLED, 30 * _MINUTE, 2 * _HOUR, 7 * _HOUR, 15 * _HOUR),
    ),
    "paid, lost for days": Kind(
        "Billed, if Stripe's sums do not show it yet.",
        _all(Standing.BILLED, 2 * _DAY, 3 * _DAY, 5 * _DAY, 6 * _DAY),
    ),
    "paid, end of last period": Kind(
        "Billed, in the period in which it was used.",
        _all(Standing.BILLED, 55 * _MINUTE, 57 * _MINUTE, 59 * _MINUTE),
        period=45 * _MINUTE,
    ),
    "sent, not marked": Kind(
        "Billed once: Stripe knows the identifier.",
        _all(Standing.BILLED, 40 * _MINUTE, 3 * _HOUR),
        is_at_stripe=True,
    ),
    "sent days ago, not marked": Kind(
        "Billed once, though Stripe forgot the identifier.",
        _all(Standing.BILLED, 2 * _DAY, 4 * _DAY),
        is_at_stripe=True,
    ),
    "free, then upgraded": Kind(
        "Billed from the upgrade on, nothing before it.",
        {
            **_all(Standing.NOT_BILLED, 9 * _HOUR, 6 * _HOUR),
            **_all(Standing.BILLED, 4 * _HOUR, 1 * _HOUR),
        },
        period=5 * _HOUR,
        paying=(5 * _HOUR, None),
    ),
    "paid, then cancelled": Kind(
        "Billed up to the cancellation, though free now.",
        {
            **_all(Standing.BILLED, 8 * _HOUR, 5 * _HOUR),
            **_all(Standing.NOT_BILLED, 3 * _HOUR, 1 * _HOUR),
        },
        plan="free",
        paying=(100 * _DAY, 4 * _HOUR),
    ),
    "free, never paid": Kind(
        "Not billed: there never was a subscription.",
        _all(Standing.NOT_BILLED, 1 * _HOUR, 20 * _HOUR, 3 * _DAY),
        plan="free",
        period=None,
        has_customer=False,
        paying=None,
    ),
    "paid, zero pages": Kind(
        "Not billed: there is nothing to bill.", _all(Standing.NOT_BILLED, 1 * _HOUR, 5 * _HOUR), has_pages=False
    ),
    "paid, no customer": Kind(
        "Blocked: nobody can tell whom to bill.",
        _all(Standing.BLOCKED, 1 * _HOUR, 5 * _HOUR),
        has_customer=False,
        paying=None,
    ),
}

_ADD_USAGE = """
WITH numbers AS (
    SELECT n, md5(CAST(:kind AS text) || '-' || n) AS key FROM generate_series(1, CAST(:users AS integer)) AS n
), periods AS (
    SELECT * FROM unnest(CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])) AS periods (starts, ends)
), people AS (
    INSERT INTO users (id, email, created_at, updated_at)
    SELECT key, key || '@example.com', CAST(:now AS timestamptz), CAST(:now AS timestamptz) FROM numbers
), accounts AS (
    INSERT INTO billing_accounts
        (user_id, plan_code, status, current_period_start, current_period_end, stripe_customer_id, updated_at)
    SELECT
        key, CAST(:plan AS text), 'active', CAST(:current_start AS timestamptz), CAST(:current_end AS timestamptz),
        CASE WHEN CAST(:has_customer AS boolean) THEN 'cus_' || key END, CAST(:now AS timestamptz)
    FROM numbers
), events AS (
    INSERT INTO usage_events (id, user_id, occurred_at, source, pages)
    SELECT
        CAST(md5(key || '-' || place) AS uuid), key, at - mod(n, 60) * interval '1 second', 'extraction',
        CASE WHEN CAST(:has_pages AS boolean) THEN 1 + mod(7 * n + 3 * CAST(place AS integer), 19) ELSE 0 END
    FROM numbers CROSS JOIN unnest(CAST(:moments AS timestamptz[])) WITH ORDINALITY AS used (at, place)
    RETURNING user_id, occurred_at, pages
)
INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
SELECT
    key, starts, ends,
    coalesce((
        SELECT sum(pages) FROM events WHERE user_id = key AND occurred_at >= starts AND occurred_at < ends
    ), 0)
FROM numbers CROSS JOIN periods
"""

_USAGE_OF = """
SELECT CAST(event.id AS text) AS id, account.stripe_customer_id AS customer, event.occurred_at, event.pages, place
FROM generate_series(1, CAST(:users AS integer)) AS n
CROSS JOIN generate_series(1, CAST(:places AS integer)) AS place
JOIN usage_events AS event
    ON event.id = CAST(md5(md5(CAST(:kind AS text) || '-' || n) || '-' || place) AS uuid)
JOIN billing_accounts AS account USING (user_id)
ORDER BY n, place
"""


@dataclass(frozen=True)
class Used:
    """A usage event that was added, and where it must stand in the end."""

    id: str
    kind: str
    customer: str | None
    occurred_at: datetime
    pages: int
    goal: Standing


def add_usage(connection: Connection, kind: str, users: int, now: datetime) -> None:
    """Add `users` of the kind (one of KINDS) with account, counters and events. The plans must be there."""
    spec = KINDS[kind]
    periods = _periods(spec, now)
    connection.execute(
        text(_ADD_USAGE),
        {
            "kind": kind,
            "users": users,
            "now": now,
            "plan": spec.plan,
            "has_customer": spec.has_customer,
            "has_pages": spec.has_pages,
            "starts": [start for start, _ in periods],
            "ends": [end for _, end in periods],
            **dict(zip(("current_start", "current_end"), _current(spec, now), strict=True)),
            "moments": [_minute(now) - ago for ago in spec.used],
        },
    )


def usage_of(connection: Connection, kind: str, users: int) -> Sequence[Used]:
    """The events of the first `users` of the kind, as far as they are there."""
    goals = list(KINDS[kind].used.values())
    rows = connection.execute(text(_USAGE_OF), {"kind": kind, "users": users, "places": len(goals)})
    return [Used(row.id, kind, row.customer, row.occurred_at, row.pages, goals[row.place - 1]) for row in rows]


def tell_stripe(account: Account, kind: str, used: Sequence[Used], now: datetime) -> None:
    """Let the stand-in have what Stripe has of these users of the kind: customers, subscriptions, and what was sent."""
    spec = KINDS[kind]
    for customer in dict.fromkeys(each.customer for each in used if each.customer is not None):
        account.add_customer(customer)
        if spec.paying is not None:
            since, until = spec.paying
            ended = None if until is None else _minute(now) - until
            status = "active" if ended is None else "canceled"
            account.add_subscription(customer, start=_minute(now) - since, ended_at=ended, status=status)
    for each in used if spec.is_at_stripe else ():
        payload = {account.meter.customer_key: each.customer or "", account.meter.value_key: str(each.pages)}
        event = account.receive(account.meter.event_name, payload, each.id, int(each.occurred_at.timestamp()))
        # The stand-in has it since now, by its clock. By this, it may have forgotten the identifier.
        event.received_at = each.occurred_at + _ON_ITS_WAY


def seed_usage(connection: Connection, account: Account, users: int, now: datetime) -> Sequence[Used]:
    """Add so many users of every kind, here and at Stripe; give their events."""
    added: list[Used] = []
    for kind in KINDS:
        add_usage(connection, kind, users, now)
        used = usage_of(connection, kind, users)
        tell_stripe(account, kind, used, now)
        added += used
    return added


def period_start(kind: str, now: datetime) -> datetime:
    """When the period on record of the kind's accounts began."""
    return _current(KINDS[kind], now)[0]


def takeover_setting(now: datetime) -> str:
    """STRIPE_TAKEOVER_AT that says: for all of this usage, the service sends the event's id as identifier."""
    return format_rfc3339(_minute(now) - 2 * _PERIOD)


def _current(spec: Kind, now: datetime) -> tuple[datetime, datetime]:
    """The period on record: a free account's is the calendar month, whatever it was before."""
    if spec.period is None or spec.plan == "free":
        month = month_of(now)
        return month.start, month.end
    start = _minute(now) - spec.period
    return start, start + _PERIOD


def _periods(spec: Kind, now: datetime) -> Sequence[tuple[datetime, datetime]]:
    """The periods in which the service has counted: the one on record, and Stripe's where there was a subscription."""
    periods = dict([_current(spec, now)])
    if spec.period is not None and spec.paying is not None:
        start = _minute(now) - spec.period
        # Where both begin together, Stripe's was there first, and the service has found it when it came back to free.
        periods[start] = start + _PERIOD
        if spec.paying[0] > spec.period:
            periods[start - _PERIOD] = start
    return list(periods.items())


def _minute(moment: datetime) -> datetime:
    """The moment, cut off to the minute: Stripe's sums are of whole minutes."""
    return moment.replace(second=0, microsecond=0)
