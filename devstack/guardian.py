"""Server processes of the dev stack: launched, recognised, stopped. Run as a module: their guardian.

An owner (a test session, a demo) keeps everything of its servers below one folder of its own and holds that folder's
lock for as long as it lives. Whoever later finds the lock free knows that the owner is dead, and may clear the folder.

Dangers, and what holds them:

* Killing a stranger. No pid that was written down is ever signalled. A process counts as ours only if its program is
  one of `PROGRAMS` **and** its command line names a path below the owner's folder, which has a random name; psutil
  compares the creation time once more before each signal.
* Removing a stranger's files. Outside its folder a server keeps things in one place only, named in the file `OUTSIDE`;
  that place is removed only if it has our prefix, is a real folder and is owned by us.
* Living on in a fork. A forked child would inherit the lock and the guardian's pipe and so seem to be the owner: both
  are closed in it at once.

The guardian (`python -m devstack.guardian FOLDER`) waits for the end of a pipe that only the owner holds, so it wakes
even when the owner was killed with SIGKILL, and clears the folder. PR_SET_PDEATHSIG would not do: it follows the thread
that forked, is lost when the server changes its account, exists on Linux only and leaves the data behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PROGRAMS = frozenset(
    {"postgres", "initdb", "valkey-server"}
    | {f"fake-gcs-server-{system}-{machine}" for system in ("linux", "darwin") for machine in ("amd64", "arm64")}
)
LOCK = "owner.lock"
OUTSIDE = "outside"
OUTSIDE_PREFIX = "devstack-pg-"
START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.01
# Below the ranges that Linux (32768+) and macOS (49152+) give to outgoing connections: otherwise, while a server is
# down, a client that keeps trying its port could be given that very port as its own, and hold it.
_PORTS = range(20_000, 32_000)

# Descriptors whose closing says that the owner is gone.
_owner_only: set[int] = set()


class StartError(RuntimeError):
    """A server did not start. The message is one sentence, followed by the last lines of the server's log."""


def _close_in_fork() -> None:
    for descriptor in _owner_only:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _owner_only.clear()


os.register_at_fork(after_in_child=_close_in_fork)


# --- launching


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now.

    Somebody may take it before it is bound: callers try again with another. Raises StartError if none is found.
    """
    for candidate in random.sample(_PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", candidate))
            return candidate
    raise StartError("No free port was found on 127.0.0.1 between 20000 and 32000.")


def _can_listen(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False


def last_lines(log: Path, since: int = 0, count: int = 20) -> str:
    """Return at most `count` last lines of what was written to the log after byte `since`."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(since)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])


