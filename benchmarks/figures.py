"""What was measured, held against its target: one table for people, one JSON file for comparing commits."""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Beside:
    """What the same run measured for comparison: plain SQL, a bare client, an ORM loop. `what` says which."""

    what: str
    value: float
    unit: str
    digits: int = 1


@dataclass(frozen=True)
class Figure:
    """One measured value. `limit` is its target: at most so much, or at least with `at_least`; None for no target.

    `at_least` also says, where there is no target, that more is better.
    """

    part: str
    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    digits: int = 1
    beside: Beside | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def shown(self, value: float) -> str:
        """A value with its unit, as the table shows it."""
        return _shown(value, self.unit, self.digits)

    @property
    def target(self) -> str:
        """The target with its unit, as the table shows it."""
        return "" if self.limit is None else f"{'≥' if self.at_least else '≤'} {self.shown(self.limit)}"


def _shown(value: float, unit: str, digits: int) -> str:
    return f"{value:,.{digits}f} {unit}".strip()


def show(console: Console, figures: Sequence[Figure]) -> None:
    """Print all figures as one table."""
    table = Table(title="Measured here, just now")
    table.add_column("figure")
    for column in ("target", "measured", "beside it"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("which is", overflow="fold")
    table.add_column("met?", justify="right", no_wrap=True)
    last_part = None
    for figure in figures:
        if figure.part != last_part:
            table.add_section()
            table.add_row(f"[bold]{figure.part}[/bold]")
            last_part = figure.part
        beside = figure.beside
        table.add_row(
            f"  {figure.name}",
            figure.target,
            figure.shown(figure.value),
            "" if beside is None else _shown(beside.value, beside.unit, beside.digits),
            "" if beside is None else beside.what,
            {None: "", True: "[green]yes[/green]", False: "[red]no[/red]"}[figure.met],
        )
    console.print(table)


def write_json(path: Path, figures: Sequence[Figure], options: Mapping[str, object]) -> None:
    """Write all figures, with the commit and the machine they belong to."""
    report = {
        "commit": commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "options": options,
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> tuple[str, list[Figure]]:
    """What `write_json` wrote: the commit, and the figures. Raises ValueError for a file of another kind."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return report["commit"] or "no commit", [_figure(told) for told in report["figures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of `python -m benchmarks --json`: {error!r}") from error


def _figure(told: dict[str, Any]) -> Figure:
    beside = told.get("beside")
    fields = {name: value for name, value in told.items() if name not in ("met", "beside")}
    return Figure(**fields, beside=None if beside is None else Beside(**beside))


def commit() -> str | None:
    """The commit of this repository, with `-dirty` behind it where files differ from it; None outside of git."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(_REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  no shell, no input
    return done.stdout.strip() or None
