"""Nothing is left of a dev stack, whatever ends its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from devstack import guardian
from devstack.postgres import PostgresServer
from devstack.stack import Stack, terminated_cleanly
from tests.support.owners import (
    Owner,
    is_alive,
    query,
    wait_until,
)


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
    assert len(owner.left()) == 6
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
    assert len(first.left()) == len(second.left()) == 6
    assert second.end(signal.SIGTERM) == 143
    assert len(first.left()) == 6


def test_a_stale_pid_file_kills_no_stranger(owners: Callable[..., Owner], tmp_path: Path) -> None:
    owner = owners()
    owner.kill_with_guardian()
    (data,) = (place for folder in owner.places for place in folder.glob("**/postgresql.auto.conf"))
    for server in owner.servers:
        # Of PostgreSQL with its children. Others ignore it where a shell runs the tests in the background.
        server.send_signal(signal.SIGQUIT if server.name() == "postgres" else signal.SIGKILL)
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


def test_a_server_starts_over_a_stale_pid_file(server: PostgresServer) -> None:
    server.stop()
    (data,) = (
        place.parent
        for folder in (server.folder, server.socket_folder.parent)
        for place in folder.glob("*/postgresql.auto.conf")
    )
    # Of the server's own account: that is what PostgreSQL itself takes for a running server.
    account = data.stat().st_uid if os.geteuid() == 0 else None
    stranger = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, user=account, cwd="/")
    try:
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n")
        server.start()
        assert query(server.url(), "SELECT 1") == [[1]]
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
