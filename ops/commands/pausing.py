"""Stopping a job for a while, and letting it run again."""

from datetime import datetime
from pathlib import Path

import click

from ops.commands.looking import job_of
from ops.commands.moments import Moment
from ops.commands.words import Words
from ops.shell import NotThere, Shell, command, operator
from shared.clock import format_rfc3339
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("pausing.sql"))


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @command(group, "pause")
    @click.argument("job")
    @click.option("--until", type=Moment(), required=True, help="Until when, such as 2099-01-31T06:00:00Z.")
    @click.option("--reason", type=Words(), required=True, help="Why, for whoever finds it paused.")
    def pause(shell: Shell, job: str, until: datetime, reason: str) -> None:
        """Let JOB not run until a time. It survives a terraform apply, and is recorded.

        Firings are answered with `paused` meanwhile, and are not made up for. A job that runs now goes on.

        Example: python -m ops pause artifact --until 2099-01-31T06:00:00Z --reason "moving the bucket"
        """
        found = job_of(job)
        if until <= shell.now:
            raise NotThere(f"{format_rfc3339(until)} is over. Name a time to come.")
        with shell.changing() as transaction:
            transaction.execute(_STATEMENTS["pause"], job=found.name, until=until, by=operator(), why=reason)
            shell.record(transaction, "pause", {"job": found.name, "until": until}, reason)
        done = {"job": found.name, "paused_until": until, "by": operator(), "why": reason}
        shell.tell(done, f"{found.name} is paused until {format_rfc3339(until)}.")

    @command(group, "resume")
    @click.argument("job")
    def resume(shell: Shell, job: str) -> None:
        """Let JOB run again, from its next firing on. Recorded.

        Example: python -m ops resume artifact
        """
        found = job_of(job)
        with shell.changing() as transaction:
            ended = transaction.row(_STATEMENTS["resume"], job=found.name)
            if ended is None:
                raise NotThere(f"{found.name} is not paused. `python -m ops status` says how each job is.")
            shell.record(transaction, "resume", {"job": found.name, "was_paused_until": ended["paused_until"]})
        next_firing = found.next_firing(shell.now)
        done = {"job": found.name, "next_firing": next_firing}
        shell.tell(done, f"{found.name} runs again: next at {format_rfc3339(next_firing)}.")
