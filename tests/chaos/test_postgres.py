"""A PostgreSQL of its own that restarts in the middle of a run, crashes, or has no room left on its disk."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from devstack.postgres import PostgresServer, server_account
from devstack.proxy import Fault
from devstack.stack import Stack
from functions.registry import JOBS
from tests.chaos.judging import judge
from tests.chaos.place import Place, Scene, a_place
from tests.chaos.playing import Player, Told
from tests.chaos.running import FAST, make_template
from tests.chaos.schedule import Schedule
from tests.support.database import TestDatabase

_QUIET = Schedule(seed=5, skews=(60, -60), rounds=())
_PAGE = 8192
_ROOM_MIB = 48


@dataclass
class Servers:
    """What a place asks of a stack, with another PostgreSQL."""

    database_url: str
    redis_url: str
    gcs_url: str
    folder: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    started = PostgresServer(tmp_path_factory.mktemp("postgres"), settings=FAST)
    try:
        started.start()
        yield started
    finally:
        started.remove()


@pytest.fixture(scope="module")
def own_place(server: PostgresServer, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    make_template(server.url(), "template")
    servers = Servers(server.url(), stack.redis_url, stack.gcs_url, folder)
    with a_place(cast(Stack, servers), "template", folder) as made:
        yield made


def fire(scene: Scene, job: str, machine: int = 0) -> Told:
    slot = scene.clock.now()
    answer = scene.machines[machine].fire(job, slot).result(60)
    assert answer is not None
    return Told(job, slot, answer.code, answer.text)


# ---- restarts


def restart(server: PostgresServer, scene: Scene, *, politely: bool) -> None:
    server.stop(keep=politely)
    server.start()
    scene.database.engine.dispose()


@pytest.mark.parametrize(
    ("job", "politely", "after"),
    [
        ("stripe_reconcile", False, 9_000),
        pytest.param("abandoned_cleanup", False, 9_000, marks=pytest.mark.slow),
        pytest.param("period_reset", True, 4_500, marks=pytest.mark.slow),
    ],
)
def test_a_server_that_restarts_in_the_middle_of_a_run(
    own_place: Place, server: PostgresServer, job: str, politely: bool, after: int
) -> None:
    """At that byte of what the run says to it.

    Politely it ends its sessions; otherwise it goes down at once, and what had not reached its log is lost.
    """
    with Scene(own_place, _QUIET) as scene:
        action = partial(restart, server, scene, politely=politely)
        scene.proxies["postgres"].plan(Fault("call", after=after, side="up", action=action))
        told = fire(scene, job)
        assert scene.proxies["postgres"].played == ["call"]
        assert (told.code, told.status, told.fields["service"]) == (503, "unavailable", "postgres"), told.text
        player = Player(scene)
        player.record.may_lose_locks = True
        player.record.slots.add((job, scene.clock.now()))
        assert judge(scene, player.play()) == []


# ---- a full disk


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    """A small file system: a real one, because only that says what PostgreSQL is told on a full disk."""
    # Not below tmp_path, which is closed to the account that the server runs as.
    place = Path(tempfile.mkdtemp()).resolve()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM_MIB}m,mode=755", "tmpfs", str(place)]
    try:
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only who may mount a small file system can fill one")
        yield place
    finally:
        if place.is_mount():
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


class Disk:
    """A tablespace on the small disk, and the file that fills it."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self._data, self._filler = folder / "data", folder / "filler"
        account = server_account()
        self._data.mkdir()
        if account is not None:
            os.chown(self._data, account.uid, account.gid)
        self._run(f"CREATE TABLESPACE small LOCATION '{self._data}'")

    def take(self, scene: Scene) -> None:
        """Move a scene's database there."""
        name = scene.database.value("SELECT current_database()")
        scene.database.engine.dispose()
        self._run(f'ALTER DATABASE "{name}" SET TABLESPACE small')

    def fill(self, *, but: int) -> None:
        """Take all the room there is, but for so many pages."""
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * _PAGE):
                pass
        os.truncate(self._filler, max(0, self._filler.stat().st_size - but * _PAGE))

    def clear(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the tablespace, when no database is in it."""
        self.clear()
        self._run("DROP TABLESPACE small")
        self._data.rmdir()

    def _run(self, sql: str) -> None:
        database = TestDatabase(self._server.url())
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(sql)
        database.engine.dispose()


@pytest.fixture
def disk(server: PostgresServer, small_disk: Path) -> Iterator[Disk]:
    made = Disk(server, small_disk)
    yield made
    made.remove()


@pytest.mark.parametrize("pages", [pytest.param(0, marks=pytest.mark.slow), 20])
def test_a_full_disk_stops_runs_and_harms_nothing(own_place: Place, disk: Disk, pages: int) -> None:
    """At the start of a run, or in its middle. When there is room again, the same firings complete."""
    with Scene(own_place, _QUIET) as scene:
        disk.take(scene)
        disk.fill(but=pages)
        player = Player(scene)
        player.record.may_lose_locks = True
        for job in JOBS:
            told = fire(scene, job)
            player.record.told.append(told)
            player.record.slots.add((job, scene.clock.now()))
        statuses = {told.status for told in player.record.told}
        assert "unavailable" in statuses, [told.text for told in player.record.told]
        assert statuses <= {"unavailable", "completed", "incomplete"}, [told.text for told in player.record.told]
        assert any("53100" in told.text for told in player.record.told), [told.text for told in player.record.told]
        disk.clear()
        assert judge(scene, player.play()) == []
