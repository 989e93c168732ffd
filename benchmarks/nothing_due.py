"""A run over HTTP that finds nothing to do: what the guards cost, as Cloud Scheduler would see it."""

import http
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.figures import Figure
from devstack.serving import Served, fire
from shared.clock import SystemClock

_ACCOUNTS = {"free, not due": 1000}
_WARM_UP = 30
_REQUESTS = 300


def measure_nothing_due(arena: Arena, console: Console) -> list[Figure]:
    """Fire many slots, one after the other, at a server where no account is due; give latencies."""
    with (
        arena.template("bench_nothing_due", _ACCOUNTS) as template,
        arena.fresh(template) as url,
        tempfile.TemporaryDirectory() as folder,
        Served("period_reset", arena.environ(url), log=Path(folder, "server.log")) as served,
    ):
        first = SystemClock().now().replace(microsecond=0)
        took = []
        for number in range(_WARM_UP + _REQUESTS):
            slot = first - timedelta(minutes=number)
            began = time.perf_counter()
            status, fields, _ = fire(served.url, job="period_reset", slot=slot)
            took.append((time.perf_counter() - began) * 1000)
            if status != http.HTTPStatus.OK or fields["status"] != "completed":
                raise RuntimeError(f"the function answered {status}: {fields['message']}")
    took = sorted(took[_WARM_UP:])
    median, p95 = statistics.median(took), took[int(len(took) * 0.95)]
    console.print(f"  {_REQUESTS} runs: median {median:.1f} ms, p95 {p95:.1f} ms, least {took[0]:.1f} ms")
    part = "A run with nothing due, over HTTP, all guards"
    return [
        # The job's own two or three queries are in it, so the guards alone take less.
        Figure(part, "median of the whole request", median, "ms", 15),
        Figure(part, "p95", p95, "ms"),
    ]
