"""Usage to measure with: users of some sorts, each with events, made in the database by one statement a sort."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from benchmarks.arena import Arena, connected
from benchmarks.stripe_standin import StandIn
from ops.host_indexes import build_host_indexes
from ops.migrate import migrate
from shared.clock import SystemClock
from shared.database_url import database_target

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
# The service has sent identifiers for as long as matters.
TAKEN_OVER = {"STRIPE_TAKEOVER_AT": "2020-01-01T00:00:00Z"}
# What a reported event is on record with: as if the service had sent and marked it.
_SERVICES_RECORD = "CASE WHEN CAST(:is_reported AS boolean) THEN 'evt_' || md5('record' || key || '-' || place) END"

# Keys are hashes: as random in their order as the service's own ids, and the same in every run. So are the moments. The
# events stand in the order of their time, as the service writes them.
_ADD_USERS = """
WITH moments AS (
    SELECT CAST(:now AS timestamptz) AS now, date_trunc('month', CAST(:now AS timestamptz), 'UTC') AS month
), numbers AS (
    SELECT n, md5(CAST(:sort AS text) || '-' || n) AS key FROM generate_series(1, CAST(:users AS integer)) AS n
), people AS (
    INSERT INTO users (id, email, created_at, updated_at)
    SELECT key, key || '@example.com', now, now FROM numbers, moments
), accounts AS (
    INSERT INTO billing_accounts
        (user_id, plan_code, status, current_period_start, current_period_end, stripe_customer_id, updated_at)
    SELECT
        key, CASE WHEN CAST(:is_paid AS boolean) THEN 'pro' ELSE 'free' END, 'active',
        CASE WHEN CAST(:is_paid AS boolean) THEN now - (5 + mod(n, 20)) * interval '1 day' ELSE month END,
        CASE
            WHEN CAST(:is_paid AS boolean) THEN now + (25 - mod(n, 20)) * interval '1 day'
            ELSE month + interval '1 month' - interval '1 second'
        END,
        CASE WHEN CAST(:has_customer AS boolean) THEN 'cus_' || key END, now
    FROM numbers, moments
    RETURNING user_id, current_period_start, current_period_end
)
INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
SELECT user_id, current_period_start, current_period_end, 7 FROM accounts
"""

_ADD_EVENTS = f"""
INSERT INTO usage_events (id, user_id, occurred_at, source, pages, stripe_reported, stripe_record_id)
SELECT
    CAST(md5(:what || key || '-' || place) AS uuid), key,
    CAST(:now AS timestamptz) - CAST(:newest AS interval)
        - share * (CAST(:oldest AS interval) - CAST(:newest AS interval)),
    'extraction',
    CASE WHEN CAST(:has_pages AS boolean) THEN 1 + mod(7 * n + 3 * place, 19) ELSE 0 END,
    :is_reported, {_SERVICES_RECORD}
FROM (
    SELECT n, md5(CAST(:sort AS text) || '-' || n) AS key FROM generate_series(1, CAST(:users AS integer)) AS n
) AS numbers
CROSS JOIN generate_series(1, CAST(:events AS integer)) AS place
CROSS JOIN LATERAL (
    SELECT
        CAST(CAST('x' || substr(md5(:what || 'at' || key || '-' || place), 1, 7) AS bit(28)) AS integer) / 268435456.0
) AS random (share)
ORDER BY 3
"""  # noqa: S608  nothing of anybody else's is in it


@dataclass(frozen=True)
class Users:
    """Users of one sort, each with so many events, at moments between `oldest` and `newest` ago."""

    sort: str
    users: int
    events: int
    is_paid: bool = False
    has_customer: bool = False
    has_pages: bool = True
    oldest: timedelta = 10 * _DAY
    newest: timedelta = _HOUR


def paid(users: int, events: int, *, oldest: timedelta = 19 * _HOUR, newest: timedelta = _HOUR) -> Users:
    """Paying users with a customer, whose events are of their current period: to be billed."""
    return Users("paid", users, events, is_paid=True, has_customer=True, oldest=oldest, newest=newest)


def add_users(connection: Connection, kind: Users, now: datetime) -> None:
    """Add users of a sort, their accounts, counters and events."""
    parameters = {
        "sort": kind.sort,
        "users": kind.users,
        "is_paid": kind.is_paid,
        "has_customer": kind.has_customer,
        "now": now,
    }
    connection.execute(text(_ADD_USERS), parameters)
    add_events(connection, kind, now)


def add_events(
    connection: Connection, kind: Users, now: datetime, *, what: str = "", is_reported: bool = False
) -> None:
    """Add events of users that are there. `what` tells one lot of events from another."""
    parameters = {
        "what": what,
        "sort": kind.sort,
        "users": kind.users,
        "events": kind.events,
        "has_pages": kind.has_pages,
        "oldest": kind.oldest,
        "newest": kind.newest,
        "now": now,
        "is_reported": is_reported,
    }
    connection.execute(text(_ADD_EVENTS), parameters)


@contextmanager
def usage_template(arena: Arena, name: str, kinds: list[Users], *, reported: int = 0) -> Iterator[str]:
    """A database with such users, and so many reported events of others, to be copied; gives its name."""
    with arena.template(name, {}) as template:
        url = arena.url_of(template)
        now = SystemClock().now()
        with connected(url) as connection, connection.begin():
            # The rows fit together as they are made; checking a million foreign keys would take as long again.
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            if reported:
                others = Users(
                    "reported", max(1, reported // 20), 20, is_paid=True, has_customer=True, oldest=90 * _DAY
                )
                add_users(connection, replace(others, events=0), now)
                add_events(connection, others, now, is_reported=True)
            for kind in kinds:
                add_users(connection, kind, now)
        build_host_indexes(database_target({"DATABASE_URL": url}))
        with connected(url, autocommit=True) as connection:
            connection.execute(text("VACUUM (ANALYZE, FREEZE)"))
        yield template


@contextmanager
def usage_database(arena: Arena, template: str) -> Iterator[str]:
    """A copy of it that is bound to Stripe's test mode; gives its URL."""
    with arena.fresh(template) as url:
        migrate(database_target({"DATABASE_URL": url}), SystemClock().now(), livemode=False)
        yield url


def settings(arena: Arena, url: str, stand_in: StandIn, **more: str) -> Mapping[str, str]:
    """The settings of a function that works on a database here, with a stand-in."""
    return {**arena.environ(url), **stand_in.settings, **more}
