"""Cold starts: from the start of a function's process to the answer of its first firing, beside a bare hello world.

The firing is a whole one, with every guard, on real servers, and finds nothing to do.
"""

import contextlib
import http
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console

from benchmarks import hello
from benchmarks.arena import Arena
from benchmarks.figures import Beside, Figure
from benchmarks.stripe_standin import StandIn
from benchmarks.stripe_usage import settings as stripe_settings
from devstack.buckets import create_bucket
from devstack.serving import Served, fire
from functions.registry import JOBS
from ops.host_indexes import build_host_indexes
from ops.migrate import migrate
from shared.clock import SystemClock
from shared.database_url import database_target

_BARE = "hello"
_BUCKET = "bench-cold-start"
_PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.002
_PLAIN_LIMIT, _WITH_CLIENTS_LIMIT = 2.5, 3.5
_CLIENTS = {"stripe", "gcs"}


def measure_cold_starts(arena: Arena, starts: int, console: Console) -> list[Figure]:
    """Start every function and the bare one in turn, so often; give the medians."""
    took: dict[str, list[float]] = {name: [] for name in (_BARE, *JOBS)}
    first = SystemClock().now().replace(microsecond=0)
    with _settings(arena) as settings, tempfile.TemporaryDirectory() as folder:
        for number in range(starts + 1):
            for name, measured in took.items():
                seconds = _start(name, settings, Path(folder, f"{name}.log"), first - timedelta(minutes=number))
                if number:  # the first time, files are read and compiled
                    measured.append(seconds)
    medians = {name: statistics.median(measured) * 1000 for name, measured in took.items()}
    part = "Cold start: from the process's start to its first answer"
    beside = Beside("functions-framework, hello world", medians[_BARE], "ms", 0)
    figures = []
    for name, job in JOBS.items():
        limit = _WITH_CLIENTS_LIMIT if _CLIENTS & set(job.needs) else _PLAIN_LIMIT
        console.print(f"  {name}: {medians[name]:.0f} ms, hello world {medians[_BARE]:.0f} ms")
        figures += [
            Figure(part, name, medians[name], "ms", digits=0, beside=beside),
            Figure(part, f"{name}, hello world = 1", medians[name] / medians[_BARE], "times", limit, digits=2),
        ]
    return figures


@contextlib.contextmanager
def _settings(arena: Arena) -> Iterator[Mapping[str, str]]:
    """The settings of all functions, on an empty database, an empty bucket, and Stripe's stand-in."""
    create_bucket(arena.stack.gcs_url, _BUCKET)
    with (
        arena.template("bench_cold_start", {"free, not due": 1}) as template,
        arena.fresh(template, bucket=_BUCKET) as url,
        StandIn(0) as stand_in,
    ):
        target = database_target({"DATABASE_URL": url})
        build_host_indexes(target)
        migrate(target, SystemClock().now(), livemode=False)
        storage = {"GCS_BUCKET_NAME": _BUCKET, "STORAGE_EMULATOR_HOST": arena.stack.gcs_url}
        yield stripe_settings(arena, url, stand_in, **storage)


class _Starting(Served):
    """A server that nobody waits for: the first request does."""

    def _is_up(self, _deadline: float) -> bool:
        return True


def _start(name: str, settings: Mapping[str, str], log: Path, slot: datetime) -> float:
    source = Path(hello.__file__) if name == _BARE else None
    began = time.perf_counter()
    with _Starting(name, settings, log=log, source=source) as served:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                status, fields, _ = fire(served.url, job=name, slot=slot)
                break
            if time.perf_counter() - began > _PATIENCE_SECONDS or served.process.poll() is not None:
                raise RuntimeError(f"{name} did not start: {log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - began
    if status != http.HTTPStatus.OK:
        raise RuntimeError(f"{name} answered {status}: {fields}")
    return seconds
