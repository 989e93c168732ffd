"""Our own schema, what belongs to it, and who may use it."""

import io
import os

import click

from functions.registry import JOBS
from ops import host_indexes
from ops.grants import grant, grants_sql, read_logins
from ops.migrate import migrate
from ops.migration_plan import MigrationPlan, plan_migration
from ops.shell import Shell, command
from shared.cleanup_settings import bucket_name
from shared.database_url import database_target
from shared.stripe_settings import stripe_settings


def add_to(group: click.Group) -> None:
    """Add this command."""

    @command(group, "migrate")
    @click.option(
        "--grants",
        type=click.File(),
        help="Then give each function's login the tables that its job needs. What `terraform output -json "
        "database_users` prints, as a file, or - for standard input.",
    )
    @click.option(
        "--host-sql",
        is_flag=True,
        help="Only print what concerns the service's own tables, for its own migrations: the indexes, or with --grants "
        "the rights.",
    )
    @click.option("--plan", is_flag=True, help="Only print the SQL that this would run, and change nothing.")
    def migrate_command(shell: Shell, grants: io.TextIOBase | None, host_sql: bool, plan: bool) -> None:
        """Create or upgrade the schema `maintenance`, and build the indexes that jobs need.

        Safe to repeat, and safe beside a live service: of the service's tables it touches nothing but that it adds
        missing indexes, without locking anybody out, and gives rights. The first time, it binds the database to this
        environment, so that a copy of it is refused elsewhere; with STRIPE_SECRET_KEY set, to that key's mode (live or
        test) too, and with GCS_BUCKET_NAME to that bucket.

        Example: DATABASE_URL=postgresql://… python -m ops migrate --plan
        """
        if plan and host_sql:
            raise click.UsageError("--plan and --host-sql both only print. Name one.")
        logins = None if grants is None else read_logins(grants.read(), JOBS)
        if host_sql:
            statements = grants_sql(logins, JOBS) if logins else host_indexes.host_sql()
            shell.tell({"sql": statements}, *statements.splitlines())
            return
        target = database_target(os.environ)
        mode, bucket = stripe_settings(os.environ).livemode, bucket_name(os.environ)
        if plan:
            _show(
                shell, plan_migration(target, mode, bucket), grants_sql(logins, JOBS, with_ours=True) if logins else ""
            )
            return
        done = migrate(target, shell.now, mode, bucket)
        shell.say(f"The schema maintenance in {done.database} is at version {done.version}{done.from_note}.")
        shell.say(done.bound_note)
        granted = grant(target, logins, JOBS) if logins else []
        for login in granted:
            shell.say(f"Gave {login} the tables of its job.")
        built = host_indexes.build_host_indexes(target)
        told = {
            "database": done.database,
            "before": done.before,
            "version": done.version,
            "livemode": done.livemode,
            "bucket": done.bucket,
            "granted": granted,
            "built": built,
        }
        shell.tell(told, *(f"Built the index {name}." for name in built))


def _show(shell: Shell, plan: MigrationPlan, grants: str) -> None:
    """Print a plan as SQL that psql would take, with what is no SQL as comments."""
    first = (
        f"-- The schema maintenance in {plan.database} is at version {plan.before or 'none'}; this is {plan.version}."
    )
    given = f"-- Rights, as far as this login owns the tables:\n{grants}" if grants else ""
    told = {
        "database": plan.database,
        "before": plan.before,
        "version": plan.version,
        "sql": plan.sql,
        "grants": grants,
    }
    lines = [*first.splitlines(), *plan.sql.splitlines(), *given.splitlines()]
    if not plan.sql:
        lines.insert(1, "-- Nothing is missing.")
    if plan.before is None:
        lines.append("-- Then it binds the database to this environment.")
    shell.tell(told, *lines)
