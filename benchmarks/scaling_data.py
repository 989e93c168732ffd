"""What `python -m benchmarks.scaling` has measured, and what follows from it: slopes, and what 10⁸ would take."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import REPOSITORY

FILE = REPOSITORY / "docs" / "assets" / "scaling.json"
FAR = 100_000_000
# Less than that is mostly the start of a run.
_SLOPE_FROM = 100_000


@dataclass(frozen=True)
class Point:
    """One run: how much there was, how much of it was treated, and what that cost. Times in seconds."""

    size: int
    done: int
    seconds: float
    longest_writing: float
    longest_reading: float
    peak_mib: float
    wal_mib: float
    client_cpu_seconds: float


@dataclass(frozen=True)
class Curve:
    """One job at several sizes, smallest first, with the commit and the day of the measurement."""

    key: str
    commit: str
    measured_on: str
    points: tuple[Point, ...]

    @property
    def largest(self) -> Point:
        """The run of the largest size."""
        return self.points[-1]

    def slope(self, attribute: str) -> float:
        """The exponent with which an attribute grows with the size, from 100,000 on if two sizes are that large.

        NaN where fewer than two sizes were measured. A least-squares line through the logarithms.
        """
        points = [point for point in self.points if point.size >= _SLOPE_FROM]
        if len(points) < 2:
            points = list(self.points)
        return _slope([(point.size, getattr(point, attribute)) for point in points])

    def at_far(self, attribute: str) -> float:
        """What the attribute would be at 10⁸, from the largest size by the measured slope, and by no less than 1."""
        slope = max(1.0, self.slope(attribute))
        return float(getattr(self.largest, attribute) * (FAR / self.largest.size) ** slope)


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    logs = [(math.log(x), math.log(max(y, 1e-6))) for x, y in pairs]
    if len(logs) < 2:
        return math.nan
    middle_x = sum(x for x, _ in logs) / len(logs)
    middle_y = sum(y for _, y in logs) / len(logs)
    above = sum((x - middle_x) * (y - middle_y) for x, y in logs)
    return above / sum((x - middle_x) ** 2 for x, _ in logs)


def read_curves(file: Path = FILE) -> list[Curve]:
    """All curves of the file, in its order."""
    report = json.loads(file.read_text(encoding="utf-8"))
    return [Curve(**{**told, "points": tuple(Point(**point) for point in told["points"])}) for told in report["curves"]]
