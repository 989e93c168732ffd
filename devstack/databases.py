"""Make and drop databases on a server, for tests: one a test, from a template."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from shared.database_url import database_target
from shared.postgres_connect import connector_for, set_patience

_MAX_NAME_BYTES = 63


def create_database(server_url: str, name: str, template: str | None = None) -> str:
    """Make a database and return its URL: the server's, with the database replaced.

    In: the URL of any database on the server, the new name, and the database to copy, which nobody may be connected to.
    Errors: ValueError for a name that PostgreSQL would refuse or cut off; Unavailable or Misconfigured where the server
    cannot be reached so; pg8000's DatabaseError if it exists, if the template is in use, or if the login may not.
    """
    statement = f"CREATE DATABASE {_identifier(name)}"
    if template is not None:
        # Copying files costs a third of PostgreSQL's default way, which writes all of the template to the log.
        statement += f" TEMPLATE {_identifier(template)} STRATEGY file_copy"
    with _connected(server_url) as connection:
        connection.execute_simple(statement)
    return urlunsplit(urlsplit(server_url)._replace(path="/" + quote(name, safe="")))


def drop_database(server_url: str, name: str) -> None:
    """Drop a database, ending all connections to it; one that does not exist is fine.

    In: the URL of another database on the server, and the name. Errors: ValueError for an impossible name;
    Unavailable or Misconfigured where the server cannot be reached so; pg8000's DatabaseError if the login may not.
    """
    with _connected(server_url) as connection:
        connection.execute_simple(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")


def _identifier(name: str) -> str:
    """Return the name quoted. Raises ValueError where PostgreSQL would cut it off and so mean another database."""
    if not name or "\0" in name or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"A database's name has 1 to {_MAX_NAME_BYTES} bytes and no NUL: {name!r}")
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _connected(url: str) -> Iterator[Any]:
    """Connect to the URL's database, outside a transaction, as the jobs connect."""
    connection = connector_for(database_target({"DATABASE_URL": url}), {})()
    try:
        # Making a database takes as long as it takes.
        set_patience(connection, None)
        connection.autocommit = True
        yield connection
    finally:
        connection.close()
