"""What was measured, held against its target: one table for people, one JSON file for comparing commits."""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

_REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Figure:
    """One measured value. `limit` is its target: at most so much, or at least with `at_least`; None for no target."""

    part: str
    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    digits: int = 1

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def shown(self, value: float) -> str:
        """A value with its unit, as the table shows it."""
        return f"{value:,.{self.digits}f} {self.unit}".strip()


def show(console: Console, figures: Sequence[Figure]) -> None:
    """Print all figures as one table."""
    table = Table(title="Measured here, just now")
    table.add_column("figure")
    for column in ("target", "measured", "met?"):
        table.add_column(column, justify="right", no_wrap=True)
    last_part = None
    for figure in figures:
        if figure.part != last_part:
            table.add_section()
            table.add_row(f"[bold]{figure.part}[/bold]")
            last_part = figure.part
        target = "" if figure.limit is None else f"{'≥' if figure.at_least else '≤'} {figure.shown(figure.limit)}"
        met = {None: "", True: "[green]yes[/green]", False: "[red]no[/red]"}[figure.met]
        table.add_row(f"  {figure.name}", target, figure.shown(figure.value), met)
    console.print(table)


def write_json(path: Path, figures: Sequence[Figure], options: Mapping[str, object]) -> None:
    """Write all figures, with the commit and the machine they belong to."""
    report = {
        "commit": _commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "options": options,
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(_REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  no shell, no input
    return done.stdout.strip() or None
