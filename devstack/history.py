"""A month of made-up history in our own schema: for the operators' page, and for tests that need a lived-in database.

    seed_month(database_url, now)               # what a month of six jobs leaves behind, the same in each run
    seed_runs(database_url, now, 100_000)       # a long ledger, before whatever there is already

Both want a database that `python -m ops migrate` has made, and write nothing but the schema `maintenance`.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from devstack.history_figures import figures
from devstack.history_runs import runs_of
from devstack.history_things import Things
from functions.registry import JOBS
from ops.engine import make_engine, translated_from_engine
from shared.clock import format_rfc3339
from shared.database_url import database_target

_FEWEST_DAYS = 14
_LEDGER_DAYS = 400
_VARIANTS = 16
_SEED = 6

_FIRST_START = "SELECT coalesce(min(started_at), CAST(:now AS timestamptz)) FROM maintenance.runs"
_IDENTITY = "SELECT bucket, erasure_key FROM maintenance.identity"
_BOUND_SINCE = "UPDATE maintenance.identity SET bound_at = least(bound_at, CAST(:since AS timestamptz))"
_PAUSE = """
INSERT INTO maintenance.controls (job, paused_until, by, why) VALUES (:job, :paused_until, :by, :why)
ON CONFLICT (job) DO UPDATE SET paused_until = excluded.paused_until, by = excluded.by, why = excluded.why
"""
_FENCES = """
INSERT INTO maintenance.fences AS fence (job, shard, run_id)
SELECT job, shard, max(id) FROM maintenance.runs WHERE NOT dry_run GROUP BY job, shard
ON CONFLICT (job, shard) DO UPDATE SET run_id = greatest(fence.run_id, excluded.run_id)
"""
# One run in 20 did not end well; each job comes in its turn.
_LEDGER = """
INSERT INTO maintenance.runs
    (job, slot, trigger, status, dry_run, started_at, finished_at, deadline_at, counts, message, revision)
SELECT
    job, CASE WHEN trigger = 'schedule' THEN began - interval '2 seconds' END, trigger, status, false, began,
    began + (5 + mod(n, 97)) * interval '1 second', began + interval '1650 seconds', counts,
    'Run ' || n || ' of a long ledger: ' || status, 'maintenance-00001-old'
FROM (
    SELECT
        n, CAST(:since AS timestamptz) + n * CAST(:step AS interval) AS began,
        (CAST(:jobs AS text[]))[1 + mod(n, CAST(:job_count AS integer))] AS job,
        CASE WHEN mod(n, 40) = 39 THEN 'cli' ELSE 'schedule' END AS trigger,
        CASE WHEN mod(n, 20) = 13
            THEN (ARRAY['incomplete', 'failed', 'unavailable', 'lost'])[1 + mod(n / 20, 4)]
            ELSE 'completed' END AS status,
        CAST((CAST(:counts AS text[]))[
            1 + mod(n, CAST(:job_count AS integer)) * CAST(:variants AS integer)
            + mod(n / 7, CAST(:variants AS integer))
        ] AS jsonb) AS counts
    FROM generate_series(0, CAST(:count AS integer) - 1) AS n
) AS numbered
ORDER BY n
"""


def seed_month(database_url: str, now: datetime, days: int = 31) -> None:
    """Add what `days` of work up to `now` leave behind: runs, sends, drift, erasures, holds, actions, a pause.

    From one moment, it is the same each time but for the users' hashes. Raises ValueError for fewer than 14 days, or
    for a database that is bound to no environment, and MaintenanceError where the database cannot be used.
    """
    if days < _FEWEST_DAYS:
        raise ValueError(f"A history has {_FEWEST_DAYS} days at least, not {days}.")
    with _connected(database_url) as connection:
        identity = connection.execute(text(_IDENTITY)).one_or_none()
        if identity is None:
            raise ValueError("The database is bound to no environment yet. Run `python -m ops migrate`.")
        rng = random.Random(_SEED)  # noqa: S311  the same history each time is wanted
        runs = runs_of(rng, now, days)
        ids = _insert(connection, "runs", runs)
        recorded = [{**run, "id": number} for run, number in zip(runs, ids, strict=True)]
        things = Things(rng, now, days, identity.bucket or "documents", bytes(identity.erasure_key), recorded)
        _insert(connection, "meter_sends", things.sends())
        _insert(connection, "drift", things.drift())
        erasures = things.erasures()
        numbers = _insert(connection, "erasures", erasures)
        _insert(connection, "object_deletions", things.objects(erasures, numbers))
        holds = things.holds()
        _insert(connection, "operator_actions", things.actions(_insert(connection, "holds", holds)))
        connection.execute(text(_PAUSE), things.pause())
        connection.execute(text(_FENCES))
        connection.execute(text(_BOUND_SINCE), {"since": now - timedelta(days=days)})
        _analyze(connection)


def seed_runs(database_url: str, now: datetime, count: int = 100_000) -> None:
    """Add `count` runs of all jobs over 400 days, up to `now` or to the first run that there is, in seconds.

    Raises MaintenanceError where the database cannot be used.
    """
    rng = random.Random(_SEED)  # noqa: S311  the same history each time is wanted
    counts = [
        json.dumps(figures(job, **{name: rng.randrange(0, 200) for name in (*job.counts, *job.gauges)}))
        for job in JOBS.values()
        for _ in range(_VARIANTS)
    ]
    with _connected(database_url) as connection:
        until = connection.execute(text(_FIRST_START), {"now": now}).scalar_one()
        # The last one ends before what comes after it.
        step = timedelta(days=_LEDGER_DAYS) / max(1, count)
        connection.execute(
            text(_LEDGER),
            {
                "since": until - timedelta(days=_LEDGER_DAYS, minutes=5),
                "step": step,
                "jobs": list(JOBS),
                "job_count": len(JOBS),
                "counts": counts,
                "variants": _VARIANTS,
                "count": count,
            },
        )
        connection.execute(text(_FENCES))
        _analyze(connection)


@contextlib.contextmanager
def _connected(database_url: str) -> Iterator[Connection]:
    """One transaction, with times in UTC."""
    target = database_target({"DATABASE_URL": database_url})
    engine = make_engine(target, {"TimeZone": "UTC"})
    try:
        with translated_from_engine(target), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _analyze(connection: Connection) -> None:
    """Let PostgreSQL know what there is now, as autovacuum would in a while."""
    for table in ("runs", "meter_sends", "drift", "erasures", "object_deletions"):
        connection.execute(text(f"ANALYZE maintenance.{table}"))


def _insert(connection: Connection, table: str, rows: Sequence[Mapping[str, object]]) -> Sequence[int]:
    """Add rows of the same columns to a table of ours, in one statement; give their ids, if it has ids."""
    columns = ", ".join(rows[0])
    statement = (
        f"INSERT INTO maintenance.{table} ({columns}) SELECT {columns} "  # noqa: S608  names from this package
        f"FROM jsonb_populate_recordset(CAST(NULL AS maintenance.{table}), CAST(:rows AS jsonb))"
    )
    if table == "meter_sends":
        connection.execute(text(statement), {"rows": _as_json(rows)})
        return []
    return list(connection.execute(text(f"{statement} RETURNING id"), {"rows": _as_json(rows)}).scalars())


def _as_json(rows: Sequence[Mapping[str, object]]) -> str:
    return json.dumps(rows, default=format_rfc3339)
