"""Figures keep through a file, and two measurements are compared rightly; that they are right, `make bench` shows."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.compare import changes, main
from benchmarks.figures import Beside, Figure, read_json, show, write_json

_SLOWER = Figure("Part", "time", 10, "s", 12, beside=Beside("one statement", 8, "s"))
_RATE = Figure("Part", "rate", 100, "/s", 90, at_least=True)


def _with(figure: Figure, value: float) -> Figure:
    return Figure(figure.part, figure.name, value, figure.unit, figure.limit, figure.at_least)


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    write_json(file, [_SLOWER, _RATE], {"rounds": 1})
    assert read_json(file)[1] == [_SLOWER, _RATE]


def test_a_reference_has_a_column_of_its_own() -> None:
    console = Console(record=True, width=120)
    show(console, [_SLOWER, _RATE])
    (line,) = [line for line in console.export_text().splitlines() if " time " in line]
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells == ["time", "≤ 12.0 s", "10.0 s", "8.0 s", "one statement", "yes"]


def test_a_target_is_the_most_or_the_least() -> None:
    assert [_with(_SLOWER, value).met for value in (11, 12, 13)] == [True, True, False]
    assert [_with(_RATE, value).met for value in (89, 90, 91)] == [False, True, True]
    assert Figure("Part", "without a target", 1, "s").met is None


def test_what_got_worse_comes_first_whichever_way_is_worse() -> None:
    old = [_SLOWER, _RATE, Figure("Part", "memory", 50, "MiB"), Figure("Part", "wrong", 0, "")]
    new = [_with(old[0], 5), _with(old[1], 50), _with(old[2], 75), Figure("Part", "wrong", 1, "")]
    assert [change.new.name for change in changes(old, new)] == ["wrong", "rate", "memory", "time"]


def test_a_figure_of_another_size_is_not_compared() -> None:
    assert not changes([Figure("10 accounts", "time", 1, "s")], [Figure("20 accounts", "time", 2, "s")])


def test_two_files_are_shown_side_by_side(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_json(old, [_SLOWER, _RATE, Figure("Part", "gone", 1, "s")], {})
    write_json(new, [_with(_SLOWER, 15), _RATE], {})
    told = CliRunner(env={"COLUMNS": "120"}).invoke(main, [str(old), str(new)])
    assert told.exit_code == 0, told.output
    (line,) = [line for line in told.output.splitlines() if "Part: time" in line]
    assert [cell.strip() for cell in line.split("│")[2:6]] == ["≤ 12.0 s", "10.0 s", "15.0 s", "+50%"]
    assert "1 figures are in one of the files only" in told.output


@pytest.mark.parametrize("content", ["", "[]", '{"figures": [{"part": 1}], "commit": "x"}'])
def test_a_file_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content, encoding="utf-8")
    told = CliRunner().invoke(main, [str(file), str(file)])
    assert told.exit_code == 1
    assert "is no file of `python -m benchmarks --json`" in told.output
