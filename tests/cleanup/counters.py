"""Usage counters, and sessions beside the job that deletes them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text

from tests.support.database import TestDatabase

JOB = "usage_counter_cleanup"
MAY = datetime(2026, 5, 1, tzinfo=UTC)
CUTOFF = datetime(2025, 4, 1, tzinfo=UTC)
OLD = datetime(2024, 7, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
# With room for whole ranges, they go by one plain DELETE; with less, row by row.
ROOMY = {"MAX_DELETE_FLOOR": "999999999"}
BOTH_WAYS = pytest.mark.parametrize("changes", [ROOMY, {}], ids=["whole ranges", "row by row"])

ADD_USAGE = (
    "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:user, :start, :start, :pages)"
    " ON CONFLICT (user_id, period_start) DO UPDATE SET pages_total = usage_counters.pages_total + excluded.pages_total"
)


def crowd(database: TestDatabase, users: int, *starts: datetime) -> None:
    """Users who are in this month's period, each with a counter of each of these periods."""
    database.execute(
        "INSERT INTO users (id, email) SELECT 'user ' || n, 'e' || n FROM generate_series(1, :users) n", users=users
    )
    database.execute(
        "INSERT INTO billing_accounts (user_id, plan_code, current_period_start, current_period_end) "
        "SELECT id, 'free', :start, :start FROM users WHERE id LIKE 'user %'",
        start=MAY,
    )
    for start in starts:
        database.execute(
            "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) "
            "SELECT id, :start, :start, 7 FROM users WHERE id LIKE 'user %' ORDER BY length(id), id",
            start=start,
        )


def old_left(database: TestDatabase) -> int:
    """How many counters from before the cutoff there are."""
    return int(database.value("SELECT count(*) FROM usage_counters WHERE period_start < :cutoff", cutoff=CUTOFF))


@contextmanager
def open_transaction(database: TestDatabase, sql: str, **parameters: object) -> Iterator[Connection]:
    """A transaction of another session that has run a statement and is not over."""
    with database.engine.connect() as connection:
        connection.execute(text(sql), parameters)
        yield connection


def in_background(action: Callable[[], object]) -> threading.Thread:
    """Something that is done in a thread of its own."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def trigger(database: TestDatabase, body: str) -> None:
    """Let the database do this before each deletion of a counter."""
    database.script(f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN OLD; END $$")
    database.script("CREATE TRIGGER act BEFORE DELETE ON usage_counters FOR EACH ROW EXECUTE FUNCTION act()")
