"""Holds: what of a user, a job or a run no cleanup may take.

Who is told that something is held can rely on it: setting a hold waits for the batches that are at work, and only then
looks whether its subject is still there.
"""

import uuid
from datetime import datetime
from pathlib import Path

import click

from ops.commands.moments import Moment
from ops.commands.words import Words
from ops.shell import Column, NotThere, Shell, cell, command, operator, printable
from shared.clock import format_rfc3339
from shared.errors import LockLost, Unavailable
from shared.postgres import Transaction
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("holds.sql"))
_SCOPES = ("user", "job", "run")
# Longer than any batch takes. New batches wait behind this for half a second, and then their runs are tried again.
_PATIENCE_MS = 30_000
_LARGEST_ID = 2**63 - 1
_COLUMNS = (
    Column("HOLD", "id", right=True),
    Column("ON", "on"),
    Column("UNTIL", "until"),
    Column("BY", "by"),
    Column("REASON", "reason"),
)
_WITH_ENDED = (*_COLUMNS[:2], Column("IN FORCE", "in_force"), *_COLUMNS[2:])


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @group.group("hold", help="What no cleanup may take: of a user, a job or a run.")
    def hold() -> None:
        """Group the commands."""

    @command(hold, "add")
    @click.argument("scope", type=click.Choice(_SCOPES))
    @click.argument("subject", type=Words())
    @click.option("--reason", type=Words(), required=True, help="Why, for whoever finds it held.")
    @click.option(
        "--until", type=Moment(), help="Until when, such as 2099-01-31T06:00:00Z. Until it is ended if not given."
    )
    @click.option(
        "--not-here", is_flag=True, help="Even if the service's tables have no such user, job or run (any more)."
    )
    def add(shell: Shell, scope: str, subject: str, reason: str, until: datetime | None, not_here: bool) -> None:
        """Let no cleanup take anything of SUBJECT: a user's id, or an extraction job's or a run's uuid. Recorded.

        Waits for the batches at work, up to half a minute. Once this says so, the subject is held. The same hold once
        more changes nothing; for another reason there may be a second one.

        Example: python -m ops hold add user 8hVkQw2pXa --reason "case 4711" --until 2099-01-31T06:00:00Z
        """
        subject = _subject(scope, subject)
        if until is not None and until <= shell.now:
            raise NotThere(f"{format_rfc3339(until)} is over. Name a time to come.")
        values = {"scope": scope, "subject": subject, "reason": reason, "until": until}
        with shell.changing() as transaction:
            _let_batches_end(transaction)
            found = transaction.row(_STATEMENTS["same"], **values)
            if found is None:
                _check_here(transaction, scope, subject, not_here)
                added = transaction.row(_STATEMENTS["add"], by=operator(), now=shell.now, **values)
                number = added["id"] if added else None
                arguments = {"hold": number, "scope": scope, "subject": subject, "until": until, "not_here": not_here}
                shell.record(transaction, "hold add", arguments, reason)
            else:
                number = found["id"]
        lasts = f"until {format_rfc3339(until)}" if until else "until somebody ends it"
        already = f", since {cell(found['created_at'])} by {found['by']}" if found else ""
        done = {"hold": number, **values, "new": found is None}
        shell.tell(done, f"Hold {number}: the {scope} {subject} is held {lasts}{already}.")

    @command(hold, "list")
    @click.option("--all", "ended_too", is_flag=True, help="Those too that are over.")
    def show(shell: Shell, ended_too: bool) -> None:
        """Show what is held, the newest first.

        Example: python -m ops hold list --all
        """
        with shell.services.database.transaction(read_only=True) as transaction:
            rows = transaction.rows(_STATEMENTS["holds"], now=shell.now, ended_too=ended_too)
        shown = rows if shell.as_json else [{**row, "on": f"{row['scope']} {row['subject']}"} for row in rows]
        columns, nothing = (_WITH_ENDED, "Nothing was ever held.") if ended_too else (_COLUMNS, "Nothing is held.")
        shell.table(shown, columns, nothing)

    @command(hold, "end")
    @click.argument("hold_id", type=click.IntRange(1, _LARGEST_ID), metavar="ID")
    @click.option("--reason", type=Words(), required=True, help="Why it may go now.")
    def end(shell: Shell, hold_id: int, reason: str) -> None:
        """End a hold: cleanups may take its subject again, unless another hold keeps it. Recorded; its row stays.

        Example: python -m ops hold end 12 --reason "case 4711 is closed"
        """
        with shell.changing() as transaction:
            _let_batches_end(transaction)
            row = transaction.row(_STATEMENTS["hold"], id=hold_id, now=shell.now)
            if row is None:
                raise NotThere(f"There is no hold {hold_id}. `python -m ops hold list` lists them.")
            if not row["in_force"]:
                raise NotThere(
                    f"Hold {hold_id} is over since {cell(row['until'])}. `python -m ops hold list` has those in force."
                )
            transaction.execute(_STATEMENTS["end"], id=hold_id, now=shell.now)
            about = {"hold": hold_id, "scope": row["scope"], "subject": row["subject"]}
            shell.record(transaction, "hold end", {**about, "was_until": row["until"]}, reason)
        shell.tell(about, f"Hold {hold_id} has ended: it keeps the {row['scope']} {row['subject']} no longer.")


def _subject(scope: str, subject: str) -> str:
    """The subject as holds are found by it: a uuid as PostgreSQL writes it."""
    if scope == "user":
        return subject
    try:
        return str(uuid.UUID(subject))
    except ValueError:
        raise click.BadParameter(
            f"{printable(subject)!r} is no uuid such as 6f9619ff-8b86-4011-b42d-00c04fc964ff.", param_hint="SUBJECT"
        ) from None


def _let_batches_end(transaction: Transaction) -> None:
    """Make sure that no batch is at work."""
    transaction.limit("lock_timeout", _PATIENCE_MS)
    try:
        transaction.rows(_STATEMENTS["let_batches_end"])
    except LockLost as error:
        raise Unavailable(
            "postgres",
            f"A batch of a cleanup is at work, and did not end within {_PATIENCE_MS // 1000} s. No hold was changed. "
            "Try again.",
        ) from error


def _check_here(transaction: Transaction, scope: str, subject: str, not_here: bool) -> None:
    row = None if not_here else transaction.row(_STATEMENTS[f"{scope}_is_here"], subject=subject)
    if row is not None and not row["here"]:
        what = {"user": "user", "job": "extraction job", "run": "run"}[scope]
        raise NotThere(
            f"There is no {what} {printable(subject)}, so nothing was held. If it is gone and its objects must stay, "
            "say --not-here."
        )
