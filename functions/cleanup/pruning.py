"""Keep our own tables small: each is gone over once, a range of pages at a time."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from functions.cleanup.page_ranges import PageRanges, table_pages
from shared.context import Context
from shared.errors import LockLost
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("pruning.sql"))
_FIRST_PAGES, _MOST_PAGES, _SECONDS_A_RANGE = 50, 400, 0.05


class _Table(NamedTuple):
    """A table to prune: its statements' last word, how long after its end a row goes, and the count that tells."""

    name: str
    word: str
    age: timedelta
    counted_as: str


_TABLES = (
    _Table("maintenance.runs", "runs", timedelta(days=400), "runs_pruned"),
    _Table("maintenance.meter_sends", "sends", timedelta(days=400), "sends_pruned"),
    _Table("maintenance.object_deletions", "outbox", timedelta(days=90), "outbox_pruned"),
)


def count_old(ctx: Context) -> Mapping[str, int]:
    """How many rows `prune` would delete, by the name of their count."""
    found = {}
    with ctx.reading() as transaction:
        for table in _TABLES:
            (row,) = transaction.rows(_STATEMENTS[f"count_{table.word}"], before=ctx.now - table.age)
            found[table.counted_as] = int(row["found"])
    return found


def prune(ctx: Context) -> None:
    """Delete what is old in our own tables, for as long as there is time; what is left is for next week."""
    for table in _TABLES:
        pages = table_pages(ctx, table.name)
        ranges = PageRanges(pages, first=_FIRST_PAGES, most=_MOST_PAGES, seconds=_SECONDS_A_RANGE)
        where = {"before": ctx.now - table.age}
        for first, beyond in ranges:
            if ctx.time_left() <= 0:
                return
            began = ctx.timer.seconds()
            try:
                with ctx.batch(durable=False) as batch:
                    statement = _STATEMENTS[f"prune_{table.word}"]
                    batch.count(**{table.counted_as: batch.execute(statement, first=first, beyond=beyond, **where)})
            except LockLost:
                # Nobody waits for these: next week.
                pass
            ranges.took(ctx.timer.seconds() - began)
