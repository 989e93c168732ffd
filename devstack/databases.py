"""Make and drop databases on a server, for tests: one a test, from a template."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

import pg8000.native

_MAX_NAME_BYTES = 63


def create_database(server_url: str, name: str, template: str | None = None) -> str:
    """Make a database and return its URL: the server's, with the database replaced.

    In: the URL of any database on the server, the new name, and the database to copy, which nobody may be connected to.
    Errors: ValueError for a name that PostgreSQL would refuse or cut off; pg8000's DatabaseError if it exists, if the
    template is in use, or if the login may not make databases.
    """
    statement = f"CREATE DATABASE {_identifier(name)}"
    if template is not None:
        # Copying files costs a third of PostgreSQL's default way, which writes all of the template to the log.
        statement += f" TEMPLATE {_identifier(template)} STRATEGY file_copy"
    with _connected(server_url) as connection:
        connection.run(statement)
    return urlunsplit(urlsplit(server_url)._replace(path="/" + quote(name, safe="")))


def drop_database(server_url: str, name: str) -> None:
    """Drop a database, ending all connections to it; one that does not exist is fine.

    In: the URL of another database on the server, and the name. Errors: ValueError for an impossible name; pg8000's
    DatabaseError if the login may not drop it.
    """
    with _connected(server_url) as connection:
        connection.run(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")


def _identifier(name: str) -> str:
    """Return the name quoted. Raises ValueError where PostgreSQL would cut it off and so mean another database."""
    if not name or "\0" in name or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"A database's name has 1 to {_MAX_NAME_BYTES} bytes and no NUL: {name!r}")
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _connected(url: str) -> Iterator[pg8000.native.Connection]:
    """Connect to the URL's database, outside a transaction; `?host=/folder` means the unix socket in that folder."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    port = parts.port or 5432
    host = query.get("host", [parts.hostname or "localhost"])[-1]
    connection = pg8000.native.Connection(
        unquote(parts.username or "postgres"),
        host=host,
        port=port,
        unix_sock=f"{host}/.s.PGSQL.{port}" if host.startswith("/") else None,
        database=unquote(parts.path.lstrip("/")) or "postgres",
        password=None if parts.password is None else unquote(parts.password),
        ssl_context=_encryption(query.get("sslmode", ["prefer"])[-1], host),
    )
    try:
        yield connection
    finally:
        connection.close()


def _encryption(mode: str, host: str) -> ssl.SSLContext | bool | None:
    """Return what pg8000 calls a sslmode: False never, None if offered, True always, a context to verify as well."""
    if mode == "disable" or host.startswith("/"):
        return False
    if mode in {"allow", "prefer"}:
        return None
    if mode == "require":
        return True
    context = ssl.create_default_context()
    context.check_hostname = mode == "verify-full"
    return context
