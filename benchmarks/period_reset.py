"""The monthly reset of all accounts, three ways, while another client writes; and the memory it takes."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import run_module
from benchmarks.figures import Beside, Figure
from benchmarks.side_by_side import Run, median_of, run_beside_writer

_SMALL = 10_000
_HOT = "SELECT n_tup_hot_upd::float / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'billing_accounts'"
# A backend passes its counts on once a second at most; the ways' own have by then, as they have ended.
_STATISTICS_SECONDS = 1.2


@dataclass(frozen=True)
class Sizes:
    """How much to measure."""

    accounts: int
    paid: int
    orm_accounts: int
    rounds: int


@dataclass(frozen=True)
class _Reset(Run):
    """One way, run once. `hot_share` is how many of the updates were HOT."""

    hot_share: float


def accounts_of(due: int, paid: int) -> Mapping[str, int]:
    """The mixture that is measured, by kind."""
    return {"free and due": due, "paid, in its period": paid}


def measure_reset(arena: Arena, sizes: Sizes, console: Console) -> list[Figure]:
    """Run every way in turn, some rounds, each in a fresh copy; give the figures from the medians."""
    runs: dict[str, list[_Reset]] = {"statement": [], "job": [], "orm": []}
    console.print(f"Making {sizes.accounts:,} due and {sizes.paid:,} paid accounts …")
    with arena.template("bench_accounts", accounts_of(sizes.accounts, sizes.paid)) as template:
        for number in range(sizes.rounds):
            # Turned round every second time, so that no way always comes first.
            order = tuple(runs) if number % 2 == 0 else ("job", "statement", "orm")
            for way in order:
                limit = (str(min(sizes.orm_accounts, sizes.accounts)),) if way == "orm" else ()
                run = _run(arena, template, way, *limit)
                runs[way].append(run)
                console.print(
                    f"  round {number + 1}, {way:9} {run.done:>9,} accounts in {run.told()}, HOT {run.hot_share:.0%}",
                    soft_wrap=True,
                )
    return _figures(runs, sizes)


def measure_memory(arena: Arena, sizes: Sizes, console: Console) -> list[Figure]:
    """The job's peak memory over all accounts, and over few."""
    peaks = {}
    for due in (sizes.accounts, _SMALL):
        console.print(f"Making {due:,} due accounts …")
        with arena.template("bench_memory", accounts_of(due, 0)) as template, arena.fresh(template) as url:
            peaks[due] = run_module("benchmarks.ways", "job", settings=arena.environ(url))["peak_mib"]
            console.print(f"  peak of the process: {peaks[due]:.1f} MiB")
    part = "Memory of period_reset"
    difference = peaks[sizes.accounts] - peaks[_SMALL]
    return [
        Figure(part, f"more for {sizes.accounts:,} accounts than for {_SMALL:,}", difference, "MiB", 20),
        Figure(part, f"peak for {sizes.accounts:,} accounts", peaks[sizes.accounts], "MiB"),
    ]


def _run(arena: Arena, template: str, way: str, *arguments: str) -> _Reset:
    with arena.fresh(template) as url, connected(url, autocommit=True) as watching:
        run = run_beside_writer(arena, url, "benchmarks.ways", way, *arguments)
        time.sleep(_STATISTICS_SECONDS)
        hot = watching.scalar(text(_HOT))
    return _Reset(**vars(run), hot_share=float(hot or 0))


def _figures(runs: Mapping[str, list[_Reset]], sizes: Sizes) -> list[Figure]:
    part = f"Period reset, {sizes.accounts:,} due accounts, {sizes.paid:,} paid"

    def median(way: str, attribute: str) -> float:
        return median_of(runs[way], attribute)

    def per_account(way: str) -> float:
        return statistics.median(run.seconds / max(1, run.done) for run in runs[way])

    def beside(attribute: str, unit: str, digits: int, factor: float = 1) -> Beside:
        return Beside("one statement", median("statement", attribute) * factor, unit, digits)

    ratio = median("job", "seconds") / median("statement", "seconds")
    orm = Beside(f"ORM loop, {runs['orm'][0].done:,} accounts", per_account("orm") * 1000, "ms", 2)
    return [
        Figure(part, "time", median("job", "seconds"), "s", beside=beside("seconds", "s", 1)),
        Figure(part, "time, one statement = 1", ratio, "times", 1.25, digits=2),
        Figure(
            part,
            "longest writing transaction",
            median("job", "longest_writing"),
            "s",
            0.5,
            digits=2,
            beside=beside("longest_writing", "s", 2),
        ),
        Figure(part, "another client's p99 meanwhile", median("job", "writer_p99") * 1000, "ms", 20),
        # Not its p99: a client that waits for 20 s makes few other writes, and they hide that one.
        Figure(
            part,
            "another client's longest wait",
            median("job", "writer_max") * 1000,
            "ms",
            digits=0,
            beside=beside("writer_max", "ms", 0, 1000),
        ),
        Figure(part, "time of an account", per_account("job") * 1000, "ms", digits=3, beside=orm),
        Figure(part, "faster per account than an ORM loop", per_account("orm") / per_account("job"), "times", 20, True),
        Figure(part, "longest reading transaction", median("job", "longest_reading"), "s", digits=2),
        Figure(
            part,
            "HOT share of the updates",
            median("job", "hot_share") * 100,
            "%",
            at_least=True,
            digits=0,
            beside=beside("hot_share", "%", 0, 100),
        ),
        Figure(part, "WAL", median("job", "wal_mib"), "MiB", digits=0, beside=beside("wal_mib", "MiB", 0)),
    ]
