"""Databases are made and dropped by name."""

from __future__ import annotations

import contextlib
from urllib.parse import urlsplit

import pg8000.native
import pytest

from devstack.databases import create_database, drop_database
from devstack.postgres import PostgresServer
from tests.support.owners import (
    query,
)


def test_a_database_is_made_from_a_template_and_dropped_under_its_users(server: PostgresServer) -> None:
    template = create_database(server.url(), "template")
    query(template, "CREATE TABLE kept AS SELECT 42 AS answer")
    copied = create_database(server.url(), 'a "copy"/100%', template="template")
    assert copied.startswith(server.url("")[:-1])
    assert copied.endswith("/a%20%22copy%22%2F100%25")
    parts = urlsplit(copied)
    user = pg8000.native.Connection(
        "postgres", port=parts.port, password=parts.password, database='a "copy"/100%', ssl_context=False
    )
    try:
        assert user.run("SELECT answer FROM kept") == [[42]]
        drop_database(server.url(), 'a "copy"/100%')
        with pytest.raises((pg8000.native.DatabaseError, pg8000.native.InterfaceError)):
            user.run("SELECT 1")
    finally:
        with contextlib.suppress(pg8000.native.Error):
            user.close()
    drop_database(server.url(), "never made")
    names = [name for (name,) in query(server.url(), "SELECT datname FROM pg_database ORDER BY 1")]
    assert names == ["postgres", "template", "template0", "template1"]


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "nul\0"])
def test_a_name_that_would_mean_another_database_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 63 bytes"):
        create_database("postgresql://nowhere/db", name)


def test_a_database_is_made_over_a_unix_socket(server: PostgresServer) -> None:
    password = urlsplit(server.url()).password
    url = f"postgresql://postgres:{password}@localhost:{server.port}/postgres?host={server.socket_folder}"
    made = create_database(url, "made")
    assert made == url.replace("/postgres?", "/made?")
    assert query(server.url("made"), "SELECT 1") == [[1]]
