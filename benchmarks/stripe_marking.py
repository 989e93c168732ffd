"""Usage that is not to be billed: how fast it is found and marked, and whether finding it reads more than it must."""

import json
import time
from datetime import UTC, datetime, timedelta

from rich.console import Console
from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import run_module
from benchmarks.figures import Figure
from benchmarks.stripe_standin import StandIn
from benchmarks.stripe_usage import TAKEN_OVER, Users, settings, usage_database, usage_template
from benchmarks.writer import Writer
from functions.stripe_reconcile.run_state import statements
from shared.clock import SystemClock
from shared.database_url import database_target
from shared.outcome import Status
from shared.postgres import Database
from shared.sql import Statement

_INDEX = "maintenance_usage_events_unreported"
_ASKED_CUSTOMERS, _EVENTS_A_CUSTOMER = 2_000, 20
_EVENTS_A_USER = 10
_READ_RATE = 1_000
# A job stops a minute before. By then it has taken thrice what it may take.
_TIMEOUT = "240"
# A backend passes its counts on once a second at most.
_STATISTICS_SECONDS = 1.2
_READ_IN_SEQUENCE = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'usage_events'"


def not_billable(events: int, asked: int) -> list[Users]:
    """So many events in all: of free users without a customer, a tenth without pages, and of customers to ask about."""
    asking = Users("asked", asked, _EVENTS_A_CUSTOMER, has_customer=True)
    zero = Users("zero", events // 10 // _EVENTS_A_USER, _EVENTS_A_USER, has_pages=False)
    left = events - asking.users * asking.events - zero.users * zero.events
    return [Users("free", left // _EVENTS_A_USER, _EVENTS_A_USER), zero, asking]


def measure_marking(arena: Arena, events: int, console: Console) -> list[Figure]:
    """Mark all events, with as many reported ones beside them, while another client writes."""
    asked = min(_ASKED_CUSTOMERS, events // 10 // _EVENTS_A_CUSTOMER)
    console.print(f"Making {events:,} events not to be billed, {asked:,} customers to ask about, and reported ones …")
    with (
        usage_template(arena, "bench_marking", not_billable(events, asked), reported=events // 2) as template,
        usage_database(arena, template) as url,
        connected(url, autocommit=True) as watching,
        StandIn(0) as stand_in,
    ):
        uses_index = _uses_index(url)
        environ = settings(
            arena, url, stand_in, STRIPE_READ_RATE=str(_READ_RATE), JOB_TIMEOUT_SECONDS=_TIMEOUT, **TAKEN_OVER
        )
        with Writer(url) as writer:
            since = time.monotonic()
            measured = run_module("benchmarks.stripe_child", "job", settings=environ)
            until = time.monotonic()
        time.sleep(_STATISTICS_SECONDS)
        in_sequence = int(watching.scalar(text(_READ_IN_SEQUENCE)) or 0)
    counts, latencies = measured["counts"], writer.latencies(since, until)
    marked = counts["not_billable_count"]
    if measured["status"] == Status.COMPLETED.value and (marked != events or counts["waiting_count"]):
        raise RuntimeError(f"{marked:,} of {events:,} events were marked")
    # Where time ran out: how long it would take at that speed.
    seconds = measured["seconds"] * events / max(1, marked)
    console.print(
        f"  {marked:,} events in {measured['seconds']:.1f} s, {measured['cpu_seconds']:.1f} s of it CPU of ours; "
        f"{measured['reads'].get('subscriptions', 0):,} customers asked about; longest transaction "
        f"{measured['longest_writing']:.2f} s writing, {measured['longest_reading']:.2f} s reading; "
        f"writer p99 {latencies.percentile(0.99) * 1000:.1f} ms, max {latencies.percentile(1) * 1000:.0f} ms",
        soft_wrap=True,
    )
    part = f"Marking {events:,} events not to be billed, {asked:,} customers to ask about"
    return [
        Figure(
            part,
            "time" if marked == events else f"time, from {marked:,} of them",
            seconds,
            "s",
            60 * events / 1_000_000,
        ),
        Figure(part, "a batch is found along the partial index, 1 = yes", uses_index, "", 1, True, digits=0),
        Figure(part, "rows of usage_events read in sequence", in_sequence, "", digits=0),
        Figure(part, "longest writing transaction", measured["longest_writing"], "s", digits=2),
        Figure(part, "longest reading transaction", measured["longest_reading"], "s", digits=2),
        Figure(part, "another client's p99 meanwhile", latencies.percentile(0.99) * 1000, "ms"),
        Figure(part, "peak memory", measured["peak_mib"], "MiB"),
    ]


def _uses_index(url: str) -> bool:
    """Whether the server would find the first batch by going along the partial index."""
    now = SystemClock().now()
    known = {
        "free_plans": ["free"],
        "since": datetime(1970, 1, 1, tzinfo=UTC),
        "after": datetime(1970, 1, 1, tzinfo=UTC),
        "after_id": "00000000-0000-0000-0000-000000000000",
        "before": now - timedelta(minutes=15),
        "run_id": 1,
        "grace": "3600 seconds",
        "only_asked": False,
        "size": 2_000,
        "room": 2_000,
        **{name: [] for name in ("asked", "asked_users", "unclear", "span_customers", "span_starts", "span_ends")},
    }
    database = Database(database_target({"DATABASE_URL": url}))
    statement = statements("classify.sql")["classify_batch"]
    explain = Statement(statement.name, statement.description, f"EXPLAIN (FORMAT JSON) {statement.text}")
    try:
        with database.transaction() as transaction:
            (row,) = transaction.rows(explain, **known)
    finally:
        database.dispose()
    told = row["QUERY PLAN"]
    return _walks(json.loads(told) if isinstance(told, str) else told)


def _walks(plan: object) -> bool:
    """Whether something in the plan goes along the index. A bitmap of all of it, to be sorted, is not that."""
    if isinstance(plan, list):
        return any(map(_walks, plan))
    if not isinstance(plan, dict):
        return False
    here = plan.get("Index Name") == _INDEX and plan.get("Node Type") in ("Index Scan", "Index Only Scan")
    return here or any(map(_walks, plan.values()))
