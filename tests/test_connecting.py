"""Connecting to PostgreSQL: TLS, sockets, Cloud SQL, and connections that went away between two runs."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from google.cloud.sql.connector.exceptions import CloudSQLIPTypeError

from devstack.stack import Stack
from ops.engine import make_engine
from shared import cloud_sql
from shared.database_url import DatabaseTarget, database_target
from shared.errors import LockLost, MaintenanceError, Misconfigured, Unavailable
from shared.outcome import Status
from shared.postgres import SESSION_LIMITS, Database
from shared.sql import Statement
from tests.conftest import Environment
from tests.support.database import TestDatabase
from tests.support.tls import TlsFront, make_certificate
from tests.support.wait import until

ONE = Statement("one", "One.", "SELECT 1 AS one")
CLOUD_SQL = {"CLOUD_SQL_INSTANCE": "p:r:i", "DB_NAME": "byte", "DB_USER": "ann@p.iam"}


# Idle for longer than a pooled connection is trusted without a question.
IDLE = (
    "FROM pg_stat_activity WHERE application_name = 'bytereview-maintenance' AND datname = current_database() "
    "AND state = 'idle' AND clock_timestamp() - state_change > interval '1.2 seconds'"
)


def end_idle_sessions(database: TestDatabase) -> None:
    until(lambda: database.value(f"SELECT count(*) {IDLE}"), "a pooled connection is idle for a while")
    database.rows(f"SELECT pg_terminate_backend(pid) {IDLE}")


def answers(target: DatabaseTarget) -> bool:
    database = Database(target)
    try:
        with database.transaction(read_only=True) as transaction:
            row = transaction.row(ONE)
            return row is not None and row["one"] == 1
    finally:
        database.dispose()


def refused(target: DatabaseTarget) -> MaintenanceError:
    with pytest.raises(MaintenanceError) as error:
        answers(target)
    return error.value


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path, "127.0.0.1")


@pytest.fixture
def front(database: TestDatabase, certificate: tuple[Path, Path]) -> Iterator[TlsFront]:
    assert database.target.host is not None
    opened = TlsFront((database.target.host, database.target.port), *certificate)
    yield opened
    opened.close()


def through(front: TlsFront, database: TestDatabase, options: str, host: str = "127.0.0.1") -> DatabaseTarget:
    target = database.target
    url = f"postgresql://{target.user}:{target.password}@{host}:{front.port}/{target.database}?{options}"
    return database_target({"DATABASE_URL": url})


@pytest.mark.parametrize("mode", ["prefer", "require"])
def test_tls_is_used_without_looking_at_the_certificate(front: TlsFront, database: TestDatabase, mode: str) -> None:
    assert answers(through(front, database, f"sslmode={mode}"))
    assert front.encrypted == 1


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_certificate_is_held_against_its_root(
    front: TlsFront, database: TestDatabase, certificate: tuple[Path, Path], mode: str
) -> None:
    assert answers(through(front, database, f"sslmode={mode}&sslrootcert={certificate[0]}"))
    error = refused(through(front, database, f"sslmode={mode}"))
    assert isinstance(error, Misconfigured)
    assert "sslrootcert" in str(error)


def test_verify_full_looks_at_the_name_too(
    front: TlsFront, database: TestDatabase, certificate: tuple[Path, Path]
) -> None:
    root = f"sslrootcert={certificate[0]}"
    assert answers(through(front, database, f"sslmode=verify-ca&{root}", host="localhost"))
    assert isinstance(refused(through(front, database, f"sslmode=verify-full&{root}", host="localhost")), Misconfigured)


def test_require_is_refused_where_the_server_has_no_tls(stack: Stack) -> None:
    error = refused(database_target({"DATABASE_URL": f"{stack.database_url}?sslmode=require"}))
    assert isinstance(error, Misconfigured)
    assert "offers none" in str(error)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_plain_connections(stack: Stack, mode: str) -> None:
    assert answers(database_target({"DATABASE_URL": f"{stack.database_url}?sslmode={mode}"}))


def test_a_unix_socket(stack: Stack) -> None:
    if stack.postgres is None:
        pytest.skip("DATABASE_URL names a server whose socket folder is not known")
    target = database_target({"DATABASE_URL": stack.database_url})
    folder, port = stack.postgres.socket_folder, stack.postgres.port
    url = f"postgresql://{target.user}:{target.password}@/postgres?host={folder}&port={port}"
    assert answers(database_target({"DATABASE_URL": url}))
    gone = refused(database_target({"DATABASE_URL": url.replace(str(folder), "/nowhere")}))
    assert isinstance(gone, Unavailable)


def test_a_login_without_a_password_says_what_is_missing(stack: Stack) -> None:
    target = database_target({"DATABASE_URL": stack.database_url})
    if target.password is None:
        pytest.skip("the server given by DATABASE_URL wants no password")
    error = refused(database_target({"DATABASE_URL": stack.database_url.replace(f":{target.password}@", "@")}))
    assert isinstance(error, Misconfigured)
    assert "password" in str(error)


def test_a_host_that_is_not_known(stack: Stack) -> None:
    error = refused(database_target({"DATABASE_URL": "postgresql://ann:pw@no-such-host.invalid/byte"}))
    assert "no-such-host.invalid" in str(error)
    assert stack


def test_every_session_has_its_limits(database: TestDatabase) -> None:
    client = Database(database.target)
    show = Statement("show", "A setting.", "SELECT name, setting, unit FROM pg_settings WHERE name = ANY (:names)")
    with client.transaction() as transaction:
        found = {row["name"]: row["setting"] for row in transaction.rows(show, names=list(SESSION_LIMITS))}
    client.dispose()
    assert found == dict(SESSION_LIMITS)
    assert 0 < int(found["lock_timeout"]) <= 500
    assert int(found["statement_timeout"]) > 0
    assert int(found["idle_in_transaction_session_timeout"]) == 5_000


def test_a_connection_that_died_between_two_runs_is_replaced(database: TestDatabase, environment: Environment) -> None:
    assert environment.run().status is Status.COMPLETED
    end_idle_sessions(database)
    assert environment.run().status is Status.COMPLETED


def test_a_connection_whose_socket_is_gone_is_replaced_though_it_was_used_just_now(database: TestDatabase) -> None:
    connections = Database(database_target({"DATABASE_URL": database.url}))
    with connections.transaction() as transaction:
        used = transaction._connection
    os.close(used._usock.detach())
    with pytest.raises(Unavailable), connections.transaction():
        pass
    with connections.transaction() as transaction:
        assert transaction._connection is not used
    connections.dispose()


def test_of_connections_that_were_lost_together_only_the_first_is_met(database: TestDatabase) -> None:
    """As when the server restarts within a second of their use: an attempt may fail of it, and not the next one too."""
    connections = Database(database_target({"DATABASE_URL": database.url}))
    with connections.transaction() as one, connections.transaction() as other:
        used = [one._connection, other._connection]
    for each in used:
        os.close(each._usock.detach())
    with pytest.raises(Unavailable), connections.transaction():
        pass
    with connections.transaction() as transaction:
        assert transaction._connection not in used
    connections.dispose()


def test_a_connection_whose_rollback_was_broken_into_is_not_used_again(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = Database(database_target({"DATABASE_URL": database.url}))

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), connections.transaction() as transaction:  # noqa: PT012  the transaction is what is tried
        used = transaction._connection
        monkeypatch.setattr(used, "execute_simple", interrupted)
        raise LockLost("a row")
    with connections.transaction() as transaction:
        assert transaction._connection is not used
    connections.dispose()


def test_runs_leave_no_connection_behind(database: TestDatabase, environment: Environment) -> None:
    for _ in range(12):
        assert environment.run().status is Status.COMPLETED
    open_sessions = database.value(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'bytereview-maintenance' AND datname = current_database()"
    )
    assert open_sessions <= 2


def test_cloud_sql_without_credentials_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real connector, on a machine that has no credentials and is no Google machine."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    environ = {"CLOUD_SQL_INSTANCE": "project:region:instance", "DB_NAME": "byte", "DB_USER": "ann@project.iam"}
    error = refused(database_target(environ))
    assert isinstance(error, Misconfigured)
    assert "gcloud auth application-default login" in str(error)


def connector_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a connector in the place of Google's, which would want credentials first; give what it is asked for."""
    calls: list[dict[str, Any]] = []

    class GooglesConnector:
        def __init__(self, **_: object) -> None:
            pass

        def connect(self, *_: object, **named: object) -> object:
            calls.append(named)
            raise error

    monkeypatch.setattr(cloud_sql, "Connector", GooglesConnector)
    return calls


