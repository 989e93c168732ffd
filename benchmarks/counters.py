"""Deleting old usage counters: the job against one statement, while another client writes.

Run as `python -m benchmarks.counters WAY` with the settings of a function, it is one of the two ways and says as JSON
how long it took, how many counters it deleted (`done`), and how long its longest transactions were.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import peak_mib
from benchmarks.figures import Beside, Figure
from benchmarks.side_by_side import Run, median_of, run_beside_writer
from benchmarks.timed import Measured, TimedServices, run_timed, timed_statement
from functions.cleanup.months import first_of_month
from shared.clock import SystemClock
from shared.outcome import Status

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
_DELETE = "DELETE FROM usage_counters WHERE period_start < :cutoff"


def measure_counters(arena: Arena, counters: int, rounds: int, console: Console) -> list[Figure]:
    """Run both ways in turn, some rounds, each in a fresh copy; give the figures from the medians."""
    users = _users(counters)
    console.print(f"Making {users * (_KEPT + _DUE):,} counters of {users:,} users …")
    runs: dict[str, list[Run]] = {"statement": [], "job": []}
    with counters_template(arena, counters) as template:
        for number in range(rounds):
            # Turned round every second time, so that neither way always comes first.
            for way in tuple(runs)[:: 1 if number % 2 == 0 else -1]:
                with arena.fresh(template) as url:
                    run = run_beside_writer(arena, url, "benchmarks.counters", way)
                runs[way].append(run)
                if run.done != users * _DUE:
                    raise RuntimeError(f"the {way} deleted {run.done:,} of {users * _DUE:,} counters")
                console.print(f"  round {number + 1}, {way:9} {run.done:>9,} counters in {run.told()}", soft_wrap=True)
    return _figures(runs, users)


@contextmanager
def counters_template(arena: Arena, counters: int) -> Iterator[str]:
    """A database to be copied with about so many counters, as the service made them: month after month."""
    users = _users(counters)
    with arena.template("bench_counters", {"free, not due": users}) as name:
        url = arena.url_of(name)
        months = [*range(1, _KEPT), *range(_RETENTION_MONTHS + 1, _RETENTION_MONTHS + 1 + _DUE)]
        with connected(url) as connection, connection.begin():
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(_ADD_COUNTERS), {"months": months})
        with connected(url, autocommit=True) as connection:
            connection.execute(text("VACUUM (ANALYZE, FREEZE)"))
        yield name


def _users(counters: int) -> int:
    return max(1, counters // (_KEPT + _DUE))


def _figures(runs: Mapping[str, list[Run]], users: int) -> list[Figure]:
    part = f"Deleting {users * _DUE:,} of {users * (_KEPT + _DUE):,} usage counters"

    def median(way: str, attribute: str) -> float:
        return median_of(runs[way], attribute)

    def beside(attribute: str, unit: str, digits: int, factor: float = 1) -> Beside:
        return Beside("one statement", median("statement", attribute) * factor, unit, digits)

    ratio = median("job", "seconds") / median("statement", "seconds")
    return [
        Figure(part, "time", median("job", "seconds"), "s", digits=2, beside=beside("seconds", "s", 2)),
        Figure(part, "time, one statement = 1", ratio, "times", 1.6, digits=2),
        Figure(
            part,
            "longest writing transaction",
            median("job", "longest_writing") * 1000,
            "ms",
            50,
            digits=0,
            beside=beside("longest_writing", "ms", 0, 1000),
        ),
        Figure(part, "another client's p99 meanwhile", median("job", "writer_p99") * 1000, "ms", 20),
        Figure(
            part,
            "another client's longest wait",
            median("job", "writer_max") * 1000,
            "ms",
            digits=0,
            beside=beside("writer_max", "ms", 0, 1000),
        ),
        Figure(part, "longest reading transaction", median("job", "longest_reading") * 1000, "ms", digits=0),
        Figure(part, "peak memory", median("job", "peak_mib"), "MiB"),
        Figure(part, "WAL", median("job", "wal_mib"), "MiB", digits=0, beside=beside("wal_mib", "MiB", 0)),
    ]


def job() -> Measured:
    """The job as it runs in production: through the runner, with every guard, on the real servers."""
    outcome, measured = run_timed(TimedServices, "usage_counter_cleanup")
    if outcome.status is not Status.COMPLETED:
        raise RuntimeError(outcome.message)
    return {**measured, "done": outcome.counts["deleted_count"]}


def statement() -> Measured:
    """One statement in one transaction, which knows nothing of accounts: the fastest that PostgreSQL can do it."""
    return timed_statement(_DELETE, cutoff=first_of_month(SystemClock().now(), _RETENTION_MONTHS))


WAYS: Mapping[str, Callable[[], Measured]] = {"job": job, "statement": statement}

if __name__ == "__main__":
    sys.stdout.write(json.dumps({**WAYS[sys.argv[1]](), "peak_mib": peak_mib()}) + "\n")
