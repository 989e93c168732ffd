"""A machine that runs the functions: a process of its own, with a clock of its own, which can be killed and stopped.

It is forked from a server that has imported everything and runs nothing, so that it starts in a twentieth of a second
and dies as truly as any process. Its database session says which run a transaction is of, so that the triggers in
watch.sql can tell whether that run still had the right to write when it committed.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flask import Request
from werkzeug.test import EnvironBuilder

from functions.registry import JOBS
from shared import gcs
from shared.clock import format_rfc3339
from shared.entry import _entry_point
from shared.invocation import SCHEDULE_TIME_HEADER, TASK_NAME_HEADER
from shared.postgres import Database, Transaction
from shared.services import Services
from shared.statements import STATEMENTS
from tests.chaos.schedule import DIVISIBLE
from tests.support.clock import FileClock

_FENCES = (STATEMENTS["hold_fence"].text, STATEMENTS["hold_fence_lightly"].text)
_MARK = "SELECT set_config('chaos.run', :run, true)"
_LONGEST_WAIT_SECONDS = 0.02
_DIE_WITH_PARENT = 1
# As long as the timer above would let it take: the library does not ask that one.
_HURRIED_RETRY = gcs._RETRY.with_delay(initial=0.02, maximum=0.1).with_timeout(0.5)

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "stripe", "google.cloud.storage", "redis", "flask", "tests.chaos.preloaded"])


class SkewedClock:
    """The world's clock, as a machine sees it that is off by so much."""

    def __init__(self, clock: FileClock, skew: timedelta) -> None:
        self._clock = clock
        self._skew = skew

    def now(self) -> datetime:
        """The time it shows."""
        return self._clock.now() + self._skew


class HurriedTimer:
    """Waits for a fiftieth of the time, and no longer than a moment; says that all of it has passed."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._lock = threading.Lock()

    def seconds(self) -> float:
        """Seconds since some moment."""
        return time.monotonic() + self._ahead

    def wait(self, seconds: float) -> None:
        """Come back soon."""
        slept = min(seconds / 50, _LONGEST_WAIT_SECONDS)
        time.sleep(slept)
        with self._lock:
            self._ahead += seconds - slept


class _MarkedDatabase(Database):
    """Marks each writing transaction with its run."""

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """As the parent's."""
        with super().transaction(read_only=read_only) as transaction:
            run = transaction._run

            def marking(sql: str, parameters: Mapping[str, object]) -> Any:
                answer = run(sql, parameters)
                if sql in _FENCES:
                    run(_MARK, {"run": str(parameters["run_id"])})
                return answer

            transaction._run = marking  # type: ignore[method-assign]
            yield transaction


class _MarkedServices(Services):
    """The services of production, with such a database."""

    @property
    def database(self) -> Database:
        """As the parent's."""
        with self._making:
            if self._database is None:
                self._database = _MarkedDatabase(self.settings.database)
            return self._database


@dataclass(frozen=True)
class Answer:
    """What a function answered over HTTP, or would have."""

    code: int
    text: str


def _serve(pipe: Connection, environ: Mapping[str, str], clock: Path, skew: timedelta, log: Path, shards: int) -> None:
    """What the process does: run what it is told to, each in a thread, until it is told to close."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    os.dup2(os.open(log.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    gcs._RETRY = _HURRIED_RETRY
    sending = threading.Lock()
    jobs = {name: replace(job, shards=shards) if name in DIVISIBLE else job for name, job in JOBS.items()}
    address = f"https://{environ['K_SERVICE']}-x-y.a.run.app" if "K_SERVICE" in environ else "http://127.0.0.1"
    with log.open("a", buffering=1) as stream:
        services = _MarkedServices(environ, SkewedClock(FileClock(clock), skew), stream, HurriedTimer())

        def run(number: int, job: str, headers: Mapping[str, str], body: bytes) -> None:
            builder = EnvironBuilder("/", address, method="POST", headers=list(headers.items()), data=body)
            response = _entry_point(services, jobs[job], jobs)(Request(builder.get_environ()))
            with sending:
                pipe.send((number, response.status_code, response.get_data(as_text=True)))

        threads = []
        with contextlib.suppress(EOFError, OSError):
            while (asked := pipe.recv()) is not None:
                threads.append(threading.Thread(target=run, args=asked, daemon=True))
                threads[-1].start()
            for thread in threads:
                thread.join()
            services.close()
            pipe.send(None)


class Machine:
    """The process as its owner sees it. An answer is None where the process died before it."""

    def __init__(self, environ: Mapping[str, str], clock: Path, skew: timedelta, log: Path, shards: int) -> None:
        self._pipe, theirs = _FORKS.Pipe()
        given = (theirs, dict(environ), clock, skew, log, shards)
        self._process = _FORKS.Process(target=_serve, args=given, daemon=True)
        self._process.start()
        # A handle, where there are any: a number may be another process's by the time that it is used.
        self._handle = os.pidfd_open(self._process.pid or 0) if hasattr(os, "pidfd_open") else -1
        theirs.close()
        self._waiting: dict[int, Future[Answer | None]] = {}
        self._number = 0
        self._lock = threading.Lock()
        self.is_stopped = False
        self.was_killed = False
        self._reader = threading.Thread(target=self._read, name="machine", daemon=True)
        self._reader.start()

    def fire(self, job: str, slot: datetime | None, body: bytes = b"") -> "Future[Answer | None]":
        """Fire a job as Cloud Scheduler does; with no slot, as a manual run."""
        return self._send(job, {} if slot is None else {SCHEDULE_TIME_HEADER: format_rfc3339(slot)}, body)

    def deliver(self, job: str, name: str, body: bytes) -> "Future[Answer | None]":
        """Deliver a task as Cloud Tasks does."""
        return self._send(job, {TASK_NAME_HEADER: name}, body)

    def _send(self, job: str, headers: Mapping[str, str], body: bytes) -> "Future[Answer | None]":
        future: Future[Answer | None] = Future()
        with self._lock:
            self._number += 1
            self._waiting[self._number] = future
            try:
                self._pipe.send((self._number, job, headers, body))
            except OSError:
                self._waiting.pop(self._number).set_result(None)
        return future

    def kill(self) -> None:
        """SIGKILL."""
        self.was_killed = True
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.is_stopped = False
        self._signal(signal.SIGCONT)

    def close(self) -> bool:
        """End it in good order: whether it did. It is killed where it does not."""
        if not self.was_killed:
            self.go_on()
            with self._lock, contextlib.suppress(OSError):
                self._pipe.send(None)
        self._reader.join(20)
        ended_well = self.was_killed or not self._reader.is_alive()
        self._signal(signal.SIGKILL)
        self._process.join()
        self._reader.join()
        self._pipe.close()
        if self._handle >= 0:
            os.close(self._handle)
        return ended_well

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)
            elif self._process.pid is not None and self._process.is_alive():
                os.kill(self._process.pid, number)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while (came := self._pipe.recv()) is not None:
                number, code, text = came
                with self._lock:
                    future = self._waiting.pop(number)
                future.set_result(Answer(code, text))
        with self._lock:
            left, self._waiting = self._waiting, {}
        for future in left.values():
            future.set_result(None)
