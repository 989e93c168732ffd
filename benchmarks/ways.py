"""Three ways to reset the periods of all due accounts: the job, one statement, and a loop over ORM objects.

Run as `python -m benchmarks.ways WAY [LIMIT]` with the settings of a function; says as JSON how long it took, how many
accounts it moved (`done`), how long its longest transaction was, and the process's peak memory.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session, registry

from benchmarks.arena import connected
from benchmarks.child import peak_mib
from benchmarks.timed import TimedServices, run_timed
from functions.period_reset.month import month_of
from shared import tables
from shared.clock import SystemClock
from shared.outcome import Status

_ONE_STATEMENT = """
WITH moved AS (
    UPDATE billing_accounts
    SET current_period_start = :month_start, current_period_end = :month_end, updated_at = :now
    WHERE plan_code = 'free' AND (current_period_end IS NULL OR current_period_end < :now)
    RETURNING user_id
), counters AS (
    INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
    SELECT user_id, :month_start, :month_end, 0 FROM moved
    ON CONFLICT (user_id, period_start) DO NOTHING
)
SELECT count(*) FROM moved
"""

Measured = dict[str, float]


def job(_environ: Mapping[str, str], _limit: int | None) -> Measured:
    """The job as it runs in production: through the runner, with every guard, on the real servers."""
    outcome, measured = run_timed(TimedServices, "period_reset")
    if outcome.status is not Status.COMPLETED:
        raise RuntimeError(outcome.message)
    return {**measured, "done": outcome.counts["updated_count"]}


def statement(environ: Mapping[str, str], _limit: int | None) -> Measured:
    """One statement in one transaction: the fastest that PostgreSQL can do it."""
    now = SystemClock().now()
    month = month_of(now)
    with connected(environ["DATABASE_URL"]) as connection:
        began = time.perf_counter()
        parameters = {"month_start": month.start, "month_end": month.end, "now": now}
        moved = connection.execute(text(_ONE_STATEMENT), parameters).scalar_one()
        connection.commit()
        took = time.perf_counter() - began
    return {"seconds": took, "done": moved, "longest_writing": took, "longest_reading": 0.0}


def orm(environ: Mapping[str, str], limit: int | None) -> Measured:
    """The straightforward loop: load the due accounts, set their attributes, get or create each counter, commit."""
    mapper = registry()

    class Account:
        """A row of billing_accounts."""

    class Counter:
        """A row of usage_counters."""

    mapper.map_imperatively(Account, tables.billing_accounts)
    mapper.map_imperatively(Counter, tables.usage_counters)
    columns = tables.billing_accounts.c
    now = SystemClock().now()
    month = month_of(now)
    due = (
        select(Account)
        .where(columns.plan_code == "free")
        .where(or_(columns.current_period_end.is_(None), columns.current_period_end < now))
        .limit(limit)
    )
    with connected(environ["DATABASE_URL"]) as connection, Session(connection) as session:
        session.scalar(select(func.now()))
        began = time.perf_counter()
        accounts = session.scalars(due).all()
        for account in accounts:
            values = {"current_period_start": month.start, "current_period_end": month.end, "updated_at": now}
            for name, value in values.items():
                setattr(account, name, value)
            user_id = account.user_id  # type: ignore[attr-defined]  # mapped when this runs
            if session.get(Counter, (user_id, month.start)) is None:
                counter = Counter()
                key = {"user_id": user_id, "period_start": month.start}
                for name, value in {**key, "period_end": month.end, "pages_total": 0}.items():
                    setattr(counter, name, value)
                session.add(counter)
        session.commit()
        took = time.perf_counter() - began
    return {"seconds": took, "done": len(accounts), "longest_writing": took, "longest_reading": 0.0}


WAYS: Mapping[str, Callable[[Mapping[str, str], int | None], Measured]] = {
    "job": job,
    "statement": statement,
    "orm": orm,
}


def _main(way: str, limit: str | None = None) -> None:
    environ = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL")}
    measured = WAYS[way](environ, None if limit is None else int(limit))
    sys.stdout.write(json.dumps({**measured, "peak_mib": peak_mib()}) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
