"""`python -m benchmarks.scaling`: how the cost of each job grows with what there is, from 10⁴ on by factors of ten.

Each size is one run of the job, alone on its server, in a fresh database. A job's next size is left out where it would
take, by what the last one took, more than the time that is given, or more than half of the disk that is free. What was
measured goes into docs/assets/scaling.json; the tables and plots of docs/scaling.md are made of that (`--render` makes
them without measuring).
"""

import contextlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial

import click
from rich.console import Console
from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import REPOSITORY, run_module
from benchmarks.counters import counters_template
from benchmarks.figures import commit
from benchmarks.runs import runs_template
from benchmarks.scaling_data import FILE, Curve, Point, read_curves
from benchmarks.scaling_page import render
from benchmarks.stripe_marking import not_billable
from benchmarks.stripe_sending import LATENCY_SECONDS
from benchmarks.stripe_standin import StandIn
from benchmarks.stripe_usage import TAKEN_OVER, paid, settings, usage_database, usage_template
from devstack.stack import Stack, terminated_cleanly

_MIB = 1024 * 1024
_FIRST, _TIMES = 10_000, 10
_BUCKET = "bench-files"
_ASKED, _CUSTOMERS = 100, 2_000

Settings = Mapping[str, str]


@dataclass(frozen=True)
class _Work:
    """A job to measure: what its sizes count, how its process is run, and how its data is made for a size."""

    key: str
    module: str
    way: str
    data: Callable[[Arena, int], AbstractContextManager[tuple[str, Settings]]]


@contextlib.contextmanager
def _accounts(arena: Arena, size: int) -> Iterator[tuple[str, Settings]]:
    kinds = {"free and due": size, "paid, in its period": size // 10}
    with arena.template("bench_scaling", kinds) as name, arena.fresh(name) as url:
        yield url, arena.environ(url)


@contextlib.contextmanager
def _counters(arena: Arena, size: int) -> Iterator[tuple[str, Settings]]:
    with counters_template(arena, size) as name, arena.fresh(name) as url:
        yield url, arena.environ(url)


@contextlib.contextmanager
def _runs(arena: Arena, size: int) -> Iterator[tuple[str, Settings]]:
    with runs_template(arena, "bench_scaling", size) as name, arena.fresh(name, bucket=_BUCKET) as url:
        yield url, {**arena.environ(url), "GCS_BUCKET_NAME": _BUCKET}


@contextlib.contextmanager
def _usage(arena: Arena, size: int, *, billed: bool) -> Iterator[tuple[str, Settings]]:
    kinds = [paid(_CUSTOMERS, size // _CUSTOMERS)] if billed else not_billable(size, _ASKED)
    with (
        usage_template(arena, "bench_scaling", kinds) as name,
        usage_database(arena, name) as url,
        StandIn(LATENCY_SECONDS if billed else 0) as stand_in,
    ):
        yield url, settings(arena, url, stand_in, STRIPE_RATE="800", STRIPE_READ_RATE="1000", **TAKEN_OVER)


_WORKS = (
    _Work("period-reset", "benchmarks.ways", "job", _accounts),
    _Work("counters", "benchmarks.counters", "job", _counters),
    _Work("erasure", "benchmarks.erasure", "opt_out_cleanup", _runs),
    _Work("reconcile", "benchmarks.stripe_child", "job", partial(_usage, billed=False)),
    _Work("sending", "benchmarks.stripe_child", "job", partial(_usage, billed=True)),
)
_KEYS = tuple(work.key for work in _WORKS)


@click.command()
@click.argument("jobs", nargs=-1, type=click.Choice(_KEYS))
@click.option("--largest", default=10_000_000, show_default=True, help="No size beyond this.")
@click.option("--minutes", default=10.0, show_default=True, help="No size that would take longer, its data included.")
@click.option("--render", "only_render", is_flag=True, help="Measure nothing: make tables and plots of what there is.")
@click.option("--dry", is_flag=True, help="Measure and print, and write nothing.")
def main(jobs: tuple[str, ...], largest: int, minutes: float, only_render: bool, dry: bool) -> None:
    """Measure JOBS (all, if none is named) and write docs/scaling.md's tables and plots anew.

    Example: python -m benchmarks.scaling counters --largest 100000 --dry
    """
    console = Console(highlight=False)
    if not only_render:
        with terminated_cleanly(), Stack({}) as stack:
            for work in _WORKS:
                if not jobs or work.key in jobs:
                    console.rule(work.key, align="left")
                    curve = _measure(Arena(stack), work, largest, minutes * 60, console)
                    if not dry:
                        _write(curve)
    if not dry:
        render()


def _measure(arena: Arena, work: _Work, largest: int, seconds: float, console: Console) -> Curve:
    points: list[Point] = []
    size = _FIRST
    while size <= largest:
        free = shutil.disk_usage(REPOSITORY).free
        began = time.monotonic()
        point, used = _point(arena, work, size)
        took = time.monotonic() - began
        points.append(point)
        console.print(
            f"  {size:>10,}: {point.done:,} treated in {point.seconds:.1f} s, {point.client_cpu_seconds:.1f} s our "
            f"CPU; longest transaction {point.longest_writing:.2f} s writing, {point.longest_reading:.2f} s reading; "
            f"peak {point.peak_mib:.1f} MiB; WAL {point.wal_mib:,.0f} MiB; with its data {took:.0f} s",
            soft_wrap=True,
        )
        if took * _TIMES > seconds or used * _TIMES > free / 2:
            break
        size *= _TIMES
    return Curve(work.key, commit() or "", datetime.now(UTC).date().isoformat(), tuple(points))


def _point(arena: Arena, work: _Work, size: int) -> tuple[Point, int]:
    """Measure one size; also how many bytes of disk it took in the end."""
    free = shutil.disk_usage(REPOSITORY).free
    with work.data(arena, size) as (url, environ), connected(url, autocommit=True) as watching:
        before = watching.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))
        told = run_module(work.module, work.way, settings=environ)
        wal = watching.scalar(text("SELECT pg_current_wal_insert_lsn() - CAST(:lsn AS pg_lsn)"), {"lsn": before})
        used = max(0, free - shutil.disk_usage(REPOSITORY).free)
    counts = told.get("counts", {})
    done = told.get("done", counts.get("not_billable_count", 0) + counts.get("success_count", 0))
    if told.get("status", "completed") != "completed":
        raise RuntimeError(f"{work.key} at {size:,} ended as {told['status']}")
    return Point(
        size=size,
        done=int(done),
        seconds=told["seconds"],
        longest_writing=told["longest_writing"],
        longest_reading=told["longest_reading"],
        peak_mib=told["peak_mib"],
        wal_mib=float(wal or 0) / _MIB,
        client_cpu_seconds=told["cpu_seconds"],
    ), used


def _write(curve: Curve) -> None:
    """Put a curve in the place of its older one."""
    known = {each.key: each for each in read_curves()} if FILE.exists() else {}
    known[curve.key] = curve
    report = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "curves": [asdict(known[key]) for key in _KEYS if key in known],
    }
    FILE.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.scaling")
