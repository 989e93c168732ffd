"""SQL in named, described statements, so that a DBA can read and judge each by itself.

A file of statements looks like this; a statement without a description is refused:

    -- name: count_things
    -- How many things there are, by kind.
    SELECT kind, count(*) FROM things GROUP BY kind;

A line `-- insert: count_things` in a statement stands for the text of an earlier one, for what several have in common.

Parameters are written `:name`, as pg8000 reads them (`shared.postgres`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_INSERT_LINE = re.compile(r"^ *-- insert: (?P<name>\w+)$")
# A condition that is taken for a comment would be gone without a word.
_NEARLY_INSERT_LINE = re.compile(r"--\s*insert\s*:", re.IGNORECASE)
_NAME_LINE = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)$", re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """One SQL statement: what it is called, what it is for, and its text with :named parameters."""

    name: str
    description: str
    text: str


def load_statements(*paths: Path) -> Mapping[str, Statement]:
    """Read files of named statements, one after the other as if they were one; give the statements by name.

    Raises ValueError for text before the first name, a name twice, a statement with no description or no SQL, and one
    that inserts what does not stand above it, or in another form.
    """
    statements: dict[str, Statement] = {}
    for path in paths:
        _load(path, statements)
    return statements


def _load(path: Path, statements: dict[str, Statement]) -> None:
    preamble, *parts = _NAME_LINE.split(path.read_text(encoding="utf-8"))
    if any(line and not line.startswith("--") for line in preamble.splitlines()):
        raise ValueError(f"{path.name}: SQL before the first '-- name:' line")
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        lines = body.strip().splitlines()
        for line in lines:
            if _NEARLY_INSERT_LINE.search(line) and not _INSERT_LINE.match(line):
                raise ValueError(f"{path.name}: {line!r} in {name} must be written '-- insert: STATEMENT'")
        comments = [line for line in lines if _is_comment(line)]
        sql = "\n".join(_inserted(line, statements) for line in lines if not _is_comment(line)).strip().rstrip(";")
        if name in statements:
            raise ValueError(f"{path.name}: statement {name} stands there twice")
        if not comments or not sql:
            raise ValueError(f"{path.name}: statement {name} needs a description and SQL")
        statements[name] = Statement(name, " ".join(line.lstrip("- ") for line in comments), sql)


def _is_comment(line: str) -> bool:
    return line.startswith("--") and _INSERT_LINE.match(line) is None


def _inserted(line: str, above: Mapping[str, Statement]) -> str:
    insert = _INSERT_LINE.match(line)
    if insert is None:
        return line
    if insert["name"] not in above:
        raise ValueError(f"inserts {insert['name']}, which is no statement above it")
    return above[insert["name"]].text
