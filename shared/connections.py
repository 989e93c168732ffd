"""A small pool of connections, made when they are first needed.

SQLAlchemy's would do, and cost a function half of its own part of a cold start (docs/adr/0004).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shared.errors import Unavailable

_MOST = 10
_KEPT = 2
_WAIT_SECONDS = 5.0
# One that was used so short a time ago is not asked whether it still works: within a run, that is all.
_TRUSTED_SECONDS = 1.0


@dataclass
class Pooled:
    """A connection that somebody has. With `is_doubtful` it is closed when it comes back, and not used again."""

    driver: Any
    is_doubtful: bool = False


class ConnectionPool:
    """At most ten connections at once, of which two are kept for the next who asks. Safe to share between threads.

    `connect` opens one; `works` says, or raises, whether one that was kept still does; `close` closes one, and raises
    nothing.
    """

    def __init__(self, connect: Callable[[], Any], works: Callable[[Any], None], close: Callable[[Any], None]) -> None:
        self._connect = connect
        self._works = works
        self._close = close
        self._free: list[tuple[Any, float]] = []
        self._places = threading.BoundedSemaphore(_MOST)
        self._lock = threading.Lock()
        self._is_closed = False

    @contextmanager
    def connection(self) -> Iterator[Pooled]:
        """A connection for the block. Raises what `connect` does, and Unavailable when all are in use for seconds."""
        if not self._places.acquire(timeout=_WAIT_SECONDS):
            raise Unavailable("postgres", "All of this process's database connections are in use. Try again.")
        try:
            pooled = Pooled(self._kept() or self._connect())
            try:
                yield pooled
            finally:
                self._put_back(pooled)
        finally:
            self._places.release()

    def dispose(self) -> None:
        """Close the connections that nobody has, and each that somebody has when it comes back. No more are kept."""
        with self._lock:
            self._is_closed = True
        self.close_kept()

    def close_kept(self) -> None:
        """Close the connections that nobody has; whoever asks next gets a new one."""
        with self._lock:
            free, self._free = self._free, []
        for connection, _ in free:
            self._close(connection)

    def _kept(self) -> Any:
        """The one that was used last and still works; None without any."""
        while True:
            with self._lock:
                if not self._free:
                    return None
                connection, since = self._free.pop()
            if time.monotonic() - since <= _TRUSTED_SECONDS:
                return connection
            try:
                self._works(connection)
            except Exception:  # noqa: BLE001  whatever it is, it is no use; the others were kept longer
                self._close(connection)
                self.close_kept()
                continue
            return connection

    def _put_back(self, pooled: Pooled) -> None:
        if not pooled.is_doubtful:
            with self._lock:
                if len(self._free) < _KEPT and not self._is_closed:
                    self._free.append((pooled.driver, time.monotonic()))
                    return
        self._close(pooled.driver)
