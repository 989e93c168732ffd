"""The dev stack's servers start, answer and stop."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import pg8000.native
import psutil  # type: ignore[import-untyped]
import pytest
import redis
import urllib3

from devstack import guardian
from devstack.buckets import create_bucket, names, put
from devstack.gcs import GcsServer
from devstack.guardian import Server, StartError
from devstack.postgres import PostgresServer
from devstack.stack import Stack
from devstack.valkey import ValkeyServer
from tests.support.owners import (
    FAST,
    client,
    is_alive,
    query,
)


def test_all_servers_answer_and_nothing_is_left_after_the_block(tmp_path: Path) -> None:
    with Stack({}, root=tmp_path, postgres_settings={"fsync": "off", "work_mem": "5MB"}) as stack:
        assert stack.postgres is not None
        assert stack.valkey is not None
        assert stack.gcs is not None
        assert stack.folder is not None
        processes = [psutil.Process(pid) for pid in (stack.postgres.pid, stack.valkey.pid, stack.gcs.pid)]
        places = [stack.folder, stack.postgres.socket_folder.parent]
        assert query(stack.database_url, "SHOW max_connections") == [["200"]]
        assert query(stack.database_url, "SHOW work_mem") == [["5MB"]]
        assert query(stack.database_url, "SHOW server_encoding") == [["UTF8"]]
        with client(stack.redis_url) as connection:
            assert connection.set("key", "value")
            assert connection.config_get("save") == {"save": ""}
        assert stack.gcs_url == stack.gcs.url
        assert names(stack.gcs_url, create_bucket(stack.gcs_url, "a-bucket")) == set()
        assert len(os.fsencode(stack.postgres.socket_folder / ".s.PGSQL.12345")) <= 103
        assert (stack.postgres.socket_folder / f".s.PGSQL.{stack.postgres.port}").is_socket()
    assert not any(is_alive(process) for process in processes)
    assert not any(place.exists() for place in places)
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_the_unix_socket_answers(server: PostgresServer) -> None:
    password = urlsplit(server.url()).password
    path = f"{server.socket_folder}/.s.PGSQL.{server.port}"
    with contextlib.closing(pg8000.native.Connection("postgres", unix_sock=path, password=password)) as connection:
        assert connection.run("SELECT 1") == [[1]]


def test_logging_in_takes_the_password_which_no_command_line_shows(tmp_path: Path) -> None:
    with Stack({}, root=tmp_path, postgres_settings=FAST) as stack:
        assert stack.postgres is not None
        assert stack.valkey is not None
        passwords = [urlsplit(url).password for url in (stack.database_url, stack.redis_url)]
        with pytest.raises(pg8000.native.DatabaseError, match="password authentication failed"):
            query(stack.database_url.replace(str(passwords[0]), "guess"), "SELECT 1")
        guess = stack.redis_url.replace(str(passwords[1]), "guess")
        with client(guess) as connection, pytest.raises(redis.AuthenticationError):
            connection.ping()
        for pid in (stack.postgres.pid, stack.valkey.pid):
            shown = " ".join(psutil.Process(pid).cmdline())
            assert not any(str(password) in shown for password in passwords)


def test_servers_that_are_given_are_used_and_nothing_is_started(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgresql://there/db", "REDIS_URL": "redis://there/0"}
    given["STORAGE_EMULATOR_HOST"] = "http://there/"
    with Stack(given, root=tmp_path / "stack") as stack:
        assert (stack.database_url, stack.redis_url) == ("postgresql://there/db", "redis://there/0")
        assert stack.gcs_url == "http://there"
        assert stack.postgres is None
        assert stack.valkey is None
        assert stack.gcs is None
    assert not (tmp_path / "stack").exists()


def test_only_the_servers_that_are_not_given_are_started(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgresql://there/db", "REDIS_URL": ""}
    with Stack(given, root=tmp_path) as stack:
        assert stack.database_url == "postgresql://there/db"
        assert stack.postgres is None
        with client(stack.redis_url) as connection:
            assert connection.ping()
        given |= {"REDIS_URL": stack.redis_url, "STORAGE_EMULATOR_HOST": " "}
        with Stack(given, root=tmp_path) as other:
            assert other.valkey is None
            assert other.gcs is not None
            assert names(other.gcs_url, create_bucket(other.gcs_url, "a-bucket")) == set()


def test_an_exception_stops_the_servers(tmp_path: Path) -> None:
    def fail(root: Path) -> None:
        with Stack({"REDIS_URL": "redis://there/0"}, root=root, postgres_settings=FAST) as stack:
            assert stack.postgres is not None
            processes.append(psutil.Process(stack.postgres.pid))
            raise ZeroDivisionError

    processes: list[psutil.Process] = []
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path)
    assert not is_alive(processes[0])
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_postgres_keeps_port_and_data_over_a_stop(
    tmp_path: Path, server: PostgresServer, request: pytest.FixtureRequest
) -> None:
    before = server.url()
    query(before, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    assert server.pid is None
    with pytest.raises(pg8000.native.InterfaceError):
        query(before, "SELECT 1")
    server.start()
    assert server.url() == before
    assert query(before, "SELECT answer FROM kept") == [[42]]
    server.stop()
    later = PostgresServer(tmp_path / "pg", settings=FAST)
    request.addfinalizer(later.stop)
    later.start()
    assert query(later.url(), "SELECT answer FROM kept") == [[42]]


def test_valkey_keeps_its_port_over_a_stop(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = ValkeyServer(tmp_path)
    request.addfinalizer(server.remove)
    server.start()
    before = server.url
    server.stop()
    with client(before) as connection, pytest.raises(redis.ConnectionError):
        connection.ping()
    server.start()
    assert server.url == before
    with client(before) as connection:
        assert connection.ping()
    server.remove()
    assert not tmp_path.exists()


def test_gcs_keeps_its_port_over_a_stop_and_nothing_else(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = GcsServer(tmp_path)
    request.addfinalizer(server.remove)
    server.start()
    before = server.url
    put(before, create_bucket(before, "a-bucket"), "object")
    server.stop()
    with pytest.raises(urllib3.exceptions.HTTPError):
        names(before, "a-bucket")
    server.start()
    assert server.url == before
    with pytest.raises(RuntimeError, match="404"):
        names(before, "a-bucket")
    assert server.log.read_bytes() == b""
    server.remove()
    assert not tmp_path.exists()


@pytest.mark.parametrize("kind", [PostgresServer, ValkeyServer, GcsServer])
def test_a_port_taken_before_it_is_bound_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, kind: type[Server]
) -> None:
    # Of them all, this is the one that another of its kind could be taken for: it has no password.
    first = GcsServer(tmp_path / "first")
    request.addfinalizer(first.remove)
    first.start()
    ports = [guardian.free_port(), first.port]
    monkeypatch.setattr(guardian, "free_port", ports.pop)
    second = kind(tmp_path / "second")
    request.addfinalizer(second.remove)
    second.start()
    assert second.port != first.port
    assert not ports


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught, Stack({}, root=tmp_path, postgres_settings={"shared_buffers": "plenty"}):
        pass
    message = str(caught.value)
    assert message.startswith("PostgreSQL did not start (exit status 1). Its log ends with:\n")
    assert message.endswith('invalid value for parameter "shared_buffers": "plenty"')
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]
    assert guardian.servers_below(tmp_path) == []


def test_an_address_before_the_first_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="never started"):
        PostgresServer(tmp_path).url()
    with pytest.raises(StartError, match="never started"):
        _ = ValkeyServer(tmp_path).url
    with pytest.raises(StartError, match="never started"):
        _ = GcsServer(tmp_path).url
