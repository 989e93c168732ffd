"""gcloud-tasks-emulator as a server, from a virtual environment of its own, which `make test` makes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from devstack import guardian
from devstack.serving import REPOSITORY

QUEUE = "projects/bytereview-test/locations/europe-west1/queues/maintenance"
_PROGRAM = Path(REPOSITORY) / ".venv-tasks" / "bin" / "gcloud-tasks-emulator"
_START_SECONDS = 30


@contextlib.contextmanager
def tasks_emulator(log: Path) -> Iterator[str]:
    """A queue while the block lasts; gives its address, host:port."""
    if not _PROGRAM.exists():
        why = f"There is no {_PROGRAM.name}: `make test` installs it into .venv-tasks."
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    port = guardian.free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_PROGRAM, "start", "--quiet", f"--port={port}", f"--default-queue={QUEUE}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore"},
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(_START_SECONDS)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
