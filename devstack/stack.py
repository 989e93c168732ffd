"""All servers for one owner (a test session, the demo, a benchmark), and nothing left of them afterwards.

    with terminated_cleanly(), Stack(os.environ) as stack:
        serve(stack.database_url, stack.redis_url, stack.gcs_url)

Every owner has a folder of its own below `.devstack`, which it holds locked; `devstack.guardian` says what the lock is
for and what happens when an owner is killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from devstack import guardian
from devstack.gcs import GcsServer
from devstack.postgres import PostgresServer
from devstack.valkey import ValkeyServer

_REPOSITORY = Path(__file__).resolve().parent.parent
ROOT = _REPOSITORY / ".devstack"
_ROOT_LOCK = ".lock"
_GUARDIAN_LOG = "guardian.log"
_NO_SETTINGS: Mapping[str, str] = types.MappingProxyType({})


@contextlib.contextmanager
def terminated_cleanly() -> Iterator[None]:
    """Within this, SIGTERM ends the main thread as `sys.exit(143)` does, so that everything is closed on the way out.

    One that comes while the block is left already, because of another or of Ctrl-C, changes nothing: it must not
    interrupt the closing. The old handler comes back at the end. Raises ValueError outside the main thread.
    """

    def exit_unless_exiting(number: int, _frame: types.FrameType | None) -> None:
        # Asked, not remembered: Python drops an exception raised in a destructor, and then the next SIGTERM must count.
        if not _is_exiting():
            raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, exit_unless_exiting)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_exiting() -> bool:
    """Whether an exception that ends the process is being handled now."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
        error = error.__context__
    return error is not None


class Stack:
    """PostgreSQL, Valkey and fake-gcs-server while the `with` block lasts.

    In: the environment, where DATABASE_URL, REDIS_URL or STORAGE_EMULATOR_HOST name a server to use instead of starting
    one; the folder below which owners have theirs; settings for PostgreSQL. Out: `database_url`, `redis_url` and
    `gcs_url`, and the servers, `postgres`, `valkey` and `gcs`, None where none was started. Errors:
    guardian.StartError.
    """

    def __init__(
        self, environ: Mapping[str, str], *, root: Path = ROOT, postgres_settings: Mapping[str, str] = _NO_SETTINGS
    ) -> None:
        """Remember what to start; nothing is started or written."""
        self.database_url = self._given_database = environ.get("DATABASE_URL", "").strip()
        self.redis_url = self._given_redis = environ.get("REDIS_URL", "").strip()
        self.gcs_url = self._given_gcs = environ.get("STORAGE_EMULATOR_HOST", "").strip().rstrip("/")
        self.postgres: PostgresServer | None = None
        self.valkey: ValkeyServer | None = None
        self.gcs: GcsServer | None = None
        self.folder: Path | None = None
        self._root = root
        self._settings = postgres_settings
        self._owner = 0
        self._held: list[int] = []
        self._guardian: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Clear what killed owners left, then start what is needed and wait until it answers. Raises StartError."""
        if self._given_database and self._given_redis and self._given_gcs:
            return self
        self._owner = os.getpid()
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        """Stop what was started and remove its data; nothing else. A forked child owns nothing, so it stops nothing."""
        if self._owner == os.getpid():
            self._close()

    def _start(self) -> None:
        folder = self._claim_folder()
        # First, so that there is no moment at which a server runs unguarded.
        self._guardian = self._launch_guardian(folder)
        if not self._given_redis:
            self.valkey = ValkeyServer(folder / "valkey")
            # Launched only, so that it starts while PostgreSQL does.
            self.valkey.launch()
        if not self._given_gcs:
            self.gcs = GcsServer(folder / "gcs")
            self.gcs.launch()
        if not self._given_database:
            self.postgres = PostgresServer(folder / "postgres", settings=self._settings)
            self.postgres.start()
            self.database_url = self.postgres.url()
        if self.valkey is not None:
            self.valkey.start()
            self.redis_url = self.valkey.url
        if self.gcs is not None:
            self.gcs.start()
            self.gcs_url = self.gcs.url
        if self._guardian.poll() is not None:
            told = guardian.last_lines(folder / _GUARDIAN_LOG)
            raise guardian.StartError(f"The guardian of the servers ended. Its log ends with:\n{told}")

    def _claim_folder(self) -> Path:
        """Make and lock this owner's folder, and clear the folders of owners that are dead."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            root = self._root.resolve()
            everyone = guardian.take_lock(root / _ROOT_LOCK, wait=True)
            try:
                self.folder = folder = root / f"{os.getpid()}-{secrets.token_hex(6)}"
                folder.mkdir()
                lock = guardian.take_lock(folder / guardian.LOCK, wait=True)
                self._held += [] if lock is None else [lock]
                # Only under the common lock: an owner's folder exists for a moment before it is locked.
                dead = _lock_dead(root)
            finally:
                if everyone is not None:
                    guardian.release(everyone)
        except OSError as error:
            raise guardian.StartError(f"The dev stack's folder cannot be used: {error}") from error
        for left, lock in dead:
            # What cannot be removed belongs to another account, whose own next start removes it.
            with contextlib.suppress(OSError):
                guardian.clear(left)
            guardian.release(lock)
        return folder

    def _launch_guardian(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the guardian of the folder, with a pipe that wakes it when this process is gone."""
        reading, writing = os.pipe()
        guardian.hold(writing)
        self._held.append(writing)
        log = os.open(folder / _GUARDIAN_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", "devstack.guardian", os.fspath(folder)],
                stdin=reading,
                stdout=log,
                stderr=log,
                cwd="/",
                # The same interpreter with the same paths, wherever and however this process was started.
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), *filter(None, sys.path)])},
                start_new_session=True,
            )
        finally:
            os.close(reading)
            os.close(log)

    def _close(self) -> None:
        """Stop servers, remove the folder, and only then let go of lock and guardian: if interrupted, it takes over."""
        for server in (self.valkey, self.gcs, self.postgres):
            if server is not None:
                server.stop(keep=False)
        if self.folder is not None:
            guardian.clear(self.folder)
        if self._guardian is not None:
            self._guardian.kill()
            self._guardian.wait()
        for descriptor in self._held:
            guardian.release(descriptor)
        self._held.clear()


def _lock_dead(root: Path) -> list[tuple[Path, int]]:
    """Return the folders whose owner is dead, each with the descriptor of its lock, taken."""
    dead = []
    for folder in root.iterdir():
        if folder.is_dir() and not folder.is_symlink():
            with contextlib.suppress(OSError):
                lock = guardian.take_lock(folder / guardian.LOCK, wait=False)
                if lock is not None:
                    dead.append((folder, lock))
    return dead
