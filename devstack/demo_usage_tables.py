"""The demo's tables on usage: where events stand, and their pages beside Stripe's."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.table import Table

from devstack.demo_scene import change
from devstack.demo_troubles import TROUBLES
from devstack.usage import KINDS, Standing
from devstack.usage_observing import UsageSeen

_Cells = Callable[[str | None], list[str]]


def before_table(seen: UsageSeen) -> Table:
    """What there is of each kind, what of it must be billed, and what Stripe has."""

    def cells(kind: str | None) -> list[str]:
        figures = (seen.events(kind), seen.pages(kind), seen.to_bill(kind), seen.counted(kind))
        return [f"{figure:,}" for figure in figures]

    return _by_kind(("Events", "Pages", "To bill", "At Stripe"), cells)


def goals_table() -> Table:
    """What must become of the events of each kind, and why."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Kind", no_wrap=True)
    table.add_column("What must become of it")
    for name, kind in KINDS.items():
        table.add_row(name, kind.why)
    return table


def events_table(seen: UsageSeen) -> Table:
    """Where the events of each kind stand, in events."""
    standings = (Standing.BILLED, Standing.NOT_BILLED, Standing.BLOCKED, Standing.IN_DOUBT)

    def cells(kind: str | None) -> list[str]:
        return [f"{seen.events(kind):,}", *(f"{seen.events(kind, standing) or '':}" for standing in standings)]

    return _by_kind(("Events", "Billed", "Not billed", "Blocked", "In doubt"), cells)


def pages_table(before: UsageSeen, seen: UsageSeen) -> Table:
    """The pages of each kind: used, to be billed, marked as billed, and what Stripe has counted, before and now."""

    def cells(kind: str | None) -> list[str]:
        figures = (seen.pages(kind), seen.to_bill(kind), seen.pages(kind, Standing.BILLED))
        return [*(f"{figure:,}" for figure in figures), change(before.counted(kind), seen.counted(kind))]

    return _by_kind(("Pages", "To bill", "Billed", "At Stripe"), cells)


def troubles_table() -> Table:
    """What goes wrong, for how many events, and what the job does about it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Trouble", no_wrap=True)
    table.add_column("Events", justify="right", no_wrap=True)
    table.add_column("Why it does no harm")
    for trouble in TROUBLES:
        table.add_row(trouble.what, str(trouble.events), trouble.why)
    return table


def _by_kind(titles: tuple[str, ...], cells: _Cells) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Kind", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for kind in KINDS:
        table.add_row(kind, *cells(kind))
    table.add_section()
    table.add_row("all", *cells(None), style="bold")
    return table
