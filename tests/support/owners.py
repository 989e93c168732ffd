"""Owners of a dev stack in processes of their own, and ways to look at what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pg8000.native
import psutil  # type: ignore[import-untyped]
import pytest
import redis

from devstack import guardian
from devstack.serving import REPOSITORY

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
            "pids": [stack.postgres.pid, stack.valkey.pid, stack.gcs.pid, stack._guardian.pid],
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
