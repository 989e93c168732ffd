"""docs/scaling.md and its plots say what was measured; and what follows from a measurement is reckoned rightly."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks.scaling_data import Curve, Point, read_curves
from benchmarks.scaling_page import IMAGES, NAMES, PAGE, plots, with_tables
from benchmarks.scaling_plot import plot

_SVG = "{http://www.w3.org/2000/svg}"


def _curve(*points: tuple[int, float]) -> Curve:
    """A curve whose every measure is the given value."""
    return Curve("counters", "0" * 40, "2026-01-31", tuple(Point(size, size, *[value] * 6) for size, value in points))


def test_the_tables_are_those_of_the_measurements() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page, read_curves())
    changed = [_curve((100_000, 12.5), (1_000_000, 3456.7))]
    assert "3,456.7 s" in with_tables(page.replace("period-reset", "counters"), [*read_curves(), *changed])


def test_the_plots_are_those_of_the_measurements() -> None:
    for name, svg in plots(read_curves()).items():
        assert (IMAGES / f"{name}.svg").read_text(encoding="utf-8") == svg, name
        assert f"images/{name}.svg" in PAGE.read_text(encoding="utf-8")


def test_each_job_was_measured_and_is_named() -> None:
    curves = read_curves()
    assert [curve.key for curve in curves] == list(NAMES)
    for curve in curves:
        assert [point.size for point in curve.points] == [10**power for power in range(4, 4 + len(curve.points))]
        assert all(point.seconds > 0 and point.wal_mib > 0 and point.done > 0 for point in curve.points)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_a_slope_is_the_exponent(exponent: float) -> None:
    curve = _curve(*[(10**power, 3.0 * 10 ** (exponent * power)) for power in (5, 6, 7)])
    assert curve.slope("seconds") == pytest.approx(exponent)


def test_small_sizes_are_left_out_of_a_slope() -> None:
    assert _curve((10_000, 7.0), (100_000, 1.0), (1_000_000, 10.0)).slope("seconds") == pytest.approx(1)
    assert _curve((10_000, 1.0), (100_000, 10.0)).slope("seconds") == pytest.approx(1)
    assert math.isnan(_curve((10_000, 1.0)).slope("seconds"))


def test_what_is_far_goes_on_from_the_largest_and_never_flatter_than_straight() -> None:
    assert _curve((100_000, 10.0), (1_000_000, 1000.0)).at_far("seconds") == pytest.approx(10_000_000)
    assert _curve((100_000, 10.0), (1_000_000, 10.0)).at_far("seconds") == pytest.approx(1000)


def test_a_plot_has_labelled_axes_a_ground_of_its_own_and_each_line() -> None:
    svg = ElementTree.fromstring(plot("A <title>", "how many", "seconds", {"one & only": [(1e4, 0.2), (1e6, 30)]}))  # noqa: S314  our own
    texts = [each.text for each in svg.iter(f"{_SVG}text")]
    assert {"A <title>", "how many", "seconds", "one & only", "10⁴", "0.1", "100"} <= {*texts}
    ground = next(svg.iter(f"{_SVG}rect"))
    assert ground.get("fill") == "#fff"
    line = next(svg.iter(f"{_SVG}polyline")).get("points")
    assert line is not None
    (x, y), (later_x, later_y) = [tuple(map(float, place.split(","))) for place in line.split()]
    assert x < later_x
    assert y > later_y
