"""Delete usage counters older than their retention, and prune our own tables.

Dangers, and what holds them:

- The counter of an account's current period decides whether a user is blocked: however old that period is, it stays.
- A wrong clock or retention would take counters that are needed: the guard counts before the first deletion.
- The service adds to counters at any moment, with an upsert: a range is deleted by one statement in one short
  transaction, and what another session holds is waited for no longer than that, and then left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from functions.cleanup.guard import allowed, check, would_refuse
from functions.cleanup.months import first_of_month
from functions.cleanup.page_ranges import PageRanges, page_of, table_pages
from functions.cleanup.pruning import count_old, prune
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
# PostgreSQL puts fewer rows on a page than this.
_ROWS_A_PAGE = 300
# Rows that moved, or that others held, are met in a later pass, after so long a wait; what is left then is left.
_WAITS_SECONDS = (0.0, 0.25, 0.5, 1.0, 1.0)


def run(ctx: Context) -> JobResult:
    """Delete what is past its retention; in a dry run, count it. Raises Refused where that would be too much."""
    cutoff = _cutoff(ctx.now, ctx.settings)
    found = _look(ctx, cutoff)
    settings = ctx.settings.cleanup
    may = allowed(found.total, settings.max_fraction, settings.max_floor, ctx.allow_deletes)
    would = found.due if ctx.limit is None else min(found.due, ctx.limit)
    if ctx.dry_run:
        return _dry_run(ctx, cutoff, found, would, may)
    # All that is due counts, whatever the run's limit: many small runs must not do what one may not.
    check(ctx.job.cli, "usage counters", found.due, found.total, may)
    sweep = _Sweep(ctx, cutoff, found, min(may, ctx.limit or may))
    left = sweep.run()
    if ctx.limit is None:
        prune(ctx)
    return _result(ctx, cutoff, sweep, left)


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """How many counters are past their retention."""
    return {"due_count": _look_with(transaction, _cutoff(now, settings)).due}


def _cutoff(now: datetime, settings: Settings) -> datetime:
    return first_of_month(now, settings.cleanup.counter_months)


def _dry_run(ctx: Context, cutoff: datetime, found: "_Found", would: int, may: int) -> JobResult:
    ctx.counts["deleted_count"] = would
    if ctx.limit is None:
        ctx.counts.update(count_old(ctx))
    said = f"Dry run: would delete {_counters(would, cutoff)}"
    if found.due > may:
        said += would_refuse(may)
    return JobResult(said, gauges={"due_count": found.due})


def _result(ctx: Context, cutoff: datetime, sweep: "_Sweep", left: int) -> JobResult:
    gauges = {"due_count": left}
    counters = _counters(ctx.total("deleted_count"), cutoff)
    if not left:
        return JobResult(f"Usage counter cleanup deleted {counters}", gauges=gauges)
    if ctx.limit is not None and sweep.room == 0:
        return JobResult(f"Usage counter cleanup deleted {counters} (limit reached)", gauges=gauges)
    if ctx.time_left() <= 0:
        why = f"time ran out, and {left} more wait"
    elif sweep.room == 0:
        why = f"{left} more came due meanwhile, and wait"
    else:
        why = f"{left} more stayed locked by other sessions"
    return JobResult(f"Usage counter cleanup stopped after deleting {counters}: {why}", complete=False, gauges=gauges)


def _counters(count: int, cutoff: datetime) -> str:
    return f"{count} usage counter{'' if count == 1 else 's'} from before {cutoff:%Y-%m}"


@dataclass(frozen=True)
class _Found:
    """How many counters there are, how many of them must go, and which old ones stay, as the statements take them."""

    total: int
    due: int
    keep: Mapping[str, str]


def _look(ctx: Context, cutoff: datetime) -> _Found:
    with ctx.reading() as transaction:
        return _look_with(transaction, cutoff)


def _look_with(transaction: Transaction, cutoff: datetime) -> _Found:
    (stale,) = transaction.rows(STATEMENTS["stale_periods"], cutoff=cutoff)
    keep = {"users": stale["users"], "starts": stale["starts"]}
    (row,) = transaction.rows(STATEMENTS["count_counters"], cutoff=cutoff, **keep)
    return _Found(row["total"], row["due"], keep)


class _Sweep:
    """The deletion, range after range, in passes until nothing is left. `room` is how many may still go."""

    def __init__(self, ctx: Context, cutoff: datetime, found: _Found, room: int) -> None:
        self._ctx = ctx
        self._cutoff = cutoff
        self._found = found
        self.room = room

    def run(self) -> int:
        """Delete until nothing is left, the room is used up, or time is; give how many are left."""
        for pause in _WAITS_SECONDS:
            if not self._found.due or not self._may_go_on():
                break
            self._ctx.timer.wait(pause)
            if self._pass() >= self._found.due:
                return 0
            # A row that an update moved was missed, another session held one, or a user is gone with all there was.
            self._found = _look(self._ctx, self._cutoff)
        return self._found.due

    def _may_go_on(self) -> bool:
        return self.room > 0 and self._ctx.time_left() > 0

    def _pass(self) -> int:
        deleted = 0
        start = self._first_page()
        if start is None:
            return 0
        pages = table_pages(self._ctx, "usage_counters")
        ranges = PageRanges(pages, start=start, first=_FIRST_PAGES, most=_MOST_PAGES, seconds=_SECONDS_A_RANGE)
        for first, beyond in ranges:
            # What the service made month after month lies together: once all that were counted are gone, the rest of
            # the table need not be gone over.
            if deleted >= self._found.due or not self._may_go_on():
                break
            began = self._ctx.timer.seconds()
            deleted += self._range(first, beyond)
            ranges.took(self._ctx.timer.seconds() - began)
        return deleted

    def _first_page(self) -> int | None:
        """The page with which a pass begins: what earlier attempts did is not gone over range by range once more."""
        with self._ctx.reading() as transaction:
            transaction.execute(STATEMENTS["read_in_order"])
            row = transaction.row(STATEMENTS["first_counter"], cutoff=self._cutoff, **self._found.keep)
        return None if row is None else page_of(row["ctid"])

    def _range(self, first: str, beyond: str) -> int:
        """Delete what is due in a range of pages; where others hold some of it, all but that."""
        is_scarce = self.room < _MOST_PAGES * _ROWS_A_PAGE
        try:
            return self._delete(first, beyond, by_row=is_scarce)
        except LockLost:
            if is_scarce:
                return 0
        try:
            return self._delete(first, beyond, by_row=True)
        except LockLost:
            # Not a row but the table is held, or the server is very slow: the next range is a smaller one.
            return 0

    def _delete(self, first: str, beyond: str, *, by_row: bool) -> int:
        where = {"first": first, "beyond": beyond, "cutoff": self._cutoff, **self._found.keep}
        # Not durable: what a crash of the server loses is due again, and the run's last commit makes all of it durable.
        with self._ctx.batch(durable=False) as batch:
            batch.execute(STATEMENTS["yield_soon"])
            if by_row:
                deleted = batch.execute(STATEMENTS["delete_counters_by_row"], room=self.room, **where)
            else:
                deleted = batch.execute(STATEMENTS["delete_counters"], **where)
            batch.count(deleted_count=deleted)
        self.room -= deleted
        return deleted
