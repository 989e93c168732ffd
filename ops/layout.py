"""Rows on a terminal of any width, so that what is to be copied (ids, times, customers) is never broken.

As a table where that fits; otherwise each row as pairs of heading and value, with as many on a line as fit there.
"""

import re
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len

_GAP = 2
# Longer ones are names of objects and the like: no terminal has room for several of these.
_LONGEST_WHOLE = 44
# In a table that is narrow, other words than those to be copied are whole up to this.
_LONGEST_PLAIN = 12
_TO_COPY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:.]+Z|\bcus_\w+|^\W*\d+\W*$")
_BETWEEN, _INDENT = "   ", "  "


def widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], room: int, *, whole: Collection[int] = ()
) -> Sequence[int] | None:
    """How wide each column is in a table of at most `room`; None where something would be broken that must not be.

    `whole` are the places of columns whose cells are not even broken at spaces.
    """
    columns = [[heading, *(row[place] for row in rows)] for place, heading in enumerate(headings)]
    room -= _GAP * (len(columns) - 1)
    wanted = [max(map(cell_len, column)) for column in columns]
    if sum(wanted) <= room:
        return wanted
    for plain in (_LONGEST_WHOLE, _LONGEST_PLAIN):
        least = [
            wanted[place] if place in whole else max(_whole(word, plain) for cell in column for word in cell.split(" "))
            for place, column in enumerate(columns)
        ]
        if sum(least) <= room:
            return _shared(least, wanted, room)
    return None


def _whole(word: str, plain: int) -> int:
    """How wide a column must be at least so that this word is not broken, if it must not be."""
    length = cell_len(word)
    return length if length <= plain or (length <= _LONGEST_WHOLE and _TO_COPY.search(word)) else 1


def _shared(least: Sequence[int], wanted: Sequence[int], room: int) -> Sequence[int]:
    """Share the room: nobody gets less than the least, and those who have less than others get of the rest first."""
    given = list(least)
    for _ in range(room - sum(given)):
        poorer = [place for place, width in enumerate(given) if width < wanted[place]]
        given[min(poorer, key=lambda place: given[place])] += 1
    return given


def pairs(headings: Sequence[str], row: Sequence[str], room: int) -> Iterator[str]:
    """The lines of one row, each at most `room` wide; all but the first are indented."""
    line = ""
    for heading, value in zip(headings, row, strict=True):
        pair = f"{heading} {value}".strip()
        if line and cell_len(line) + len(_BETWEEN) + cell_len(pair) <= room:
            line += _BETWEEN + pair
            continue
        if line:
            yield line
            pair = _INDENT + pair
        *whole, line = wrapped(pair, room, _INDENT * 2)
        yield from whole
    yield line


def lines(row: Sequence[str], widths: Sequence[int], *, right: Collection[int] = ()) -> Iterator[str]:
    """The lines of one row of a table; `right` are the places of columns that stand to the right."""
    parts = [wrapped(text, width, "") for text, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, parts))):
        shown = [part[number] if number < len(part) else "" for part in parts]
        yield (
            (" " * _GAP)
            .join(_padded(text, widths[place], to_the_right=place in right) for place, text in enumerate(shown))
            .rstrip()
        )


def _padded(text: str, width: int, *, to_the_right: bool) -> str:
    padding = " " * (width - cell_len(text))
    return padding + text if to_the_right else text + padding


def wrapped(text: str, room: int, deeper: str) -> list[str]:
    """A text over several lines, at its spaces; only what is longer than a line is broken.

    All lines but the first begin with `deeper`.
    """
    if cell_len(text) <= room:
        return [text]
    line = text[: len(text) - len(text.lstrip(" "))]
    done = []
    for word in text.split():
        between = " " if line.strip() else ""
        if cell_len(line + between + word) <= room:
            line += between + word
            continue
        if line.strip():
            done.append(line)
        line = deeper
        while cell_len(line + word) > room:
            fits, word = _cut(word, room - len(line))
            done.append(line + fits)
        line += word
    return [*done, line]


def _cut(word: str, room: int) -> tuple[str, str]:
    """The part of a word that fits, and the rest. Some characters are two columns wide."""
    place = next(end for end in range(len(word), 0, -1) if end == 1 or cell_len(word[:end]) <= room)
    return word[:place], word[place:]
