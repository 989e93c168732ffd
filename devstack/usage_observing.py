"""What the demo looks at before and after stripe_reconcile: where each event stands, and what Stripe has counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from devstack.stripe_account import Account
from devstack.usage import Standing, Used

_LOOK = """
SELECT
    CAST(event.id AS text) AS id,
    CASE
        WHEN event.stripe_reported AND event.stripe_record_id IS NOT NULL THEN 'BILLED'
        WHEN event.stripe_reported THEN 'NOT_BILLED'
        WHEN send.state = 'blocked' THEN 'BLOCKED'
        WHEN send.state = 'in_doubt' THEN 'IN_DOUBT'
        WHEN send.state IS NULL THEN 'WAITING'
        ELSE 'OTHER'
    END AS standing
FROM usage_events AS event
LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
"""

# Everything that the job may write, and what it must leave alone.
_CHECKSUMS = """
SELECT
    (SELECT md5(string_agg(CAST(event AS text), ' ' ORDER BY id)) FROM usage_events AS event),
    (SELECT md5(string_agg(CAST(send AS text), ' ' ORDER BY usage_event_id)) FROM maintenance.meter_sends AS send),
    (SELECT count(*) FROM maintenance.drift),
    (SELECT md5(string_agg(CAST(account AS text), ' ' ORDER BY user_id)) FROM billing_accounts AS account),
    (SELECT md5(string_agg(CAST(counter AS text), ' ' ORDER BY user_id, period_start)) FROM usage_counters AS counter)
"""

_BLOCKED = """
SELECT error_code AS reason, count(*) AS events, sum(value) AS pages
FROM maintenance.meter_sends WHERE state = 'blocked' GROUP BY error_code ORDER BY error_code
"""

_EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Blocked:
    """Events that are kept for a person, for one reason."""

    reason: str
    events: int
    pages: int


@dataclass(frozen=True)
class UsageSeen:
    """All usage at one moment: each event's standing, Stripe's pages by customer, and checksums of all tables."""

    used: Sequence[Used]
    standings: Mapping[str, Standing]
    at_stripe: Mapping[str, int]
    checksums: tuple[object, ...]

    def events(self, kind: str | None, *standings: Standing) -> int:
        """How many events of the kind (None: of all) stand like this; without standings, all."""
        return sum(1 for each in self._of(kind, standings))

    def pages(self, kind: str | None, *standings: Standing) -> int:
        """The same in pages."""
        return sum(each.pages for each in self._of(kind, standings))

    def to_bill(self, kind: str | None = None) -> int:
        """How many pages of the kind (None: of all) must be billed in the end."""
        return sum(each.pages for each in self._of(kind, ()) if each.goal is Standing.BILLED)

    def counted(self, kind: str | None = None) -> int:
        """Stripe's own sum of the customers of the kind (None: of all)."""
        return sum(self.at_stripe[customer] for customer in self.customers(kind))

    def customers(self, kind: str | None = None) -> list[str]:
        """The customers of the kind (None: of all)."""
        return list(dict.fromkeys(each.customer for each in self._of(kind, ()) if each.customer is not None))

    def by_customer(self, is_meant: Callable[[Used], bool]) -> dict[str, int]:
        """The pages of the events that are meant, by customer."""
        pages = dict.fromkeys(self.customers(), 0)
        for each in self.used:
            if each.customer is not None and is_meant(each):
                pages[each.customer] += each.pages
        return pages

    def _of(self, kind: str | None, standings: tuple[Standing, ...]) -> Iterable[Used]:
        return (
            each
            for each in self.used
            if kind in (None, each.kind) and (not standings or self.standings[each.id] in standings)
        )


def observe_usage(connection: Connection, account: Account, used: Sequence[Used]) -> UsageSeen:
    """Look at everything once."""
    standings = {row.id: Standing[row.standing] for row in connection.execute(text(_LOOK))}
    at_stripe = {each.customer: account.counted(each.customer, *_EVER) for each in used if each.customer is not None}
    return UsageSeen(used, standings, at_stripe, tuple(connection.execute(text(_CHECKSUMS)).one()))


def blocked(connection: Connection) -> list[Blocked]:
    """What is kept for a person, by reason."""
    return [Blocked(row.reason, row.events, int(row.pages)) for row in connection.execute(text(_BLOCKED))]


def counted_by_period(account: Account, used: Sequence[Used], boundary: datetime) -> tuple[int, int]:
    """Stripe's sums of the customers of these events before the boundary, and from it on."""
    customers = {each.customer for each in used if each.customer is not None}
    return (
        sum(account.counted(customer, _EVER[0], boundary) for customer in customers),
        sum(account.counted(customer, boundary, _EVER[1]) for customer in customers),
    )
