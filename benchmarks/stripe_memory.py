"""Whether stripe_reconcile's memory grows with what waits for it."""

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.child import run_module
from benchmarks.figures import Figure
from benchmarks.stripe_marking import not_billable
from benchmarks.stripe_sending import LATENCY_SECONDS
from benchmarks.stripe_standin import StandIn
from benchmarks.stripe_usage import TAKEN_OVER, Users, paid, settings, usage_database, usage_template

_SMALL = 10_000
_ASKED = 100
_BILLED_CUSTOMERS, _EVENTS_A_CUSTOMER = 200, 10
_LIMIT = 2_000
_ALLOWED_MIB = 30


def measure_stripe_memory(arena: Arena, events: int, console: Console) -> list[Figure]:
    """The job's peak memory with few events waiting and with many: first to be marked, then to be sent."""

    def marked(count: int) -> float:
        billed = paid(_BILLED_CUSTOMERS, _EVENTS_A_CUSTOMER)
        kinds = [*not_billable(count - billed.users * billed.events, _ASKED), billed]
        return _peak(arena, kinds, f"{count:,} events, {billed.users * billed.events:,} of them to be billed", console)

    def pending(count: int) -> float:
        kinds = [paid(count // _EVENTS_A_CUSTOMER // 2, 2 * _EVENTS_A_CUSTOMER)]
        return _peak(arena, kinds, f"{count:,} events to be billed, {_LIMIT:,} of them now", console, str(_LIMIT))

    part = "Memory of stripe_reconcile"
    figures = []
    for what, peak in (("mostly not to be billed", marked), ("to be billed", pending)):
        most, few = peak(events), peak(_SMALL)
        figures += [
            Figure(part, f"more for {events:,} events than for {_SMALL:,}, {what}", most - few, "MiB", _ALLOWED_MIB),
            Figure(part, f"peak for {events:,} events, {what}", most, "MiB"),
        ]
    return figures


def _peak(arena: Arena, kinds: list[Users], what: str, console: Console, *arguments: str) -> float:
    console.print(f"Making {what} …")
    with (
        usage_template(arena, "bench_stripe_memory", kinds) as template,
        usage_database(arena, template) as url,
        StandIn(LATENCY_SECONDS) as stand_in,
    ):
        environ = settings(arena, url, stand_in, STRIPE_RATE="800", STRIPE_READ_RATE="1000", **TAKEN_OVER)
        measured = run_module("benchmarks.stripe_child", "job", *arguments, settings=environ)
    peak = float(measured["peak_mib"])
    console.print(
        f"  peak of the process: {peak:.1f} MiB, in {measured['seconds']:.1f} s; "
        f"{measured['counts']['success_count']:,} sent, {measured['counts']['not_billable_count']:,} marked; "
        f"longest transaction "
        f"{measured['longest_writing']:.2f} s writing, {measured['longest_reading']:.2f} s reading",
        soft_wrap=True,
    )
    return peak
