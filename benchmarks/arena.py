"""Databases to measure in: each way starts from an identical fresh copy of one template."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from devstack.accounts import add_accounts, add_plans
from devstack.databases import create_database, drop_database
from devstack.stack import Stack
from ops.migrate import migrate
from shared.clock import SystemClock
from shared.database_url import database_target
from shared.tables import metadata


@dataclass(frozen=True)
class Arena:
    """The servers, and databases made on PostgreSQL."""

    stack: Stack

    def environ(self, database_url: str) -> dict[str, str]:
        """The settings of a function that works on a database here."""
        return {"DATABASE_URL": database_url, "REDIS_URL": self.stack.redis_url}

    def url_of(self, name: str) -> str:
        """The URL of a database here."""
        return make_url(self.stack.database_url).set(database=name).render_as_string(hide_password=False)

    @contextmanager
    def template(self, name: str, accounts: Mapping[str, int]) -> Iterator[str]:
        """A database with so many accounts of each kind (see devstack.accounts), to be copied; gives its name."""
        drop_database(self.stack.database_url, name)
        url = create_database(self.stack.database_url, name)
        try:
            now = SystemClock().now()
            with connected(url) as connection, connection.begin():
                metadata.create_all(connection)
                # The rows fit together as they are made; checking two million foreign keys would take a minute.
                connection.execute(text("SET LOCAL session_replication_role = replica"))
                add_plans(connection)
                for kind, count in accounts.items():
                    add_accounts(connection, kind, count, now)
            # Copied along: statistics, hint bits and the visibility map, so that no way pays for them.
            with connected(url, autocommit=True) as connection:
                connection.execute(text("VACUUM (ANALYZE, FREEZE)"))
            yield name
        finally:
            drop_database(self.stack.database_url, name)

    @contextmanager
    def fresh(self, template: str, bucket: str | None = None) -> Iterator[str]:
        """A copy of a template with our own schema, bound to a bucket, and a checkpoint just behind; gives its URL."""
        # Each with a name of its own: Redis would answer a slot again that it knows from another copy of this name.
        name = f"{template}_{secrets.token_hex(4)}"
        url = create_database(self.stack.database_url, name, template=template)
        try:
            migrate(database_target({"DATABASE_URL": url}), SystemClock().now(), bucket=bucket)
            with connected(url, autocommit=True) as connection:
                connection.execute(text("CHECKPOINT"))
            yield url
        finally:
            drop_database(self.stack.database_url, name)


@contextmanager
def connected(url: str, *, autocommit: bool = False) -> Iterator[Connection]:
    """A connection of its own to a database, closed at the end. No limit on time: the slow way may take as it likes."""
    engine = create_engine(make_url(url).set(drivername="postgresql+pg8000"), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT") if autocommit else connection
    finally:
        engine.dispose()
