"""`python -m ops`: the command line of the people who run this."""

import os

import click

from ops.migrate import migrate
from shared.clock import SystemClock
from shared.database_url import database_target
from shared.errors import MaintenanceError


class _Sentence(click.ClickException):
    """An error as a sentence on standard error, exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        click.echo(self.format_message(), err=True)


@click.group(help="Operate the maintenance jobs. Settings come from the environment, as for the functions.")
def cli() -> None:
    """Group the commands."""


@cli.command("migrate")
def migrate_command() -> None:
    """Create or upgrade the schema `maintenance`.

    Safe to repeat, and safe beside a live service: it touches none of the service's tables. The first time, it binds
    the database to this environment, so that a copy of it is refused elsewhere.

    Example: DATABASE_URL=postgresql://… python -m ops migrate
    """
    try:
        done = migrate(database_target(os.environ), SystemClock().now())
    except MaintenanceError as error:
        raise _Sentence(str(error)) from None
    click.echo(f"The schema maintenance in {done.database} is at version {done.version}{done.from_note}.")


if __name__ == "__main__":
    cli(prog_name="python -m ops")