def launch(
    command: Sequence[str | Path], log: Path, *, account: tuple[int, int] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server and return its process. Its output is appended to `log`.

    `account` is the (uid, gid) to run as, None for our own. The server gets a session of its own, so that Ctrl-C in a
    terminal reaches only the owner, and a bare environment: the owner's may hold secrets, and the server's account may
    belong to others as well. UTC, as in the cloud. Raises StartError if the program cannot be run.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - our own binaries, no shell
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=None if account is None else account[0],
            group=None if account is None else account[1],
            extra_groups=None if account is None else [],
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StartError(f"{Path(command[0]).name} cannot be run: {error}") from error
    finally:
        os.close(descriptor)


def wait_for(condition: Callable[[], bool], timeout: float) -> bool:
    """Poll until the condition holds (True) or the timeout is over (False)."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


class Server:
    """One server process with its folder, log and port: what PostgreSQL, Valkey and fake-gcs-server have in common.

    `start` and `stop` may be called again and again; the port stays the same from the first successful start on. Used
    alone it has no guardian: only `stack.Stack` sees to it that nothing is left when the owner is killed.
    """

    name = "The server"
    stop_steps: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 10.0),)
    discard_steps = stop_steps

    def __init__(self, folder: Path) -> None:
        """Remember the folder; nothing is started or written."""
        self.folder = folder.resolve()
        self.log = self.folder / "server.log"
        self._port: int | None = None
        self._settled = False
        self._process: subprocess.Popen[bytes] | None = None
        self._since = 0

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it is stopped."""
        return None if self._process is None else self._process.pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1. Raises StartError before the first start."""
        if self._port is None:
            raise StartError(f"{self.name} has no address yet: it was never started.")
        return self._port

    def launch(self) -> None:
        """Start the process without waiting for its answer, so that another can start meanwhile; then call `start`."""
        self._launch(time.monotonic() + START_TIMEOUT_S)

    def start(self) -> None:
        """Start the server and wait until it answers. Does nothing if it runs. Raises StartError after 30 s at most."""
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            while not self._is_up(self._launch(deadline), deadline):
                # Somebody took the port before the server bound it. A new server tries another; one that had clients
                # waits for its own.
                if self._settled and not wait_for(lambda: _can_listen(self.port), deadline - time.monotonic()):
                    raise StartError(f"{self.name} did not start: another process has taken its port {self.port}.")
        except BaseException:
            self.stop()
            raise
        self._settled = True

    def stop(self, *, keep: bool = True) -> None:
        """Stop the server and wait until it has ended, if it runs. With `keep` False: at once, its data may be lost."""
        if self._process is not None:
            stop_process(self._process, self.stop_steps if keep else self.discard_steps)
            self._process = None

    def remove(self) -> None:
        """Stop the server and remove its folder with all data, also what it keeps elsewhere."""
        self.stop(keep=False)
        clear(self.folder)

    def _launch(self, deadline: float) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._settled:
                self._port = free_port()
            self._mark_log()
            try:
                command, account = self._prepare(deadline)
            except OSError as error:
                raise StartError(f"{self.name} could not be prepared: {error}") from error
            self._mark_log()
            self._process = launch(command, self.log, account=account)
        return self._process

    def _mark_log(self) -> None:
        """From here on the log is about what comes next; an error message quotes nothing from before."""
        self._since = self.log.stat().st_size if self.log.exists() else 0

    def _is_up(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait until the server answers: True. False: its port was taken. Raises StartError on any other failure."""
        while True:
            reason = self._refusal()
            status = process.poll()
            if status is None and reason is None:
                return True
            told = last_lines(self.log, self._since)
            in_time = time.monotonic() < deadline
            if status is not None and in_time and "address already in use" in told.lower():
                return False
            if status is not None:
                raise StartError(f"{self.name} did not start (exit status {status}). Its log ends with:\n{told}")
            if not in_time:
                raise StartError(f"{self.name} did not answer in time ({reason}). Its log ends with:\n{told}")
            time.sleep(_POLL_S)

    def _prepare(self, deadline: float) -> tuple[list[str | Path], tuple[int, int] | None]:
        """Prepare the folder for a start; return the command and the (uid, gid) to run it as, None for our own."""
        raise NotImplementedError

    def _refusal(self) -> str | None:
        """Ask the server once: None if it answered, else why not."""
        raise NotImplementedError


# --- recognising and stopping


def stop_process(process: subprocess.Popen[bytes], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Stop a child of ours: send each signal in turn, waiting so many seconds for the end after it; at last SIGKILL."""
    for number, seconds in steps:
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    process.kill()
    process.wait()


def servers_below(folder: Path) -> list[tuple[psutil.Process, str]]:
    """Return the running server processes that were started for this folder, by whatever owner, and their programs."""
    places = [folder, *outside_of(folder)]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # Empty for a process that is about to end.
            program, *arguments = process.cmdline() or [""]
            program = Path(program).name
            if program in PROGRAMS and any(
                Path(argument).is_relative_to(place) for argument in arguments for place in places
            ):
                found.append((process, program))
    return found


def _gone(process: psutil.Process) -> bool:
    try:
        # A zombie is over. Waiting for it to vanish may take for ever where process 1 does not reap.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stop_servers_below(folder: Path) -> None:
    """Stop all server processes that were started for this folder, with their children, without keeping their data."""
    family: list[psutil.Process] = []
    for server, program in servers_below(folder):
        with contextlib.suppress(psutil.Error):
            family += [server, *server.children(recursive=True)]
            # PostgreSQL's immediate shutdown: no checkpoint, but shared memory is given back, unlike after SIGKILL.
            server.send_signal(signal.SIGQUIT if program == "postgres" else signal.SIGTERM)
    if wait_for(lambda: all(map(_gone, family)), _STOP_TIMEOUT_S):
        return
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    wait_for(lambda: all(map(_gone, family)), _STOP_TIMEOUT_S)


# --- the owner's folder


def take_lock(path: Path, *, wait: bool) -> int | None:
    """Lock a file, made if missing, and return the descriptor that holds the lock.

    None if somebody else holds it and `wait` is False. Raises OSError; FileNotFoundError if the folder is gone.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        hold(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever held it may have removed the file meanwhile: then this lock is of no file.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            release(descriptor)
            return None
        except BaseException:
            release(descriptor)
            raise
        release(descriptor)


def hold(descriptor: int) -> None:
    """Keep a descriptor open in this process only, not in its forks; `release` ends it."""
    _owner_only.add(descriptor)


def release(descriptor: int) -> None:
    """Close a descriptor from `take_lock` or `hold`; in a forked child it is closed already."""
    if descriptor in _owner_only:
        _owner_only.discard(descriptor)
        os.close(descriptor)


def outside_of(folder: Path) -> list[Path]:
    """Return the places outside the folder that its servers keep things in: those that are safe to remove."""
    places = []
    for pointer in (folder / OUTSIDE, *folder.glob(f"*/{OUTSIDE}")):
        with contextlib.suppress(OSError):
            place = Path(pointer.read_text())
            status = place.lstat()
            if place.name.startswith(OUTSIDE_PREFIX) and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                places.append(place)
    return places


def clear(folder: Path) -> None:
    """Stop what runs for this folder, then remove it with all that its servers keep outside it. Missing is fine."""
    stop_servers_below(folder)
    for place in outside_of(folder):
        shutil.rmtree(place, ignore_errors=True)
    if not folder.exists():
        return
    # The lock file goes last: as long as anything is left, it says whose it is.
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    (folder / LOCK).unlink(missing_ok=True)
    # Not empty: somebody found it without its lock and is clearing it as well.
    with contextlib.suppress(OSError):
        folder.rmdir()


def main(arguments: Sequence[str]) -> int:
    """Wait until the owner is gone, then clear its folder. Takes the folder; returns the exit status."""
    folder = Path(arguments[0])
    while os.read(0, 1024):
        pass
    try:
        lock = take_lock(folder / LOCK, wait=True)
    except FileNotFoundError:
        # Cleared by the next start, or removed by hand below running servers: those must end all the same.
        stop_servers_below(folder)
        return 0
    try:
        clear(folder)
    finally:
        if lock is not None:
            release(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
