"""`python -m ops`: the command line of the people who run this."""

import io
import json
import os
import sys

import click

from functions.registry import JOBS
from ops import host_indexes
from ops.commands import looking, pausing
from ops.grants import grant, grants_sql, read_logins
from ops.migrate import migrate
from ops.run import job_named, run_by_hand
from shared.cleanup_settings import bucket_name
from shared.clock import SystemClock
from shared.database_url import database_target
from shared.errors import MaintenanceError
from shared.services import Services
from shared.stripe_settings import stripe_settings


class _Sentence(click.ClickException):
    """An error as a sentence on standard error, exit code 1."""

    def show(self, file: object = None) -> None:  # noqa: ARG002  click's signature
        click.echo(self.format_message(), err=True)


@click.group(help="Operate the maintenance jobs. Settings come from the environment, as for the functions.")
def cli() -> None:
    """Group the commands."""


for part in (looking, pausing):
    part.add_to(cli)


@cli.command("migrate")
@click.option(
    "--grants",
    type=click.File(),
    help="Then give each function's login the tables that its job needs. What `terraform output -json database_users` "
    "prints, as a file, or - for standard input.",
)
@click.option(
    "--host-sql",
    is_flag=True,
    help="Only print what concerns the service's own tables, for its own migrations: the indexes, or with --grants the "
    "rights.",
)
def migrate_command(grants: io.TextIOBase | None, host_sql: bool) -> None:
    """Create or upgrade the schema `maintenance`, and build the indexes that jobs need.

    Safe to repeat, and safe beside a live service: of the service's tables it touches nothing but that it adds missing
    indexes, without locking anybody out, and gives rights. The first time, it binds the database to this environment,
    so that a copy of it is refused elsewhere; with STRIPE_SECRET_KEY set, to that key's mode (live or test) too, and
    with GCS_BUCKET_NAME to that bucket.

    Example: DATABASE_URL=postgresql://… STRIPE_SECRET_KEY=sk_test_… python -m ops migrate
    """
    try:
        logins = None if grants is None else read_logins(grants.read(), JOBS)
        if host_sql:
            click.echo(grants_sql(logins, JOBS) if logins else host_indexes.host_sql(), nl=False)
            return
        target = database_target(os.environ)
        done = migrate(target, SystemClock().now(), stripe_settings(os.environ).livemode, bucket_name(os.environ))
        click.echo(f"The schema maintenance in {done.database} is at version {done.version}{done.from_note}.")
        click.echo(done.bound_note)
        for login in grant(target, logins, JOBS) if logins else ():
            click.echo(f"Gave {login} the tables of its job.")
        for name in host_indexes.build_host_indexes(target):
            click.echo(f"Built the index {name}.")
    except MaintenanceError as error:
        raise _Sentence(str(error)) from None


@cli.command("run")
@click.argument("job")
@click.option("--dry-run", is_flag=True, help="Only count what would be done.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many items.")
@click.option(
    "--allow-deletes", type=click.IntRange(min=1), help="Let this one run delete so many, past the guard. Recorded."
)
def run_command(job: str, dry_run: bool, limit: int | None, allow_deletes: int | None) -> None:
    """Run JOB here: period, stripe, usage, abandoned, artifact or optout.

    Prints the answer that the function would give; the log goes to standard error. Exit code 0 for success.

    Example: python -m ops run artifact --dry-run
    """
    found = job_named(job)
    if found is None:
        raise _Sentence(f"There is no job {job!r}. The jobs are {', '.join(each.cli for each in JOBS.values())}.")
    services = Services(os.environ, SystemClock(), sys.stderr)
    try:
        outcome = run_by_hand(services, found, dry_run=dry_run, limit=limit, allow_deletes=allow_deletes)
    except MaintenanceError as error:
        raise _Sentence(services.redact(str(error))) from None
    finally:
        services.close()
    click.echo(json.dumps(outcome.as_json()))
    if not outcome.success:
        sys.exit(1)


if __name__ == "__main__":
    cli(prog_name="python -m ops")
