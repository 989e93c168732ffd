"""One pace for all shards of a firing: its token bucket is kept in Redis, on Redis's clock.

The rules are those of `shared.pace`. Each shard takes turns in small lots, so that not every turn is a question to
Redis. Without Redis, or once it is lost, a shard keeps to its part of the rate: together they never do more.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.clock import Timer
from shared.errors import MaintenanceError, Unavailable
from shared.pace import BURST_SECONDS, RECOVERY_A_SECOND, SHORTEST_SECONDS, SLOWEST, Pace

if TYPE_CHECKING:
    from shared.redis_store import RedisStore

# The lots of all shards together are so much of a second's worth. It may come on top of a burst, and no more.
_LOT_SECONDS = 0.05
_FORGOTTEN_AFTER_SECONDS = 600
# No word of the service's puts a pause so far off: whatever says so was not written here.
_LONGEST_PAUSE_SECONDS = 600

# Gives the turns granted, the seconds to wait where there are none, and whether that is a pause. Where a pause is given
# that is not below zero, it slows down first.
_SCRIPT = """
local full, first, most, pause = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local burst, slowest, recovery = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local longest, forgotten = tonumber(ARGV[8]), tonumber(ARGV[9])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local kept = redis.call('HMGET', KEYS[1], 'at', 'tokens', 'rate', 'paused_until', 'slowed_until')
local at, tokens, rate = tonumber(kept[1] or ''), tonumber(kept[2] or ''), tonumber(kept[3] or '')
local paused, slowed = tonumber(kept[4] or ''), tonumber(kept[5] or '')
if not (at and tokens and rate and paused and slowed and at <= now and tokens >= 0 and rate > 0) then
    at, tokens, rate, paused, slowed = now, 1, first, now, now
end
paused, slowed, rate = math.min(paused, now + longest), math.min(slowed, now + longest), math.min(rate, full)
tokens = math.min(math.max(1, rate * burst), tokens + (now - at) * rate)
rate = math.min(full, rate + math.max(0, now - math.max(at, slowed)) * full * recovery)
if pause >= 0 then
    paused = math.max(paused, now + pause)
    if now >= slowed then
        rate = math.max(rate / 2, math.min(slowest, full))
        slowed = now + math.max(pause, 1)
        tokens = math.min(tokens, 1)
    end
end
local granted, wait = 0, 0
if paused > now then
    wait = paused - now
elseif tokens >= 1 then
    granted = math.min(most, math.floor(tokens))
    tokens = tokens - granted
else
    wait = (1 - tokens) / rate
end
local function text(number) return string.format('%.6f', number) end
redis.call('HSET', KEYS[1], 'at', text(now), 'tokens', text(tokens), 'rate', text(rate),
    'paused_until', text(paused), 'slowed_until', text(slowed))
redis.call('EXPIRE', KEYS[1], forgotten)
return {text(granted), text(wait), paused > now and '1' or '0'}
"""


class SharedPace:
    """At most `rate` turns a second for all `shards` with the same `key`, `start` of them at first.

    `alone` is this shard's own pace, kept where Redis is lost; `on_loss` is told of that, once. Safe to share between
    threads.
    """

    def __init__(
        self,
        redis: "RedisStore",
        key: str,
        rate: float,
        timer: Timer,
        *,
        start: float | None,
        shards: int,
        alone: Pace,
        on_loss: Callable[[Exception], None],
    ) -> None:
        self._redis = redis
        self._key = key
        self._rate = rate
        self._start = rate if start is None else start
        self._timer = timer
        self._alone = alone
        self._on_loss = on_loss
        # Of all shards together: each may be left with what it does not use.
        self._lot = max(1, int(rate * _LOT_SECONDS / shards))
        self._turns = 0
        self._wait_until = self._paused_until = timer.seconds()
        self._is_lost = False
        self._lock = threading.Lock()

    @property
    def pause(self) -> float:
        """Seconds until turns are given again, as far as is known here; 0 where they are."""
        with self._lock:
            if self._is_lost:
                return self._alone.pause
            return max(0.0, self._paused_until - self._timer.seconds())

    def delay(self) -> float:
        """Take a turn if there is one and give 0; otherwise give how many seconds to wait before asking again."""
        with self._lock:
            if self._turns == 0 and not self._is_lost:
                wait = self._wait_until - self._timer.seconds()
                if wait > 0:
                    return wait
                self._ask(-1)
            if self._is_lost:
                return self._alone.delay()
            if self._turns:
                self._turns -= 1
                return 0.0
            return max(SHORTEST_SECONDS, self._wait_until - self._timer.seconds())

    def slow_down(self, pause_seconds: float) -> None:
        """Halve the rate of all and give nobody a turn for so long."""
        with self._lock:
            # What this shard has taken already is not used any more: the service has just said that it is too much.
            self._turns = 0
            if not self._is_lost:
                self._ask(max(0.0, pause_seconds))
            # Also where it is not lost yet: by then it may have to go on alone.
            self._alone.slow_down(pause_seconds)

    def _ask(self, pause: float) -> None:
        arguments = (self._rate, self._start, self._lot if pause < 0 else 0, pause)
        constants = (BURST_SECONDS, SLOWEST, RECOVERY_A_SECOND, _LONGEST_PAUSE_SECONDS, _FORGOTTEN_AFTER_SECONDS)
        try:
            granted, wait, is_pause = self._redis.run_script(_SCRIPT, self._key, *arguments, *constants)
            turns, seconds = int(float(granted)), float(wait)
            if not 0 <= turns <= self._lot or not 0 <= seconds <= _LONGEST_PAUSE_SECONDS + 1:
                raise ValueError("no answer of the script's")
        except MaintenanceError as error:
            self._lose(error)
            return
        except (TypeError, ValueError, OverflowError) as error:
            # The name alone: the text may quote a value.
            self._lose(Unavailable("redis", f"Redis gave no useful answer ({type(error).__name__})."))
            return
        self._turns = turns
        self._wait_until = self._timer.seconds() + seconds
        if is_pause == "1":
            self._paused_until = self._wait_until

    def _lose(self, error: MaintenanceError) -> None:
        self._is_lost = True
        self._on_loss(error)
