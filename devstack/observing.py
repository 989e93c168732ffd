"""What the demo looks at in the database before and after: counts for each kind of account, and checksums.

The kinds are told apart by their keys, which `devstack.accounts` makes from the kind and a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from devstack.accounts import DUE_KINDS, KINDS
from functions.period_reset.month import Month, month_of

# How many of the first due kind have used pages in the new month already, before it is theirs.
EARLY_COUNTERS = 300

_ADD_EARLY_COUNTERS = """
INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
SELECT md5(CAST(:kind AS text) || '-' || n), :month_start, :month_end, 3
FROM generate_series(1, CAST(:count AS integer)) AS n
"""

_LOOK = """
SELECT
    kind,
    count(*) AS accounts,
    count(*) FILTER (WHERE current_period_start = :month_start AND current_period_end = :month_end) AS in_month,
    count(*) FILTER (
        WHERE plan_code = 'free'
          AND (current_period_end IS NULL OR current_period_end < :now)
          AND current_period_start IS DISTINCT FROM :month_start
    ) AS due,
    count(counter.user_id) AS counters
FROM unnest(CAST(:kinds AS text[])) WITH ORDINALITY AS known (kind, place)
CROSS JOIN generate_series(1, CAST(:per_kind AS integer)) AS n
JOIN billing_accounts AS account ON account.user_id = md5(kind || '-' || n)
LEFT JOIN usage_counters AS counter ON counter.user_id = account.user_id AND counter.period_start = :month_start
GROUP BY kind, place
ORDER BY place
"""

# The reset makes counters of 0 pages only, so those with pages are the ones that were there before.
_CHECKSUMS = """
SELECT
    (SELECT md5(string_agg(CAST(account AS text), ' ' ORDER BY user_id))
     FROM billing_accounts AS account WHERE plan_code <> 'free') AS paid,
    (SELECT md5(string_agg(CAST(counter AS text), ' ' ORDER BY user_id, period_start))
     FROM usage_counters AS counter WHERE pages_total > 0) AS used,
    (SELECT md5(string_agg(CAST(account AS text), ' ' ORDER BY user_id)) FROM billing_accounts AS account) AS accounts,
    (SELECT md5(string_agg(CAST(counter AS text), ' ' ORDER BY user_id, period_start))
     FROM usage_counters AS counter) AS counters
"""


@dataclass(frozen=True)
class KindCounts:
    """Of one kind: accounts in all, in the calendar month, due to be moved; and counters of the month."""

    accounts: int
    in_month: int
    due: int
    counters: int


@dataclass(frozen=True)
class Checksums:
    """Of paid accounts, of counters with pages in them, and of all accounts and all counters."""

    paid: str
    used: str
    accounts: str
    counters: str


@dataclass(frozen=True)
class Observed:
    """The database at one moment."""

    kinds: dict[str, KindCounts]
    checksums: Checksums

    @property
    def due(self) -> int:
        """How many accounts are due, of all kinds."""
        return sum(counts.due for counts in self.kinds.values())

    @property
    def paid(self) -> int:
        """How many paid accounts there are."""
        return sum(counts.accounts for kind, counts in self.kinds.items() if is_paid(kind))

    @property
    def counters(self) -> int:
        """How many counters of the month there are."""
        return sum(counts.counters for counts in self.kinds.values())


def is_paid(kind: str) -> bool:
    """Whether accounts of the kind have a paid plan."""
    return kind.startswith("paid")


def add_early_counters(connection: Connection, now: datetime) -> None:
    """Let some of the accounts that are due have a counter of the new month with pages in it."""
    parameters = {**_bounds(month_of(now)), "kind": DUE_KINDS[0], "count": EARLY_COUNTERS}
    connection.execute(text(_ADD_EARLY_COUNTERS), parameters)


def observe(connection: Connection, per_kind: int, now: datetime) -> Observed:
    """Look at everything once."""
    parameters = {**_bounds(month_of(now)), "now": now, "kinds": list(KINDS), "per_kind": per_kind}
    kinds = {
        row.kind: KindCounts(row.accounts, row.in_month, row.due, row.counters)
        for row in connection.execute(text(_LOOK), parameters)
    }
    sums = connection.execute(text(_CHECKSUMS)).one()
    return Observed(kinds, Checksums(sums.paid, sums.used, sums.accounts, sums.counters))


def _bounds(month: Month) -> dict[str, datetime]:
    return {"month_start": month.start, "month_end": month.end}
