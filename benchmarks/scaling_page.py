"""Make the tables and plots of docs/scaling.md of what was measured. The prose between them stands as it is written.

A table stands between a line `<!-- made: NAME -->` and the next line `<!-- /made -->`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.child import REPOSITORY
from benchmarks.scaling_data import Curve, read_curves
from benchmarks.scaling_plot import plot

PAGE = REPOSITORY / "docs" / "scaling.md"
IMAGES = REPOSITORY / "docs" / "images"
_MADE = re.compile(r"(?P<start><!-- made: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- /made -->)", re.DOTALL)
_HOUR, _RUN_SECONDS, _STEPS = 3_600, 1_650, 48
_GIB = 1024
NAMES = {
    "period-reset": "period reset",
    "counters": "counters",
    "erasure": "erasure",
    "reconcile": "reconcile, marking",
    "sending": "reconcile, sending",
}
_PLOTS: Mapping[str, tuple[str, str, str]] = {
    "scaling-time": ("Time of a run", "seconds", "seconds"),
    "scaling-transaction": ("Longest writing transaction", "seconds", "longest_writing"),
    "scaling-memory": ("Peak memory of the process", "MiB", "peak_mib"),
    "scaling-wal": ("WAL of a run", "MiB", "wal_mib"),
}


def render() -> None:
    """Write the page's tables, and the plots, anew."""
    curves = read_curves()
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), curves), encoding="utf-8")
    for name, svg in plots(curves).items():
        (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")


def with_tables(page: str, curves: Sequence[Curve]) -> str:
    """The page with its tables as these curves have them. Raises KeyError for a table that nobody can make."""
    makers: dict[str, Callable[[], str]] = {curve.key: partial(_measured, curve) for curve in curves}
    makers |= {"slopes": lambda: _slopes(curves), "far": lambda: _far(curves), "when": lambda: _when(curves)}
    return _MADE.sub(lambda found: f"{found['start']}{makers[found['name']]()}{found['end']}", page)


def plots(curves: Sequence[Curve]) -> Mapping[str, str]:
    """The SVG of each plot, by the name of its file."""
    return {
        name: plot(
            title,
            "how much there is",
            unit,
            {NAMES[curve.key]: [(point.size, getattr(point, attribute)) for point in curve.points] for curve in curves},
        )
        for name, (title, unit, attribute) in _PLOTS.items()
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _measured(curve: Curve) -> str:
    header = ["there are", "treated", "time", "each", "CPU of ours", "longest transaction", "peak memory", "WAL"]
    rows = [
        [
            f"{point.size:,}",
            f"{point.done:,}",
            f"{point.seconds:,.1f} s",
            f"{point.seconds / max(1, point.done) * 1000:.3f} ms",
            f"{min(1.0, point.client_cpu_seconds / point.seconds):.0%}",
            f"{point.longest_writing:.2f} s",
            f"{point.peak_mib:.0f} MiB",
            f"{point.wal_mib:,.0f} MiB",
        ]
        for point in curve.points
    ]
    return _table(header, rows)


def _slopes(curves: Sequence[Curve]) -> str:
    header = ["work", "time", "WAL", "longest transaction", "memory"]
    kinds = ("seconds", "wal_mib", "longest_writing", "peak_mib")
    rows = [[NAMES[curve.key], *(_exponent(curve.slope(kind)) for kind in kinds)] for curve in curves]
    return _table(header, rows)


def _exponent(slope: float) -> str:
    return "" if math.isnan(slope) else f"{slope:.2f}"


def _far(curves: Sequence[Curve]) -> str:
    header = ["work", "time at 10⁸", "in runs of 1,650 s", "firings of 48 steps", "WAL"]
    rows = []
    for curve in curves:
        seconds = curve.at_far("seconds")
        runs = math.ceil(seconds / _RUN_SECONDS)
        rows.append(
            [
                NAMES[curve.key],
                f"{seconds / _HOUR:,.1f} h" if seconds >= _HOUR else f"{seconds / 60:,.1f} min",
                f"{runs:,}",
                f"{math.ceil(runs / _STEPS):,}",
                f"{curve.at_far('wal_mib') / _GIB:,.0f} GiB",
            ]
        )
    return _table(header, rows)


def _when(curves: Sequence[Curve]) -> str:
    days = sorted({curve.measured_on for curve in curves})
    return f"\nMeasured on {' and '.join(days)}.\n\n"
