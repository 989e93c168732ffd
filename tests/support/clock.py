"""Clocks that tests move."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from shared.clock import format_rfc3339, parse_rfc3339

NOON = datetime(2026, 5, 15, 12, 0, tzinfo=UTC)


class MovableClock(Protocol):
    """What the clocks below have in common."""

    def now(self) -> datetime:
        """The time it shows."""
        ...

    def advance(self, **amount: float) -> None:
        """Move it by so much, as timedelta counts."""
        ...


class ManualClock:
    """A clock that stands still until it is moved; with `step`, it moves by itself at each look."""

    def __init__(self, now: datetime = NOON, step: timedelta = timedelta(0)) -> None:
        self._now = now
        self._step = step
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            self._now += self._step
            return self._now

    def advance(self, **amount: float) -> None:
        with self._lock:
            self._now += timedelta(**amount)

    def set(self, now: datetime) -> None:
        with self._lock:
            self._now = now


class FileClock:
    """The same for another process: the time stands in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def now(self) -> datetime:
        return parse_rfc3339(self.file.read_text())

    def set(self, now: datetime) -> None:
        # Replaced in one step: a reader never finds half of it.
        new = self.file.with_suffix(".new")
        new.write_text(format_rfc3339(now))
        new.replace(self.file)

    def advance(self, **amount: float) -> None:
        self.set(self.now() + timedelta(**amount))


class VirtualTimer:
    """A timer on which waiting takes no time: it only says that it has passed."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._lock = threading.Lock()

    def seconds(self) -> float:
        with self._lock:
            return self._seconds

    def wait(self, seconds: float) -> None:
        with self._lock:
            self._seconds += seconds
