"""The register of erasures: what was erased when, without a word of what it was.

Users stand in it under a keyed hash, so that only who knows an id already can ask for it.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from functions.cleanup.erasing import STATEMENTS as ERASING
from functions.cleanup.erasing import hash_of
from functions.registry import JOBS
from ops.commands.words import Words
from ops.grants import HEALTH_JOB
from ops.shell import Column, Shell, cell, command, printable
from shared.sql import load_statements
from shared.start_check import check_start

_STATEMENTS = load_statements(Path(__file__).with_name("erasures.sql"))
_SHOWN, _PAGE = 20, 5_000
_FIELDS = (
    *("id", "erased_at", "job", "run_id", "job_run_id", "user_hash", "extent"),
    *("row_counts", "objects", "bytes", "completed_at", "copies", "copies_until"),
)
# What spreadsheets take for the beginning of a formula, in its wide forms too.
_FORMULA = frozenset("=+-@＝＋－＠")  # noqa: RUF001  meant
_COLUMNS = (
    Column("ERASED", "erased_at"),
    Column("RUN", "job_run_id"),
    Column("EXTENT", "extent"),
    Column("ROWS", "rows", right=True),
    Column("OBJECTS", "objects", right=True),
    Column("COMPLETE", "completed_at"),
    Column("COPIES", "kept"),
)


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @command(group, "erasures")
    @click.option("--user", type=Words(), help="Only of the user with this id.")
    @click.option("--export", type=click.Choice(["csv"]), help="Print all of it in this form, to standard output.")
    @click.option("--limit", type=click.IntRange(1, 10_000), help=f"At most so many; {_SHOWN} unless exported.")
    def erasures(shell: Shell, user: str | None, export: str | None, limit: int | None) -> None:
        """Show what was erased, the newest first. It is complete when its objects have left the bucket, too.

        COPIES says what of them the bucket still keeps, and until when it does.

        Example: python -m ops erasures --user 8hVkQw2pXa --export csv > register.csv
        """
        if export and shell.as_json:
            raise click.UsageError("--export and --json are two forms of output. Name one.")
        user_hash = None if user is None else _hash(shell, user)
        if export:
            _write_csv(_pages(shell, user_hash, limit))
            return
        rows = [row for page in _pages(shell, user_hash, limit or _SHOWN) for row in page]
        shown = rows if shell.as_json else [_summed(row) for row in rows]
        shell.table(shown, _COLUMNS, "Nothing was erased yet." if user is None else "Nothing of this user was erased.")


def _hash(shell: Shell, user: str) -> str:
    with shell.services.database.transaction(read_only=True) as transaction:
        check_start(transaction, JOBS[HEALTH_JOB], shell.services.settings, shell.now)
        (row,) = transaction.rows(ERASING["erasure_key"])
    return hash_of(bytes(row["erasure_key"]), user)


def _pages(shell: Shell, user_hash: str | None, limit: int | None) -> Iterator[Sequence[Mapping[str, object]]]:
    """The register in parts, each read by itself: who reads the output may take a long time."""
    below, left = None, limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        with shell.services.database.transaction(read_only=True) as transaction:
            page = transaction.rows(_STATEMENTS["register"], user_hash=user_hash, below=below, limit=size)
        yield page
        if len(page) < size:
            return
        below, left = page[-1]["id"], None if left is None else left - size


def _write_csv(pages: Iterator[Sequence[Mapping[str, object]]]) -> None:
    writer = csv.writer(sys.stdout)
    for number, page in enumerate(pages):
        # Not before the first page is there: where the database is down, nothing is printed.
        if number == 0:
            writer.writerow(_FIELDS)
        writer.writerows([_csv_cell(row[name]) for name in _FIELDS] for row in page)


def _csv_cell(value: object) -> object:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return harmless(json.dumps(value))
    return harmless(cell(value))


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula and no terminal for a command."""
    text = printable(text)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA else text


def _summed(row: Mapping[str, object]) -> Mapping[str, object]:
    counts = row["row_counts"]
    kept = " until ".join(cell(each) for each in (row["copies"], row["copies_until"]) if each is not None)
    return {**row, "rows": sum(counts.values()) if isinstance(counts, Mapping) else None, "kept": kept or None}
