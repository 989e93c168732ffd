"""What a migration would do, as SQL, before anybody does it. Nothing is changed."""

import io
from dataclasses import dataclass

import alembic.command
from alembic.script import ScriptDirectory

from ops.host_indexes import plan_host_indexes
from ops.migrate import alembic_config, look_before, newer_than_this
from shared.database_url import DatabaseTarget


@dataclass(frozen=True)
class MigrationPlan:
    """Where a migration would go from (None: from nothing) and to, and the SQL, which is empty where all is done."""

    database: str
    before: str | None
    version: str
    sql: str


def plan_migration(target: DatabaseTarget, livemode: bool | None = None, bucket: str | None = None) -> MigrationPlan:
    """Say what `migrate` would run in this database.

    Raises Misconfigured where it would refuse: the database is another environment's, is newer than this code or has
    not the service's tables; Unavailable when it cannot be reached, or something holds a lock that is needed.
    """
    before = look_before(target, livemode, bucket)
    buffer = io.StringIO()
    config = alembic_config(buffer)
    scripts = ScriptDirectory.from_config(config)
    version = scripts.get_current_head() or ""
    if before is not None and before not in {script.revision for script in scripts.walk_revisions()}:
        raise newer_than_this(target)
    parts = []
    if before != version:
        alembic.command.upgrade(config, f"{before or 'base'}:head", sql=True)
        schema = "" if before else "CREATE SCHEMA IF NOT EXISTS maintenance;\n\n"
        parts.append(
            f"-- From {before or 'nothing'} to version {version}.\nBEGIN;\n\n{schema}{buffer.getvalue()}COMMIT;\n"
        )
    parts += [indexes] if (indexes := plan_host_indexes(target)) else []
    return MigrationPlan(str(target), before, version, "\n".join(parts))
