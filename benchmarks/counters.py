"""Deleting old usage counters: the job against one statement, while another client writes.

Run as `python -m benchmarks.counters WAY` with the settings of a function, it is one of the two ways and says as JSON
how long it took, how many counters it deleted, and how long its longest transactions were.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC

from rich.console import Console
from sqlalchemy import make_url, text

from benchmarks.arena import Arena, connected
from benchmarks.child import peak_mib, run_module
from benchmarks.figures import Figure
from benchmarks.timed import TimedServices
from benchmarks.writer import Writer
from functions.cleanup.months import first_of_month
from functions.registry import JOBS
from shared.clock import SystemClock
from shared.invocation import Invocation
from shared.outcome import Status
from shared.runner import run_job

_MIB = 1024 * 1024
_RETENTION_MONTHS = 13
# Each user's counters: this month's and eleven before it, which stay, and eight that are past their retention.
_KEPT, _DUE = 12, 8
_ADD_COUNTERS = """
INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
SELECT
    user_id, current_period_start - months * interval '1 month',
    current_period_start - (months - 1) * interval '1 month' - interval '1 second', 7
FROM billing_accounts, unnest(CAST(:months AS int[])) AS months
ORDER BY months DESC
"""

Measured = dict[str, float]


@dataclass(frozen=True)
class Run:
    """One way, run once."""

    seconds: float
    deleted: int
    longest_writing: float
    longest_reading: float
    peak_mib: float
    wal_mib: float
    writer_p50: float
    writer_p99: float
    writer_max: float
    writes: int


def measure_counters(arena: Arena, counters: int, rounds: int, console: Console) -> list[Figure]:
    """Run both ways in turn, some rounds, each in a fresh copy; give the figures from the medians."""
    users = max(1, counters // (_KEPT + _DUE))
    console.print(f"Making {users * (_KEPT + _DUE):,} counters of {users:,} users …")
    runs: dict[str, list[Run]] = {"statement": [], "job": []}
    with _template(arena, users) as template:
        for number in range(rounds):
            # Turned round every second time, so that neither way always comes first.
            for way in tuple(runs)[:: 1 if number % 2 == 0 else -1]:
                run = _run(arena, template, way)
                runs[way].append(run)
                if run.deleted != users * _DUE:
                    raise RuntimeError(f"the {way} deleted {run.deleted:,} of {users * _DUE:,} counters")
                console.print(
                    f"  round {number + 1}, {way:9} {run.deleted:>9,} counters in {run.seconds:5.2f} s, "
                    f"longest transaction {run.longest_writing * 1000:,.0f} ms writing, "
                    f"{run.longest_reading * 1000:,.0f} ms reading; writer p50 {run.writer_p50 * 1000:.1f} ms, "
                    f"p99 {run.writer_p99 * 1000:,.1f} ms, max {run.writer_max * 1000:,.0f} ms of {run.writes:,}; "
                    f"WAL {run.wal_mib:,.0f} MiB",
                    soft_wrap=True,
                )
    return _figures(runs, users)


@contextmanager
def _template(arena: Arena, users: int) -> Iterator[str]:
    """A database to be copied, in which the counters lie as the service made them: month after month."""
    with arena.template("bench_counters", {"free, not due": users}) as name:
        url = make_url(arena.stack.database_url).set(database=name).render_as_string(hide_password=False)
        months = [*range(1, _KEPT), *range(_RETENTION_MONTHS + 1, _RETENTION_MONTHS + 1 + _DUE)]
        with connected(url) as connection, connection.begin():
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(_ADD_COUNTERS), {"months": months})
        with connected(url, autocommit=True) as connection:
            connection.execute(text("VACUUM (ANALYZE, FREEZE)"))
        yield name


def _run(arena: Arena, template: str, way: str) -> Run:
    with arena.fresh(template) as url, connected(url, autocommit=True) as watching:
        before = watching.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))
        with Writer(url) as writer:
            since = time.monotonic()
            measured = run_module("benchmarks.counters", way, settings=arena.environ(url))
            until = time.monotonic()
        wal = watching.scalar(text("SELECT pg_current_wal_insert_lsn() - CAST(:lsn AS pg_lsn)"), {"lsn": before})
    latencies = writer.latencies(since, until)
    return Run(
        seconds=measured["seconds"],
        deleted=measured["deleted"],
        longest_writing=measured["longest_writing"],
        longest_reading=measured["longest_reading"],
        peak_mib=measured["peak_mib"],
        wal_mib=float(wal or 0) / _MIB,
        writer_p50=latencies.percentile(0.5),
        writer_p99=latencies.percentile(0.99),
        writer_max=latencies.percentile(1),
        writes=len(latencies.seconds),
    )


def _figures(runs: Mapping[str, list[Run]], users: int) -> list[Figure]:
    part = f"Deleting {users * _DUE:,} of {users * (_KEPT + _DUE):,} usage counters"

    def median(way: str, attribute: str) -> float:
        return float(statistics.median(getattr(run, attribute) for run in runs[way]))

    ratio = median("job", "seconds") / median("statement", "seconds")
    return [
        Figure(part, "time of the job, one statement = 1", ratio, "times", 1.6, digits=2),
        Figure(part, "longest writing transaction", median("job", "longest_writing") * 1000, "ms", 50, digits=0),
        Figure(part, "another client's p99 meanwhile", median("job", "writer_p99") * 1000, "ms", 20),
        Figure(part, "another client's longest wait", median("job", "writer_max") * 1000, "ms", digits=0),
        Figure(part, "the job", median("job", "seconds"), "s", digits=2),
        Figure(part, "longest reading transaction", median("job", "longest_reading") * 1000, "ms", digits=0),
        Figure(part, "peak memory", median("job", "peak_mib"), "MiB"),
        Figure(part, "WAL", median("job", "wal_mib"), "MiB", digits=0),
        Figure(part, "one statement", median("statement", "seconds"), "s", digits=2),
        Figure(part, "… WAL", median("statement", "wal_mib"), "MiB", digits=0),
    ]


def job(environ: Mapping[str, str]) -> Measured:
    """The job as it runs in production: through the runner, with every guard, on the real servers."""
    with open(os.devnull, "w", encoding="utf-8") as log:
        services = TimedServices(environ, SystemClock(), log)
        database = services.database
        now = services.clock.now().astimezone(UTC).replace(second=0, microsecond=0)
        began = time.perf_counter()
        outcome = run_job(services, JOBS["usage_counter_cleanup"], Invocation(trigger="schedule", slot=now))
        took = time.perf_counter() - began
        database.dispose()
    if outcome.status is not Status.COMPLETED:
        raise RuntimeError(outcome.message)
    longest = {f"longest_{name}": value for name, value in database.longest.items()}
    return {"seconds": took, "deleted": outcome.counts["deleted_count"], **longest}


def statement(environ: Mapping[str, str]) -> Measured:
    """One statement in one transaction, which knows nothing of accounts: the fastest that PostgreSQL can do it."""
    cutoff = first_of_month(SystemClock().now(), _RETENTION_MONTHS)
    with connected(environ["DATABASE_URL"]) as connection:
        began = time.perf_counter()
        done = connection.execute(text("DELETE FROM usage_counters WHERE period_start < :cutoff"), {"cutoff": cutoff})
        connection.commit()
        took = time.perf_counter() - began
    return {"seconds": took, "deleted": done.rowcount, "longest_writing": took, "longest_reading": 0.0}


WAYS: Mapping[str, Callable[[Mapping[str, str]], Measured]] = {"job": job, "statement": statement}


def _main(way: str) -> None:
    measured = WAYS[way]({name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL")})
    sys.stdout.write(json.dumps({**measured, "peak_mib": peak_mib()}) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
