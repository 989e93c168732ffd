"""How fast stripe_reconcile sends where Stripe takes its time to answer, and what the SDK does by itself."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.child import run_module
from benchmarks.figures import Beside, Figure
from benchmarks.stripe_standin import StandIn
from benchmarks.stripe_usage import TAKEN_OVER, paid, settings, usage_database, usage_template

LATENCY_SECONDS = 0.1
_RATE = 800
_OF_RATE = 0.95
_CUSTOMERS = 2_000
_BARE_EVENTS = 9_600


@dataclass(frozen=True)
class _Run:
    rate: float
    worst_second: int
    ms_an_event: float
    measured: Mapping[str, Any]


def measure_sending(arena: Arena, events: int, rounds: int, console: Console) -> list[Figure]:
    """Send all events of some hundred customers, some times; beside each, the bare loop."""
    runs: list[_Run] = []
    bare: list[tuple[float, float]] = []
    console.print(f"Making {events:,} events to be billed, of {_CUSTOMERS} customers …")
    with usage_template(arena, "bench_sending", [paid(_CUSTOMERS, events // _CUSTOMERS)]) as template:
        for number in range(rounds):
            with StandIn(LATENCY_SECONDS) as stand_in, usage_database(arena, template) as url:
                runs.append(_send(settings(arena, url, stand_in, STRIPE_RATE=str(_RATE), **TAKEN_OVER), stand_in))
            with StandIn(LATENCY_SECONDS) as stand_in:
                told = run_module(
                    "benchmarks.stripe_child", "bare", str(_BARE_EVENTS), str(_CUSTOMERS), settings=stand_in.settings
                )
                bare.append((_sustained(stand_in)[0], told["cpu_seconds"] * 1000 / told["events"]))
            run = runs[-1]
            console.print(
                f"  round {number + 1}: {run.rate:.0f} events a second, {run.worst_second} in the worst; "
                f"{run.ms_an_event:.2f} ms of CPU an event; in all {run.measured['seconds']:.1f} s, "
                f"longest transaction {run.measured['longest_writing']:.2f} s; "
                f"bare loop {bare[-1][0]:.0f} a second, {bare[-1][1]:.2f} ms an event",
                soft_wrap=True,
            )
    part = f"Sending {events:,} events, STRIPE_RATE {_RATE}, answers after {LATENCY_SECONDS * 1000:.0f} ms"
    rate = statistics.median(run.rate for run in runs)
    loop = "bare SDK, 128 threads, no database"
    return [
        Figure(
            part,
            "sustained, events a second",
            rate,
            "/s",
            _OF_RATE * _RATE,
            at_least=True,
            digits=0,
            beside=Beside(loop, statistics.median(rate for rate, _ in bare), "/s", 0),
        ),
        Figure(part, "worst second of all", min(run.worst_second for run in runs), "/s", at_least=True, digits=0),
        Figure(
            part,
            "CPU time an event",
            statistics.median(run.ms_an_event for run in runs),
            "ms",
            digits=2,
            beside=Beside(loop, statistics.median(ms for _, ms in bare), "ms", 2),
        ),
        Figure(part, "peak memory", statistics.median(run.measured["peak_mib"] for run in runs), "MiB"),
        Figure(
            part,
            "longest writing transaction",
            statistics.median(run.measured["longest_writing"] for run in runs),
            "s",
            digits=2,
        ),
    ]


def _send(environ: Mapping[str, str], stand_in: StandIn) -> _Run:
    measured = run_module("benchmarks.stripe_child", "job", settings=environ)
    sent = measured["counts"]["success_count"]
    received = sum(stand_in.received_per_second().values())
    if not sent == received == measured["counts"]["retry_count"]:
        raise RuntimeError(f"the job says that it sent {sent} events, and Stripe has {received}")
    rate, worst = _sustained(stand_in)
    return _Run(rate, worst, measured["cpu_seconds"] * 1000 / sent, measured)


def _sustained(stand_in: StandIn) -> tuple[float, int]:
    """Events a second between the first and the last second in which any came, and the fewest in any of them."""
    seconds = stand_in.received_per_second()
    between = [seconds.get(second, 0) for second in range(min(seconds) + 1, max(seconds))]
    return statistics.mean(between), min(between)
