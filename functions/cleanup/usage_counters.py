"""Delete usage counters older than their retention, and prune our own tables.

Dangers, and what holds them:

- The counter of an account's current period decides whether a user is blocked: however old that period is, it stays.
- A wrong clock or retention would take counters that are needed: the guard counts before the first deletion.
- The service adds to counters at any moment, with an upsert: a range is deleted by one statement in one short
  transaction, and nothing else of the service's is touched.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from functions.cleanup.guard import allowed, check
from functions.cleanup.months import first_of_month
from functions.cleanup.page_ranges import PageRanges
from functions.cleanup.pruning import prune
from shared.context import Context
from shared.errors import LockLost
from shared.job import JobResult
from shared.postgres import Transaction
from shared.settings import Settings
from shared.sql import load_statements

STATEMENTS = load_statements(Path(__file__).with_name("usage_counters.sql"))

# A range's transaction should take so long: other sessions that add to one of its counters wait for it.
_SECONDS_A_RANGE = 0.02
_FIRST_PAGES, _MOST_PAGES = 50, 400
# Rows that moved, or that others held, are met in a later pass; a table that never comes to rest ends the run.
_PASSES = 5


def run(ctx: Context) -> JobResult:
    """Delete what is past its retention; in a dry run, count it. Raises Refused where that would be too much."""
    cutoff = _cutoff(ctx.now, ctx.settings)
    with ctx.reading() as transaction:
        total, due, keep = _look(transaction, cutoff)
    settings = ctx.settings.cleanup
    may = allowed(total, settings.max_fraction, settings.max_floor, ctx.allow_deletes)
    would = due if ctx.limit is None else min(due, ctx.limit)
    if ctx.dry_run:
        ctx.counts["deleted_count"] = would
        return JobResult(
            f"Dry run: would delete {_counters(would)} from before {cutoff:%Y-%m}", gauges={"due_count": due}
        )
    check("usage counters", would, total, may)
    sweep = _Sweep(ctx, cutoff, keep, min(may, ctx.limit or may))
    sweep.run()
    prune(ctx)
    with ctx.reading() as transaction:
        left = _look(transaction, cutoff)[1] if sweep.deleted != due else 0
    done = f"Usage counter cleanup deleted {_counters(ctx.total('deleted_count'))} from before {cutoff:%Y-%m}"
    if left and sweep.room:
        return JobResult(f"{done}; {left} more wait", complete=False, gauges={"due_count": left})
    return JobResult(done if not left else f"{done} (limit reached)", gauges={"due_count": left})


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """How many counters are past their retention."""
    return {"due_count": _look(transaction, _cutoff(now, settings))[1]}


def _cutoff(now: datetime, settings: Settings) -> datetime:
    return first_of_month(now, settings.cleanup.counter_months)


class _Keep:
    """The counters that stay although they are old, as the statements take them."""

    def __init__(self, transaction: Transaction, cutoff: datetime) -> None:
        rows = transaction.rows(STATEMENTS["stale_periods"], cutoff=cutoff)
        self.parameters = {
            "users": [row["user_id"] for row in rows],
            "starts": [row["current_period_start"].isoformat() for row in rows],
        }


def _look(transaction: Transaction, cutoff: datetime) -> tuple[int, int, _Keep]:
    """How many counters there are, how many of them must go, and which old ones stay."""
    keep = _Keep(transaction, cutoff)
    (row,) = transaction.rows(STATEMENTS["count_counters"], cutoff=cutoff, **keep.parameters)
    return row["total"], row["due"], keep


class _Sweep:
    """The deletion, range after range, in passes until a pass finds nothing more."""

    def __init__(self, ctx: Context, cutoff: datetime, keep: _Keep, room: int) -> None:
        self._ctx = ctx
        self._parameters = {"cutoff": cutoff, **keep.parameters}
        self.room = room
        self.deleted = 0

    def run(self) -> None:
        """Delete until nothing is left, the room is used up, or time is."""
        for _ in range(_PASSES):
            before = self.deleted
            self._pass()
            if self.deleted == before or not self._may_go_on():
                return

    def _may_go_on(self) -> bool:
        return self.room > 0 and self._ctx.time_left() > 0

    def _pass(self) -> None:
        with self._ctx.reading() as transaction:
            (row,) = transaction.rows(STATEMENTS["table_pages"])
        ranges = PageRanges(row["pages"], first=_FIRST_PAGES, most=_MOST_PAGES, seconds=_SECONDS_A_RANGE)
        for first, beyond in ranges:
            if not self._may_go_on():
                return
            began = self._ctx.timer.seconds()
            try:
                self._range(first, beyond)
            except LockLost:
                # The service is adding to one of these: the next pass meets them again.
                continue
            ranges.took(self._ctx.timer.seconds() - began)

    def _range(self, first: str, beyond: str) -> None:
        # Not durable: what a crash of the server loses is due again, and the run's last commit makes all of it durable.
        with self._ctx.batch(durable=False) as batch:
            where = {"first": first, "beyond": beyond, **self._parameters}
            if self._is_scarce:
                deleted = batch.execute(STATEMENTS["delete_counters_limited"], room=self.room, **where)
            else:
                deleted = batch.execute(STATEMENTS["delete_counters"], **where)
            batch.count(deleted_count=deleted)
        self.deleted += deleted
        self.room -= deleted

    @property
    def _is_scarce(self) -> bool:
        """Whether a whole range could hold more than may still go: a page holds fewer than 300 rows."""
        return self.room < _MOST_PAGES * 300


def _counters(count: int) -> str:
    return f"{count} usage counter{'' if count == 1 else 's'}"
