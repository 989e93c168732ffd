"""`python -m ops`: the command line of the people who run this."""

import os

import click

from ops import host_indexes
from ops.migrate import migrate
from shared.cleanup_settings import bucket_name
from shared.clock import SystemClock
from shared.database_url import database_target
from shared.errors import MaintenanceError
from shared.stripe_settings import stripe_settings


class _Sentence(click.ClickException):
    """An error as a sentence on standard error, exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        click.echo(self.format_message(), err=True)


@click.group(help="Operate the maintenance jobs. Settings come from the environment, as for the functions.")
def cli() -> None:
    """Group the commands."""


@cli.command("migrate")
@click.option(
    "--host-sql", is_flag=True, help="Only print the indexes for the service's own tables, for its own migrations."
)
def migrate_command(host_sql: bool) -> None:
    """Create or upgrade the schema `maintenance`, and build the indexes that jobs need.

    Safe to repeat, and safe beside a live service: of the service's tables it touches nothing but that it adds missing
    indexes, without locking anybody out. The first time, it binds the database to this environment, so that a copy of
    it is refused elsewhere; with STRIPE_SECRET_KEY set, to that key's mode (live or test) too, and with GCS_BUCKET_NAME
    to that bucket.

    Example: DATABASE_URL=postgresql://… STRIPE_SECRET_KEY=sk_test_… python -m ops migrate
    """
    if host_sql:
        click.echo(host_indexes.host_sql(), nl=False)
        return
    try:
        target = database_target(os.environ)
        done = migrate(target, SystemClock().now(), stripe_settings(os.environ).livemode, bucket_name(os.environ))
        click.echo(f"The schema maintenance in {done.database} is at version {done.version}{done.from_note}.")
        for name in host_indexes.build_host_indexes(target):
            click.echo(f"Built the index {name}.")
    except MaintenanceError as error:
        raise _Sentence(str(error)) from None


if __name__ == "__main__":
    cli(prog_name="python -m ops")
