"""Accounts of every kind that period_reset meets, made in the database by one statement a kind.

Used by the demo, the tests and the benchmarks. All times are relative to one given moment.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, text

# Plan, status, start and end of the period, customer at Stripe. `month` is the first second of the moment's month
# (UTC); a free period ends with its month's last whole second.
_KINDS: Mapping[str, str] = {
    "free and due": "'free', 'active', month - interval '1 month', month - interval '1 second', NULL",
    "free, not due": "'free', 'active', month, month + interval '1 month' - interval '1 second', NULL",
    "free, no period yet": "'free', 'active', CAST(NULL AS timestamptz), CAST(NULL AS timestamptz), NULL",
    "free, months behind": "'free', 'active', month - interval '5 months', month - interval '4 months 1 second', NULL",
    "free, canceled": "'free', 'canceled', month - interval '1 month', month - interval '1 second', 'cus_' || n",
    "paid, in its period": "'pro', 'active', now - interval '10 days', now + interval '20 days', 'cus_' || n",
    "paid, past its period": "'basic', 'past_due', now - interval '35 days', now - interval '5 days', 'cus_' || n",
    "paid, canceled": "'basic', 'canceled', now - interval '40 days', now - interval '10 days', 'cus_' || n",
}
KINDS = tuple(_KINDS)
DUE_KINDS = ("free and due", "free, no period yet", "free, months behind", "free, canceled")
STALE_PAID_KINDS = ("paid, past its period", "paid, canceled")

_ADD_PLANS = """
INSERT INTO subscription_plans (code, display_name, pages_included, automations_limit, overage_cents)
VALUES ('free', 'Free', 10, 1, 0), ('basic', 'Basic', 500, 5, 5), ('pro', 'Pro', 5000, 20, 3)
ON CONFLICT DO NOTHING
"""

# The key is a hash: as random in its order as the service's own ids, and the same in every run.
_ADD_ACCOUNTS = """
WITH moments AS (
    SELECT CAST(:now AS timestamptz) AS now, date_trunc('month', CAST(:now AS timestamptz), 'UTC') AS month
), numbers AS (
    SELECT n, md5(:kind || n) AS key FROM generate_series(1, CAST(:count AS integer)) AS n
), people AS (
    INSERT INTO users (id, email, created_at, updated_at)
    SELECT key, key || '@example.com', now, now FROM numbers, moments
), accounts AS (
    INSERT INTO billing_accounts
        (user_id, plan_code, status, current_period_start, current_period_end, stripe_customer_id, updated_at)
    SELECT key, {account}, now - interval '40 days' FROM numbers, moments
    RETURNING user_id, current_period_start, current_period_end
)
INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
SELECT user_id, current_period_start, current_period_end, 7 FROM accounts WHERE current_period_start IS NOT NULL
"""


def add_plans(connection: Connection) -> None:
    """Add the service's three plans, unless they are there."""
    connection.execute(text(_ADD_PLANS))


def add_accounts(connection: Connection, kind: str, count: int, now: datetime) -> None:
    """Add `count` users with an account of the kind (one of KINDS); those with a period have 7 pages used in it."""
    statement = _ADD_ACCOUNTS.format(account=_KINDS[kind])
    connection.execute(text(statement), {"kind": f"{kind}-", "count": count, "now": now})
