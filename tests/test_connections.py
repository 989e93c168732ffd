"""The pool: few connections, each for one at a time, and none that is lost is given to anybody."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pg8000.exceptions import InterfaceError
from sqlalchemy.engine import make_url

from shared import connections
from shared.connections import ConnectionPool
from shared.database_url import DatabaseTarget, database_target
from shared.errors import Misconfigured, Unavailable
from shared.postgres import SESSION_LIMITS
from shared.postgres_connect import close, connector_for
from tests.support.database import TestDatabase
from tests.support.wait import until


class Pool:
    """A pool on the test's database, and how many sessions the server sees."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self.opened = 0
        self._connect = connector_for(database_target({"DATABASE_URL": database.url}), SESSION_LIMITS)
        self.pool = ConnectionPool(self._open, lambda connection: connection.execute_simple("SELECT"), close)

    def _open(self) -> object:
        self.opened += 1
        return self._connect()

    def sessions(self) -> int:
        return int(
            self.database.value(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'bytereview-maintenance' AND datname = current_database()"
            )
        )

    def kill(self) -> None:
        """The server ends all of its sessions."""
        self.database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'bytereview-maintenance' AND datname = current_database()"
        )
        until(lambda: self.sessions() == 0, "they are gone")


@pytest.fixture
def pool(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    # Otherwise one that was used just now is not asked.
    monkeypatch.setattr(connections, "_TRUSTED_SECONDS", -1.0)
    found = Pool(database)
    yield found
    found.pool.dispose()


def test_one_after_the_other_have_the_same_one(pool: Pool) -> None:
    for _ in range(3):
        with pool.pool.connection() as pooled:
            pooled.driver.execute_simple("SELECT")
    assert (pool.opened, pool.sessions()) == (1, 1)
    pool.pool.dispose()
    until(lambda: pool.sessions() == 0, "it is closed")


def test_what_comes_back_to_a_closed_pool_is_closed(pool: Pool) -> None:
    with pool.pool.connection() as pooled:
        pool.pool.dispose()
        pooled.driver.execute_simple("SELECT")
    until(lambda: pool.sessions() == 0, "it is closed")


def test_at_once_each_has_its_own_and_two_are_kept(pool: Pool) -> None:
    with ExitStack() as stack:
        drivers = [stack.enter_context(pool.pool.connection()).driver for _ in range(5)]
        assert (len({id(driver) for driver in drivers}), pool.sessions()) == (5, 5)
    until(lambda: pool.sessions() == 2, "the others are closed")


def test_there_are_ten_at_most(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_WAIT_SECONDS", 0.01)
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(pool.pool.connection())
        with pytest.raises(Unavailable, match="in use"), pool.pool.connection():
            pass
    with pool.pool.connection():
        pass


def test_who_waits_gets_the_next_that_comes_back(pool: Pool) -> None:
    got = threading.Event()

    def wait() -> None:
        with pool.pool.connection():
            got.set()

    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(pool.pool.connection())
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.is_set()
    thread.join()
    assert got.is_set()


def test_what_was_lost_meanwhile_is_replaced(pool: Pool) -> None:
    with pool.pool.connection(), pool.pool.connection():
        pass
    pool.kill()
    with pool.pool.connection() as pooled:
        pooled.driver.execute_simple("SELECT")
    # The other one was kept as long, and is gone with it.
    assert (pool.opened, pool.sessions()) == (3, 1)


def test_what_is_doubtful_is_not_used_again(pool: Pool) -> None:
    with pool.pool.connection() as pooled:
        pooled.is_doubtful = True
    until(lambda: pool.sessions() == 0, "it is closed")
    with pool.pool.connection():
        assert pool.opened == 2


def test_what_was_lost_is_closed_though_somebody_keeps_the_error(pool: Pool) -> None:
    """The error's frames keep the connection's file, and with it the socket."""
    with ExitStack() as stack:
        pooled = stack.enter_context(pool.pool.connection())
        pooled.is_doubtful = True
        socket = pooled.driver._usock
        pool.kill()
        with pytest.raises(InterfaceError) as kept:
            [pooled.driver.execute_simple("SELECT") for _ in range(3)]
    assert kept.tb is not None
    assert socket.fileno() == -1


def test_a_place_is_given_back_where_connecting_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_WAIT_SECONDS", 0.01)

    def refuse() -> None:
        raise OSError("no")

    broken = ConnectionPool(refuse, lambda _: None, close)
    for _ in range(11):
        with pytest.raises(OSError, match="no"), broken.connection():
            pass


# ---- DATABASE_URL is the service's too, which reads it with SQLAlchemy

PARTS = st.text("aB1.-_~!$&'()*+,;=:/#?% @\\[]é", max_size=8)


@given(user=PARTS, password=st.none() | PARTS, host=st.text("ab.1-", min_size=1, max_size=6), database=PARTS)
@example(user="ann", password="p#w/d?", host="db", database="files")
@example(user="a%40b", password="%25%2B+", host="db", database="my%20files")
@example(user="ann", password="", host="db", database="x")
def test_it_is_read_as_sqlalchemy_reads_it(user: str, password: str | None, host: str, database: str) -> None:
    # A setting's blanks at its ends are nobody's.
    text = f"postgresql://{user}{'' if password is None else ':' + password}@{host}/{database}".strip()
    try:
        expected = make_url(text)
    except Exception:  # noqa: BLE001  it has several for what it does not understand
        expected = None
    try:
        found: DatabaseTarget | None = database_target({"DATABASE_URL": text})
    except Misconfigured:
        found = None
    if found is not None:
        assert expected is not None
        assert (found.user, found.password, found.database) == (
            expected.username,
            expected.password,
            expected.database,
        )
        assert (found.host or found.socket_folder) == (expected.query.get("host") or expected.host)
        assert found.port == int(expected.port or 5432) or "port" in expected.query
    elif expected is not None and expected.username and expected.host and expected.database:
        # What is refused is refused for what this reads and SQLAlchemy leaves to the driver.
        assert expected.query or expected.port is not None
