"""gcloud-tasks-emulator as a server, from a virtual environment of its own, which `make test` makes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import grpc  # type: ignore[import-untyped]
import pytest
from google.cloud import tasks_v2

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


class Taking:
    """Cloud Tasks' CreateTask alone, with what the emulator does not do: a name is taken once, and errors."""

    def __init__(self) -> None:
        self.requests: list[tasks_v2.CreateTaskRequest] = []
        self.refuse: grpc.StatusCode | None = None
        self._server = grpc.server(ThreadPoolExecutor(1))
        create = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=tasks_v2.CreateTaskRequest.deserialize,
            response_serializer=tasks_v2.Task.serialize,
        )
        handler = grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", {"CreateTask": create})
        self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    @property
    def names(self) -> list[str]:
        """The names of the tasks that were taken."""
        return [request.task.name for request in self.requests]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _create(self, request: tasks_v2.CreateTaskRequest, context: grpc.ServicerContext) -> tasks_v2.Task:
        if self.refuse is not None:
            context.abort(self.refuse, "as the test says")
        if request.task.name in self.names:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists")
        self.requests.append(request)
        return request.task
