"""A function served by `functions-framework --target=NAME`, as in the cloud, and fired as Cloud Scheduler fires it.

    with Served("period_reset", settings, log=folder / "server.log") as served:
        status, fields, headers = fire(served.url, job="period_reset", slot=slot)

Dangers, and what holds them:

* A server that outlives its owner. gunicorn forks workers, and an owner may be killed with SIGKILL. So the server is
  put into the process group of a watcher (`devstack.watcher`), which kills its own group when the owner is gone. It
  needs no pid for that, so it cannot hit a stranger.
* Killing a stranger. The group's number is the watcher's pid, which stays taken until we wait for the watcher; and that
  is the last thing done.
* A stranger on the port. A server counts as ready only when the port is its own and a worker of it has answered.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from devstack import guardian
from devstack.guardian import StartError
from devstack.watcher import start_watcher
from shared.clock import format_rfc3339

REPOSITORY = Path(__file__).resolve().parent.parent
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 3.0
_POLL_S = 0.01


class Answer(NamedTuple):
    """What a function answered: the HTTP status, the JSON object, and the headers, found in any case."""

    status: int
    fields: dict[str, Any]
    headers: http.client.HTTPMessage


def fire(url: str, *, job: str, slot: datetime | None, body: bytes = b"", timeout: float = 60.0) -> Answer:
    """POST as Cloud Scheduler does. `job` is the entry point's name; without a slot, as a manual run.

    Raises OSError when the server cannot be reached, goes away or does not answer in time, and ValueError when the
    answer is no JSON object.
    """
    headers = {
        "User-Agent": "Google-Cloud-Scheduler",
        "X-CloudScheduler": "true",
        "X-CloudScheduler-JobName": job.replace("_", "-"),
        "Content-Type": "application/octet-stream",
    }
    if slot is not None:
        headers["X-CloudScheduler-ScheduleTime"] = format_rfc3339(slot)
    return _exchange("POST", url, headers, body, timeout)


def ask(url: str, *, timeout: float = 60.0) -> Answer:
    """GET, which is the health check. Raises as `fire` does."""
    return _exchange("GET", url, {}, None, timeout)


def _exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float) -> Answer:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    try:
        connection.request(method, parts.path or "/", body, dict(headers))
        response = connection.getresponse()
        content = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url} broke its answer off: {error!r}") from error
    finally:
        connection.close()
    fields = json.loads(content)
    if not isinstance(fields, dict):
        raise ValueError(f"{url} answered {response.status} with something else than a JSON object.")
    return Answer(response.status, fields, response.headers)


class Served:
    """A function while the `with` block lasts.

    In: the entry point's name; the settings, which with PATH are the server's whole environment; the log, which is
    appended to; the file that defines the entry point, main.py unless given (another may import this repository too).
    Out: `url`, `process` and `pid` (gunicorn's master). Errors: StartError, with the last lines of the log.
    """

    url: str
    process: subprocess.Popen[bytes]

    def __init__(self, target: str, environ: Mapping[str, str], *, log: Path, source: Path | None = None) -> None:
        """Remember what to serve; nothing is started or written."""
        self.log = log.resolve()
        self._command = [os.fspath(Path(sys.executable).parent / "functions-framework"), f"--target={target}"]
        # gunicorn makes a control socket below the home folder unless it is given another place.
        self._environ = {"PATH": os.environ.get("PATH", os.defpath), "XDG_RUNTIME_DIR": os.fspath(self.log.parent)}
        if source is not None:
            self._command += ["--source", os.fspath(source.resolve())]
            self._environ["PYTHONPATH"] = os.fspath(REPOSITORY)
        self._environ.update(environ)
        self._port = 0
        self._since = 0
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    def __enter__(self) -> Self:
        """Start the server and wait until a worker answers; after 20 s at most, StartError."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._launch()
            while not self._is_up(deadline):
                self.kill()
                self._launch()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        """Kill the server: nothing in it needs a polite end, which takes gunicorn about a second."""
        self.kill()

    @property
    def pid(self) -> int:
        """The process id of gunicorn's master."""
        return self.process.pid

    def worker_pid(self) -> int:
        """The process id of gunicorn's worker, waited for where the last one has just died. Raises StartError."""
        found: list[int] = []

        def appeared() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                found[:] = [child.pid for child in psutil.Process(self.pid).children() if _is_alive(child)]
            return bool(found)

        if not guardian.wait_for(appeared, _START_TIMEOUT_S):
            raise StartError(f"The server has no worker. Its log ends with:\n{self._told()}")
        return found[0]

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines logged since the start, without the server's own messages and a line written by half."""
        with self.log.open("rb") as file:
            file.seek(self._since)
            written = file.read()
        lines = []
        for line in written.splitlines(keepends=True):
            if line.startswith(b"{") and line.endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(line))
        return lines

    def stop(self) -> None:
        """Stop as Cloud Run does: SIGTERM, and SIGKILL for what is left after a while. Twice is fine."""
        if self._watcher is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
            self.kill()

    def kill(self) -> None:
        """Kill master and workers at once, also stopped ones, and wait until none is left. Twice is fine."""
        watcher = self._watcher
        if watcher is None:
            return
        # Where the group has none but dead members, macOS refuses.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(watcher.pid, signal.SIGKILL)
        if hasattr(self, "process"):
            self.process.wait()
        guardian.wait_for(lambda: not _living_members(watcher.pid), _STOP_TIMEOUT_S)
        guardian.release(self._pipe)
        self._watcher = None
        watcher.wait()

    def _launch(self) -> None:
        self._watcher, self._pipe = start_watcher()
        self._port = guardian.free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._since = os.fstat(log).st_size
            self.process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                [*self._command, "--host", "127.0.0.1", "--port", str(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=self._environ,
                process_group=self._watcher.pid,
            )
        except OSError as error:
            raise StartError(f"functions-framework cannot be run: {error}. Install it with `make install`.") from error
        finally:
            os.close(log)

    def _is_up(self, deadline: float) -> bool:
        """Wait until a worker answers: True. False: the port was taken. Raises StartError on any other failure."""
        while True:
            told = self._told()
            in_time = time.monotonic() < deadline
            if in_time and "Connection in use" in told:
                return False
            status = self.process.poll()
            if status is not None:
                raise StartError(f"The server did not start (exit status {status}). Its log ends with:\n{told}")
            if not in_time:
                raise StartError(f"The server did not answer in time. Its log ends with:\n{told}")
            if self._answers():
                return True
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        """Whether the port is the server's own, and a worker answers on it."""
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            if not self._is_listening():
                return False
            # Answered by functions-framework itself: the function is not called.
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_START_TIMEOUT_S)
            try:
                connection.request("GET", "/robots.txt")
                connection.getresponse().read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _is_listening(self) -> bool:
        with contextlib.suppress(psutil.Error):
            sockets = psutil.Process(self.pid).net_connections("tcp4")
            return any(each.status == psutil.CONN_LISTEN and each.laddr.port == self._port for each in sockets)
        return False

    def _told(self) -> str:
        return guardian.last_lines(self.log, self._since)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _living_members(group: int) -> list[int]:
    """Return the pids of the group's processes that have not ended."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if os.getpgid(pid) == group and _is_alive(psutil.Process(pid)):
                members.append(pid)
    return members
