"""The register of erasures: what was erased when, without a word of what it was.

Users stand in it under a keyed hash, so that only who knows an id already can ask for it.
"""

import sys

import click

from ops.commands.words import Words
from ops.erasure_register import as_csv, hash_of_user, pages, summed
from ops.shell import Column, Shell, command

_SHOWN = 20
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
        user_hash = None if user is None else hash_of_user(shell.services, user)
        if export:
            sys.stdout.writelines(as_csv(pages(shell.services, user_hash, limit)))
            return
        rows = [row for page in pages(shell.services, user_hash, limit or _SHOWN) for row in page]
        shown = rows if shell.as_json else [summed(row) for row in rows]
        shell.table(shown, _COLUMNS, "Nothing was erased yet." if user is None else "Nothing of this user was erased.")
