"""The indexes that jobs need on the service's own tables. They change no column, type or constraint.

They are built with CREATE INDEX CONCURRENTLY, beside a live service. An index needs the table's owner: where the login
is not, `--host-sql` prints the statements for the service's own migrations.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from ops.engine import make_engine, translated_from_engine
from shared.database_url import DatabaseTarget
from shared.errors import Misconfigured

# Any number, as long as it is always the same one, and not the migration's.
_INDEX_LOCK = 0x6D61_6978
# Waiting here holds nobody up, and a build that gives up leaves a useless index behind.
_LIMITS = {"lock_timeout": "0", "TimeZone": "UTC"}
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class HostIndex:
    """An index on a table of the service's: its name, what it is on, what it is for, and any predicate."""

    name: str
    table: str
    column: str
    purpose: str
    predicate: str | None = None

    @property
    def sql(self) -> str:
        """The statement that builds it."""
        where = f" WHERE {self.predicate}" if self.predicate else ""
        return f"CREATE INDEX CONCURRENTLY {self.name} ON {self.table} ({self.column}){where}"


HOST_INDEXES = (
    HostIndex(
        "maintenance_usage_events_unreported",
        "usage_events",
        "occurred_at",
        "stripe_reconcile finds what was not reported without reading all of the table",
        predicate="NOT stripe_reported",
    ),
    HostIndex(
        "maintenance_usage_events_task_id",
        "usage_events",
        "task_id",
        "without it, each task that a cleanup erases reads all of usage_events",
    ),
    HostIndex(
        "maintenance_source_files_to_tasks_task_id",
        "source_files_to_tasks",
        "task_id",
        "without it, each task that a cleanup erases reads all links",
    ),
    HostIndex(
        "maintenance_job_runs_append_from_run_id",
        "job_runs",
        "append_from_run_id",
        "without it, each run that a cleanup erases reads all runs",
    ),
)

# By what it is on, not by its name: the service may have built the same under another one. An index that a broken build
# left behind is not valid and serves nobody.
_FIND = text(
    """
    SELECT index.relname AS name, pg_index.indisvalid AS valid
    FROM pg_index
    JOIN pg_class AS index ON index.oid = pg_index.indexrelid
    JOIN pg_attribute AS attribute
        ON attribute.attrelid = pg_index.indrelid AND attribute.attnum = pg_index.indkey[0]
    WHERE pg_index.indrelid = to_regclass(:table)
      AND attribute.attname = :column
      AND pg_get_expr(pg_index.indpred, pg_index.indrelid) IS NOT DISTINCT FROM CAST(:predicate AS text)
    """
)


def host_sql() -> str:
    """All statements, for the service's own migrations: those that find an index of the name there do nothing."""
    if_missing = {index: index.sql.replace("CONCURRENTLY", "CONCURRENTLY IF NOT EXISTS", 1) for index in HOST_INDEXES}
    return "".join(f"-- {index.purpose}\n{sql};\n" for index, sql in if_missing.items())


def build_host_indexes(target: DatabaseTarget) -> list[str]:
    """Build what is missing or not valid; give the names of what was built.

    Two at once take turns. Raises Misconfigured where the login does not own a table or the table is not there, and
    Unavailable when the database cannot be reached.
    """
    with _connected(target) as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        _take_turn(connection)
        return [index.name for index in HOST_INDEXES if _build(connection, index)]


def missing_host_indexes(target: DatabaseTarget) -> list[str]:
    """The names of those that are missing or not valid, also where their table is not there. Changes nothing.

    Raises Unavailable when the database cannot be reached, Misconfigured when it does not let the login in.
    """
    with _connected(target) as connection:
        return [index.name for index in HOST_INDEXES if not any(row.valid for row in _found(connection, index))]


def plan_host_indexes(target: DatabaseTarget) -> str:
    """The statements that `build_host_indexes` would run, with what each is for; whose tables they are is not asked.

    Raises as `missing_host_indexes` does.
    """
    with _connected(target) as connection:
        parts = []
        for index in HOST_INDEXES:
            found = _found(connection, index)
            if not any(row.valid for row in found):
                broken = any(row.name == index.name for row in found)
                drop = f"{_drop(index)};\n" if broken else ""
                parts.append(f"-- By itself, without locking anybody out: {index.purpose}.\n{drop}{index.sql};\n")
        return "\n".join(parts)


@contextmanager
def _connected(target: DatabaseTarget) -> Iterator[Connection]:
    engine = make_engine(target, _LIMITS)
    try:
        with translated_from_engine(target), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _drop(index: HostIndex) -> str:
    return f'DROP INDEX CONCURRENTLY "{index.name}"'


def _found(connection: Connection, index: HostIndex) -> Sequence[Row[Any]]:
    """The indexes that serve the same purpose, whatever their names and whether or not they are valid."""
    predicate = f"({index.predicate})" if index.predicate else None
    asked = {"table": index.table, "column": index.column, "predicate": predicate}
    return connection.execute(_FIND, asked).all()


def _take_turn(connection: Connection) -> None:
    # Asked for again and again: a session that waits inside a statement would be waited for by the one that builds.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _INDEX_LOCK}):
        time.sleep(_POLL_SECONDS * (0.5 + random.random()))  # noqa: S311  no secret


def _build(connection: Connection, index: HostIndex) -> bool:
    found = _found(connection, index)
    if any(row.valid for row in found):
        return False
    owned = connection.scalar(
        text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:table)"),
        {"table": index.table},
    )
    if not owned:
        why = "does not own the table" if owned is False else "finds no such table"
        raise Misconfigured(
            "database rights",
            f"The index {index.name} on {index.table} is missing ({index.purpose}), and this login {why}. Run `python "
            "-m ops migrate --host-sql` and add what it prints to the service's migrations.",
        )
    # Only one of ours: another may be one that the service is building at this moment.
    if any(row.name == index.name for row in found):
        connection.execute(text(_drop(index)))
    connection.execute(text(index.sql))
    return True
