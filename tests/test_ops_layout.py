"""Rows on a narrow terminal: nothing that is to be copied is broken, and no line is longer than the terminal."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ops.layout import lines, pairs, widths

ID = "0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61"
TIME = "2026-11-27T21:53:02Z"

words = st.text(alphabet=string.ascii_letters + string.digits + "-_文字", min_size=1, max_size=60)
cells = st.lists(st.one_of(words, st.sampled_from([ID, TIME, "-", "4711"])), min_size=1, max_size=6).map(" ".join)


def test_what_fits_is_as_wide_as_it_is() -> None:
    assert widths(["A", "LONG"], [["xx", "y"], ["x", "yyy"]], 80) == [2, 4]


def test_long_texts_give_way_to_what_is_to_be_copied() -> None:
    assert widths(["ID", "AT", "WHY"], [[ID, TIME, "word " * 30]], 80) == [36, 20, 20]


def test_each_gets_what_it_needs_before_the_longest_gets_more() -> None:
    assert widths(["A", "B", "C"], [["x" * 9, "word " * 30, "word " * 60]], 80) == [9, 34, 33]


def test_a_table_that_would_break_an_id_is_none() -> None:
    assert widths(["A", "B", "AT"], [[ID, ID, TIME]], 80) is None
    assert widths(["A", "B"], [["0 1 * * *", ID]], 45, whole=[0]) is None
    assert widths(["A", "B"], [["0 1 * * *", ID]], 45) is not None


def test_a_table_has_its_texts_below_its_headings() -> None:
    rows = [["N", "TEXT", ""], ["1", "a long text of words", "x"], ["22", "short", "文字"]]
    assert [line for row in rows for line in lines(row, [2, 9, 4], right=[0])] == [
        " N  TEXT",
        " 1  a long     x",
        "    text of",
        "    words",
        "22  short      文字",
    ]


def test_pairs_stand_together_as_far_as_they_fit() -> None:
    assert list(pairs(["ID", "AT", "BY", "WHY"], [ID, TIME, "lea", "word " * 18], 80)) == [
        f"ID {ID}   AT {TIME}   BY lea",
        "  WHY word word word word word word word word word word word word word word word",
        "    word word word",
    ]


@given(st.lists(cells, min_size=1, max_size=7), st.integers(50, 120))
def test_no_line_is_too_long_and_no_id_is_broken(row: list[str], room: int) -> None:
    headings = [f"H{place}" for place in range(len(row))]
    shown = list(pairs(headings, row, room))
    assert max(map(cell_len, shown)) <= room
    text = "\n".join(shown)
    for value in (ID, TIME):
        assert text.count(value) == " ".join(row).count(value)
    # Nothing is lost.
    assert re.sub(r"\s", "", text) == re.sub(
        r"\s", "", "".join(f"{head}{value}" for head, value in zip(headings, row, strict=True))
    )


@given(st.lists(cells, min_size=1, max_size=5), st.integers(50, 120))
def test_a_table_is_not_wider_than_the_terminal(row: list[str], room: int) -> None:
    given = widths(["H"] * len(row), [row], room)
    if given is not None:
        assert sum(given) + 2 * (len(row) - 1) <= room
        for width, cell in zip(given, row, strict=True):
            assert all(len(value) <= width for value in (ID, TIME) if value in cell)
        shown = list(lines(row, given))
        assert max(map(cell_len, shown)) <= room
        assert sorted("".join(shown).replace(" ", "")) == sorted("".join(row).replace(" ", ""))


@pytest.mark.parametrize("room", [10, 20])
def test_a_very_narrow_terminal_is_no_error(room: int) -> None:
    assert all(cell_len(line) <= room for line in pairs(["ID"], [ID], room))