@pytest.mark.parametrize(("set_to", "asked"), [({}, "public"), ({"CLOUD_SQL_IP_TYPE": "private"}, "private")])
def test_the_connector_is_asked_for_the_address_that_is_set(
    set_to: dict[str, str], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = connector_that_raises(ConnectionError(), monkeypatch)
    refused(database_target({**CLOUD_SQL, **set_to}))
    assert {call["ip_type"] for call in calls} == {asked}


def test_an_instance_without_the_address_that_is_set_says_which_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    connector_that_raises(CloudSQLIPTypeError("no address"), monkeypatch)
    error = refused(database_target({**CLOUD_SQL, "CLOUD_SQL_IP_TYPE": "private"}))
    assert isinstance(error, Misconfigured)
    assert (error.setting, "p:r:i has no private address" in str(error)) == ("CLOUD_SQL_IP_TYPE", True)


# ---- servers that hang, or break off


class Answering:
    """A server that reads from each connection, says its piece and hangs up; rudely, by a reset, if told so.

    What it says after an S, which is to begin with TLS, it says when it has read once more.
    """

    def __init__(self, says: bytes, *, rudely: bool = False) -> None:
        self._says = says
        self._rudely = rudely
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://ann:pw@127.0.0.1:{self._listener.getsockname()[1]}/byte"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    # Something that is no request for TLS is a look at whether other services answer there.
                    if client.recv(64).startswith(b"\0"):
                        agreed = self._says[:1] if self._says.startswith(b"S") else b""
                        client.sendall(agreed or self._says)
                        if agreed != self._says:
                            client.recv(4096)
                            client.sendall(self._says[1:])
                        if self._rudely:
                            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Serve no more."""
        self._listener.close()


@pytest.mark.parametrize(
    ("says", "rudely"),
    [
        (b"", False),
        (b"S", False),
        (b"S", True),
        (b"S\x15\x03\x03\0\x02\x01\0", False),
        (b"E\0\0\0\x0fcannot fork\0", False),
    ],
    ids=[
        "hangs up",
        "hangs up in the handshake",
        "resets before the handshake",
        "says in the handshake that it hangs up",
        "says that it cannot fork",
    ],
)
def test_a_server_that_breaks_off_is_unavailable(says: bytes, rudely: bool) -> None:
    server = Answering(says, rudely=rudely)
    error = refused(database_target({"DATABASE_URL": server.url}))
    server.close()
    assert isinstance(error, Unavailable)
    assert "did not answer" in str(error)


# Waited for as long as an ordinary answer, it would be 75 s.
@pytest.mark.slow
@pytest.mark.timeout(50)
def test_a_server_that_hangs_is_found_out_in_seconds_though_connections_to_it_are_open(
    stack: Stack, database: TestDatabase, environment: Environment
) -> None:
    if stack.postgres is None:
        pytest.skip("the server given by DATABASE_URL is not ours to stop")
    assert environment.run().status is Status.COMPLETED
    assert stack.postgres.pid is not None
    postmaster = psutil.Process(stack.postgres.pid)
    server = [postmaster, *postmaster.children(recursive=True)]
    until(lambda: database.value(f"SELECT count(*) {IDLE}"), "a pooled connection is idle for a while")
    for process in server:
        process.suspend()
    try:
        outcome = environment.run()
    finally:
        for process in server:
            process.resume()
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "postgres")
    assert environment.run().status is Status.COMPLETED


def test_a_migrations_statements_are_waited_for_without_end(database: TestDatabase) -> None:
    engine = make_engine(database.target, {})
    try:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            assert driver._usock.gettimeout() is None
    finally:
        engine.dispose()


def test_an_answer_to_a_job_is_not_waited_for_without_end(database: TestDatabase) -> None:
    client = Database(database.target)
    with client.session() as session:
        assert session._connection._usock.gettimeout() == 75
    client.dispose()
