"""Memory of each function's own process, served by functions-framework, after one large run over HTTP."""

import contextlib
import http
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.child import memory_mib
from benchmarks.counters import counters_template
from benchmarks.figures import Figure
from benchmarks.runs import ONE_DUE_OF, runs_template
from benchmarks.storage_standin import ListedBucket
from benchmarks.stripe_marking import not_billable
from benchmarks.stripe_sending import LATENCY_SECONDS
from benchmarks.stripe_standin import StandIn
from benchmarks.stripe_usage import TAKEN_OVER, paid, settings, usage_database, usage_template
from benchmarks.sweep import sweep_template
from devstack.serving import Served, fire
from shared.clock import SystemClock

_ALLOWED_MIB = 128
_BUCKET = "bench-large"
_PATIENCE_SECONDS = 1_800
# As Cloud Scheduler and Cloud Tasks do: what does not fit into one attempt goes on in the next.
_MOST_ATTEMPTS = 20
_ASKED = 100
_CUSTOMERS = 2_000


@dataclass(frozen=True)
class LargeSizes:
    """How large the runs are: all that is there, of which a job takes its share."""

    accounts: int
    events: int
    to_send: int
    counters: int
    runs: int
    objects: int


@dataclass(frozen=True)
class _Large:
    """A large run: what it does in words, the settings that it has, and the count that says that it was done."""

    job: str
    what: str
    count: str
    settings: Callable[[], AbstractContextManager[Mapping[str, str]]]


def measure_large_runs(arena: Arena, sizes: LargeSizes, console: Console) -> list[Figure]:
    """Fire one large run of each function, and look at its process then."""
    figures = []
    part = "Memory of a function's process, one large run over HTTP"
    for large in _larges(arena, sizes):
        console.print(f"Making the data of {large.job}: {large.what} …")
        with large.settings() as environ, tempfile.TemporaryDirectory() as folder:
            after, peak, both, done = _run(large, environ, Path(folder, "server.log"))
        console.print(f"  {done:,} {large.count}: {after:.1f} MiB after it, {peak:.1f} MiB at the peak")
        name = f"{large.job}, after it: {large.what}"
        figures += [
            Figure(part, name, after, "MiB", _ALLOWED_MIB),
            Figure(part, f"{large.job}, at its peak", peak, "MiB", _ALLOWED_MIB),
            Figure(part, f"{large.job}, with gunicorn's master beside it", both, "MiB"),
        ]
    return figures


def _run(large: _Large, environ: Mapping[str, str], log: Path) -> tuple[float, float, float, int]:
    slot = SystemClock().now().replace(microsecond=0)
    with Served(large.job, environ, log=log) as served:
        for _ in range(_MOST_ATTEMPTS):
            status, fields, _ = fire(served.url, job=large.job, slot=slot, timeout=_PATIENCE_SECONDS)
            if fields.get("status") != "incomplete":
                break
        worker = served.worker_pid()
        told = memory_mib("VmRSS", worker), memory_mib("VmHWM", worker), memory_mib("VmRSS", served.pid)
    if status != http.HTTPStatus.OK or fields["status"] != "completed":
        raise RuntimeError(f"{large.job} answered {status}: {fields}")
    if None in told:
        raise RuntimeError("This machine does not tell how much memory another process has.")
    after, peak, master = (value or 0.0 for value in told)
    return after, peak, after + master, int(fields[large.count])


def _larges(arena: Arena, sizes: LargeSizes) -> list[_Large]:
    @contextlib.contextmanager
    def accounts() -> Iterator[Mapping[str, str]]:
        with arena.template("bench_large", {"free and due": sizes.accounts}) as name, arena.fresh(name) as url:
            yield arena.environ(url)

    @contextlib.contextmanager
    def usage() -> Iterator[Mapping[str, str]]:
        customers = min(_CUSTOMERS, sizes.to_send)
        billed = paid(customers, sizes.to_send // customers)
        kinds = [*not_billable(sizes.events - sizes.to_send, _ASKED), billed]
        with (
            usage_template(arena, "bench_large", kinds) as name,
            usage_database(arena, name) as url,
            StandIn(LATENCY_SECONDS) as stand_in,
        ):
            yield settings(arena, url, stand_in, STRIPE_RATE="800", STRIPE_READ_RATE="1000", **TAKEN_OVER)

    @contextlib.contextmanager
    def counters() -> Iterator[Mapping[str, str]]:
        with counters_template(arena, sizes.counters) as name, arena.fresh(name) as url:
            yield arena.environ(url)

    @contextlib.contextmanager
    def runs() -> Iterator[Mapping[str, str]]:
        with runs_template(arena, "bench_large", sizes.runs) as name, in_bucket(name, 1) as environ:
            yield environ

    @contextlib.contextmanager
    def objects() -> Iterator[Mapping[str, str]]:
        with sweep_template(arena, sizes.objects) as name, in_bucket(name, sizes.objects) as environ:
            yield environ

    @contextlib.contextmanager
    def in_bucket(template: str, listed: int) -> Iterator[Mapping[str, str]]:
        with ListedBucket(listed) as server, arena.fresh(template, bucket=_BUCKET) as url:
            yield {**arena.environ(url), "GCS_BUCKET_NAME": _BUCKET, "STORAGE_EMULATOR_HOST": server.url}

    erased = f"{sizes.runs // ONE_DUE_OF:,} of {sizes.runs:,} runs erased"
    return [
        _Large("period_reset", f"{sizes.accounts:,} accounts due", "updated_count", accounts),
        _Large(
            "stripe_reconcile",
            f"{sizes.events:,} events waiting, {sizes.to_send:,} to send",
            "success_count",
            usage,
        ),
        _Large("usage_counter_cleanup", f"two fifths of {sizes.counters:,} counters go", "deleted_count", counters),
        _Large("abandoned_cleanup", erased, "jobs_cleaned", runs),
        _Large("opt_out_cleanup", erased, "jobs_cleaned", runs),
        _Large("artifact_cleanup", f"{sizes.objects:,} objects listed", "artifacts_cleaned", objects),
    ]
