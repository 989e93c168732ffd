"""`python -m benchmarks.compare OLD.json NEW.json`: two measurements side by side, what got worse first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, read_json

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
# Less than that is noise, even on a quiet machine.
_SAME = 0.05


@dataclass(frozen=True)
class Change:
    """A figure of both measurements."""

    old: Figure
    new: Figure

    @property
    def share(self) -> float:
        """By what share of the old value it changed: 0.5 for half as much again. NaN where that says nothing."""
        both = (self.old.value, self.new.value)
        if self.old.value == self.new.value:
            return 0.0
        return self.new.value / self.old.value - 1 if min(both) > 0 else math.nan

    @property
    def worse(self) -> float:
        """How many times as bad it is, in logarithms, so that half and double weigh the same; below 0 it is better."""
        if math.isnan(self.share):
            became_worse = (self.new.value > self.old.value) != self.new.at_least
            return math.inf if became_worse else -math.inf
        logarithm = math.log1p(self.share)
        return -logarithm if self.new.at_least else logarithm


def changes(old: Sequence[Figure], new: Sequence[Figure]) -> list[Change]:
    """The figures of both, that of the worst change first. A figure of other sizes is another figure."""
    known = {(figure.part, figure.name): figure for figure in old}
    both = [Change(known[figure.part, figure.name], figure) for figure in new if (figure.part, figure.name) in known]
    return sorted(both, key=lambda change: -change.worse)


@click.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
def main(old: Path, new: Path) -> None:
    """Show the figures of OLD and NEW, which `python -m benchmarks --json` wrote, side by side: the worst change first.

    Example: python -m benchmarks.compare before.json after.json
    """
    try:
        (old_commit, before), (new_commit, after) = read_json(old), read_json(new)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    found = changes(before, after)
    table = Table(title=f"{old_commit} → {new_commit}")
    table.add_column("figure")
    for column in ("target", "old", "new", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    for change in found:
        colour = "" if abs(change.worse) < math.log1p(_SAME) else "red" if change.worse > 0 else "green"
        told = "" if math.isnan(change.share) else f"{change.share:+.0%}"
        table.add_row(
            f"{change.new.part}: {change.new.name}",
            change.new.target,
            change.old.shown(change.old.value),
            change.new.shown(change.new.value),
            f"[{colour}]{told}[/{colour}]" if colour else told,
        )
    console = Console(highlight=False)
    console.print(table)
    alone = len(before) + len(after) - 2 * len(found)
    if alone:
        console.print(f"{alone} figures are in one of the files only: of another size, or not measured.")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.compare")
