"""Owners, folders and servers for the tests of the dev stack."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from devstack.postgres import PostgresServer
from tests.support.owners import (
    FAST,
    Owner,
)


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
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    started = PostgresServer(tmp_path / "pg", settings=FAST)
    try:
        started.start()
        yield started
    finally:
        started.remove()
