"""Ranges of a table's pages in the order in which they lie on disk, sized by how long one may take.

A table that is worked through in its physical order is read once, and what was inserted together goes together. A row
that moves while this goes on (an update puts it on another page) may be missed: callers go over the table again,
if not at once, then with the next run.
"""

from collections.abc import Iterator
from pathlib import Path

from shared.context import Context
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("page_ranges.sql"))


def table_pages(ctx: Context, table: str) -> int:
    """How many pages a table has now."""
    with ctx.reading() as transaction:
        (row,) = transaction.rows(_STATEMENTS["table_pages"], table=table)
    return int(row["pages"])


def page_of(ctid: str) -> int:
    """The page of a row, from its ctid as PostgreSQL writes it: (page,place)."""
    return int(ctid[1:].partition(",")[0])


class PageRanges:
    """Ranges of the pages from `start` to before `pages`, as pairs of ctids (from, up to but without).

    `seconds` is how long the work on one range should take; callers tell with `took` how long it did. No range is made
    smaller than `fewest` pages for that: on a busy machine a range of any size is slow, and small ones take longest.
    """

    def __init__(self, pages: int, *, first: int, most: int, seconds: float, start: int = 0, fewest: int = 1) -> None:
        self._start = start
        self._pages = pages
        self._size = first
        self._fewest = fewest
        self._most = most
        self._seconds = seconds

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The ranges, one after the other."""
        page = self._start
        while page < self._pages:
            size = self._size
            yield f"({page},0)", f"({page + size},0)"
            page += size

    def took(self, seconds: float) -> None:
        """Note how long the last range took: the next one is larger or smaller, by no more than half or double."""
        ratio = min(2.0, max(0.5, self._seconds / max(seconds, 0.0001)))
        self._size = max(self._fewest, min(self._most, int(self._size * ratio)))
