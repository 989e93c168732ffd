"""How fast something may be done: a token bucket that can be slowed down, and finds its way back by itself."""

import threading
from typing import Protocol

from shared.clock import Timer

# So much of a second's worth may be done at once after a pause: enough to make up for a short stop, and no burst.
BURST_SECONDS = 0.5
SLOWEST = 1.0
# No wait so short that a timer would not notice it.
SHORTEST_SECONDS = 0.0001
# Each second without another word against it, the rate rises by this share of the full one.
RECOVERY_A_SECOND = 0.05


class Pacing(Protocol):
    """What gives turns."""

    @property
    def pause(self) -> float:
        """Seconds until turns are given again; 0 where they are."""
        ...

    def delay(self) -> float:
        """Take a turn if there is one and give 0; otherwise give how many seconds to wait before asking again."""
        ...

    def slow_down(self, pause_seconds: float) -> None:
        """Halve the rate and give no turn for so long."""
        ...


class Pace:
    """At most `rate` turns a second, `start` of them at first. Safe to share between threads."""

    def __init__(self, rate: float, timer: Timer, *, start: float | None = None) -> None:
        self._full = rate
        self._rate = rate if start is None else start
        self._timer = timer
        self._tokens = 1.0
        self._then = timer.seconds()
        self._paused_until = self._then
        self._slowed_at = self._then
        self._lock = threading.Lock()

    @property
    def rate(self) -> float:
        """Turns a second as of now."""
        with self._lock:
            self._pass_time()
            return self._rate

    @property
    def pause(self) -> float:
        """Seconds until turns are given again; 0 where they are."""
        with self._lock:
            self._pass_time()
            return max(0.0, self._paused_until - self._then)

    def delay(self) -> float:
        """Take a turn if there is one and give 0; otherwise give how many seconds to wait before asking again."""
        with self._lock:
            self._pass_time()
            pause = self._paused_until - self._then
            if pause > 0:
                return pause
            if self._tokens >= 1:
                self._tokens -= 1
                return 0.0
            return max((1 - self._tokens) / self._rate, SHORTEST_SECONDS)

    def slow_down(self, pause_seconds: float) -> None:
        """Halve the rate and give no turn for so long. Words that come together, about the same second, count once."""
        with self._lock:
            self._pass_time()
            self._paused_until = max(self._paused_until, self._then + pause_seconds)
            if self._then >= self._slowed_at:
                self._rate = max(self._rate / 2, min(SLOWEST, self._full))
                self._slowed_at = self._then + max(pause_seconds, 1.0)
                self._tokens = min(self._tokens, 1.0)

    def _pass_time(self) -> None:
        now = self._timer.seconds()
        passed = max(0.0, now - self._then)
        in_peace = max(0.0, now - max(self._then, self._slowed_at))
        self._then = max(now, self._then)
        self._tokens = min(max(1.0, self._rate * BURST_SECONDS), self._tokens + passed * self._rate)
        self._rate = min(self._full, self._rate + in_peace * self._full * RECOVERY_A_SECOND)
