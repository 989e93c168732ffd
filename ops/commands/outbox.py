"""The objects that must leave the bucket: what is open and why, and trying at once what would wait a day.

A name is the user's content, so it is shown only where it is asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ops.shell import Column, Shell, command
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("outbox.sql"))
_OPEN = (
    Column("STATE", "state"),
    Column("KIND", "kind"),
    Column("OBJECTS", "objects", right=True),
    Column("BYTES", "bytes", right=True),
    Column("OLDEST", "oldest"),
    Column("NEXT TRY", "next_attempt"),
)
_BUCKET = Column("BUCKET", "bucket")
_NEVER = "never tried: another bucket"
_ERRORS = (
    Column("STATE", "state"),
    Column("OBJECTS", "objects", right=True),
    Column("TRIED", "attempts", right=True),
    Column("WHAT WAS SAID", "error"),
)
_NAMES = (
    Column("STATE", "state"),
    Column("SINCE", "requested_at"),
    Column("NAME", "name"),
)


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @command(group, "outbox")
    @click.option("--names", is_flag=True, help="Show the objects' names too. They are users' content.")
    @click.option(
        "--retry-failed", is_flag=True, help="Let what failed or was held be tried by the next run. Recorded."
    )
    @click.option(
        "--limit",
        type=click.IntRange(1, 10_000),
        default=20,
        show_default=True,
        help="At most so many errors and names.",
    )
    def outbox(shell: Shell, names: bool, retry_failed: bool, limit: int) -> None:
        """Show the objects that must leave the bucket and have not: by state and kind, the oldest, the last errors.

        pending: due, or tried again within the hour. failed: the bucket refused. held: kept by a hold of ours, or by
        the object's own hold or retention. The last two are tried every day; with --retry-failed, by the next run.
        What is in another bucket than this database belongs to is never tried.

        Example: python -m ops outbox --retry-failed
        """
        if retry_failed:
            if names:
                raise click.UsageError("--names and --retry-failed do not go together.")
            _retry_failed(shell)
            return
        with shell.services.database.transaction(read_only=True) as transaction:
            found: dict[str, Sequence[Mapping[str, Any]]] = {
                "open": transaction.rows(_STATEMENTS["open"]),
                "errors": transaction.rows(_STATEMENTS["last_errors"], limit=limit),
            }
            if names:
                found["names"] = transaction.rows(_STATEMENTS["names"], limit=limit)
        if shell.as_json:
            shell.tell(found)
            return
        opened = found["open"]
        named = len({row["bucket"] for row in opened}) > 1 or any(row["other_bucket"] for row in opened)
        shown = [{**row, "next_attempt": _NEVER} if row["other_bucket"] else row for row in opened]
        shell.table(shown, (_BUCKET, *_OPEN) if named else _OPEN, "Nothing waits to leave the bucket.")
        for part, columns in (("errors", _ERRORS), ("names", _NAMES)):
            if found.get(part):
                click.echo()
                shell.table(found[part], columns, "")


def _retry_failed(shell: Shell) -> None:
    with shell.changing() as transaction:
        (row,) = transaction.rows(_STATEMENTS["retry_failed"], now=shell.now)
        if any(row.values()):
            shell.record(transaction, "outbox retry-failed", row)
        (elsewhere,) = transaction.rows(_STATEMENTS["elsewhere"])
    if any(row.values()):
        said = f"The next run tries {row['failed_count']} that failed and {row['held_count']} that were held."
    else:
        said = "Nothing that failed or is held waits for a later day."
    shell.tell(row, said)
    if count := elsewhere["objects"]:
        shell.say(f"In another bucket, and so never tried: {count:,}. `python -m ops outbox` names it.")
