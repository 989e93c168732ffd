"""Create or upgrade our own schema, and bind the database to its environment.

What it does is one transaction: a kill leaves the schema as it was. Two at once wait for each other.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import Connection, Row, text

import shared.migrations
from ops.engine import make_engine, translated_from_engine
from shared.database_url import DatabaseTarget
from shared.errors import LockLost, Misconfigured, Unavailable
from shared.start_check import wrong_bucket, wrong_mode

# Any number, as long as it is always the same one.
_MIGRATION_LOCK = 0x6D61_6967
# No limit on statements: building something on a large table may take as long as it takes. Waiting for a lock is
# limited, because everyone else queues behind the one who waits.
_LIMITS = {"lock_timeout": "5000", "TimeZone": "UTC"}
# A database without these is not the service's.
_SERVICE_TABLES = ("billing_accounts", "usage_events", "job_runs", "source_files")


@dataclass(frozen=True)
class Migrated:
    """What a migration did: where, from which version (None: from nothing) and to which; and what is bound now."""

    database: str
    before: str | None
    version: str
    livemode: bool | None
    bucket: str | None

    @property
    def from_note(self) -> str:
        """How the version came about, for a message."""
        if self.before == self.version:
            return " already"
        return f" (was {self.before})" if self.before else " (new)"

    @property
    def bound_note(self) -> str:
        """What the database belongs to, and what is still to be said, for a message."""
        modes = {True: "Stripe's live mode", False: "Stripe's test mode", None: "no mode of Stripe yet"}
        later = {"STRIPE_SECRET_KEY": self.livemode is None, "GCS_BUCKET_NAME": self.bucket is None}
        unset = " and ".join(name for name, missing in later.items() if missing)
        bucket = f"the bucket {self.bucket}" if self.bucket else "no bucket yet"
        again = f" Run this again with {unset} set for the jobs that need it." if unset else ""
        return f"It is bound to {modes[self.livemode]} and to {bucket}.{again}"


def migrate(target: DatabaseTarget, now: datetime, livemode: bool | None = None, bucket: str | None = None) -> Migrated:
    """Bring the schema `maintenance` to this code's version; the first time, bind the database to `target`.

    `livemode` says which mode of Stripe the settings' key is for, None without a key; `bucket` is the settings' bucket,
    None without one. What is bound first stays.
    Raises Misconfigured when the database is bound to another environment or has not the service's tables, or the login
    may not create the schema, and Unavailable when it cannot be reached or something holds a lock that is needed.
    """
    engine = make_engine(target, _LIMITS)
    try:
        with translated_from_engine(target), engine.begin() as connection:
            take_turn(connection)
            before = check_before(connection, target)
            version = upgrade_schema(connection)
            bound = bind_identity(connection, target, now, livemode, bucket)
            return Migrated(str(target), before, version, bound.livemode, bound.bucket)
    except alembic.util.CommandError as error:
        raise newer_than_this(target) from error
    except LockLost as error:
        raise _locked(error) from error
    finally:
        engine.dispose()


def take_turn(connection: Connection) -> None:
    """Let one transaction after the other change the schema or who may use it."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})


def upgrade_schema(connection: Connection) -> str:
    """Run the migrations that are missing, in the connection's transaction; give the version reached."""
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS maintenance"))
    config = alembic_config()
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
    return _version(connection) or ""


def alembic_config(output: TextIO | None = None) -> alembic.config.Config:
    """Alembic's configuration; `output` is where it writes SQL that is only to be shown."""
    config = alembic.config.Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(shared.migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def check_before(connection: Connection, target: DatabaseTarget) -> str | None:
    """Whether a migration may begin; give the version that it begins at, None for none.

    Raises Misconfigured where the database is another environment's, or not the service's.
    """
    before = _version(connection)
    if before is not None:
        _check_bound_here(connection, target)
    _check_service_is_here(connection, target)
    return before


def look_before(target: DatabaseTarget, livemode: bool | None, bucket: str | None) -> str | None:
    """Say from which version a migration would go, without changing anything. Raises where `migrate` would refuse."""
    engine = make_engine(target, {**_LIMITS, "default_transaction_read_only": "on"})
    try:
        with translated_from_engine(target), engine.connect() as connection:
            before = check_before(connection, target)
            if before is not None:
                row = connection.execute(text("SELECT * FROM maintenance.identity")).first()
                bound = row._mapping if row is not None else {}
                if livemode is not None and bound.get("livemode") not in (None, livemode):
                    raise wrong_mode(bound["livemode"])
                if bucket is not None and bound.get("bucket") not in (None, bucket):
                    raise wrong_bucket(bound["bucket"], bucket)
            return before
    except LockLost as error:
        raise _locked(error) from error
    finally:
        engine.dispose()


def _locked(error: LockLost) -> Unavailable:
    return Unavailable(
        "postgres",
        f"Another session holds a lock that the migration needs: {error}. Nothing was changed. Try again.",
    )


def newer_than_this(target: DatabaseTarget) -> Misconfigured:
    """What to say where the schema is at a version that this code does not know."""
    return Misconfigured(
        "schema maintenance",
        f"The schema `maintenance` in {target} is newer than this code, or none of ours. Nothing was changed. "
        "Run the release that made it, or a newer one.",
    )


def bind_identity(
    connection: Connection,
    target: DatabaseTarget,
    now: datetime,
    livemode: bool | None = None,
    bucket: str | None = None,
) -> Row[Any]:
    """Write whose database this is, as far as that is not written already; give the `livemode` and `bucket` bound.

    Raises Misconfigured when it is bound to the other mode of Stripe, or to another bucket.
    """
    connection.execute(
        text(
            "INSERT INTO maintenance.identity (instance, database, bound_at) VALUES (:instance, :database, :now) "
            "ON CONFLICT (only_row) DO NOTHING"
        ),
        {"instance": target.instance, "database": target.database, "now": now},
    )
    row = connection.execute(
        text(
            "UPDATE maintenance.identity SET livemode = coalesce(livemode, :livemode), "
            "bucket = coalesce(bucket, :bucket) RETURNING livemode, bucket"
        ),
        {"livemode": livemode, "bucket": bucket},
    ).one()
    if livemode is not None and row.livemode != livemode:
        raise wrong_mode(row.livemode)
    if bucket is not None and row.bucket != bucket:
        raise wrong_bucket(row.bucket, bucket)
    return row


def _check_service_is_here(connection: Connection, target: DatabaseTarget) -> None:
    missing = connection.scalars(
        text("SELECT name FROM unnest(CAST(:tables AS text[])) AS name WHERE to_regclass(name) IS NULL"),
        {"tables": list(_SERVICE_TABLES)},
    ).all()
    if missing:
        raise Misconfigured(
            "database",
            f"The service's tables are not in {target}: there is no {', '.join(missing)}. Is that the right database? "
            "The service's own migrations come first. Nothing was changed.",
        )


def _version(connection: Connection) -> str | None:
    if connection.scalar(text("SELECT to_regclass('maintenance.alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("SELECT max(version_num) FROM maintenance.alembic_version"))
    return version


def _check_bound_here(connection: Connection, target: DatabaseTarget) -> None:
    row = connection.execute(text("SELECT instance, database FROM maintenance.identity")).first()
    if row is not None and (row.instance, row.database) != (target.instance, target.database):
        raise Misconfigured(
            "identity",
            f"This database belongs to another environment: it is bound to {row.instance}/{row.database}, and the "
            f"settings name {target}. Nothing was changed. Correct the settings; a copy is bound anew by "
            "`python -m ops adopt`.",
        )
