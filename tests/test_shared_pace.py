"""The pace of several shards together, on a real Redis: never more than the rate; one that is told slows all down."""

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from devstack.valkey import ValkeyServer
from shared.clock import SystemTimer
from shared.pace import Pace
from shared.redis_store import RedisStore
from shared.settings import RedisTarget
from shared.shared_pace import SharedPace
from tests.support.clock import VirtualTimer

KEY = "maintenance:a_job:pace:events"
SHARDS = 3


class Shards:
    """Shards' paces of one rate on one Redis, each with a store of its own."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.client = redis.Redis.from_url(server.url)
        self.losses: list[Exception] = []
        self._stores: list[RedisStore] = []

    def pace(
        self, rate: float, start: float | None = None, alone: Pace | None = None, shards: int = SHARDS
    ) -> SharedPace:
        timer = SystemTimer()
        self._stores.append(RedisStore(RedisTarget(self.server.url)))
        return SharedPace(
            self._stores[-1],
            KEY,
            rate,
            timer,
            start=start,
            shards=shards,
            alone=alone or Pace(rate / SHARDS, timer),
            on_loss=self.losses.append,
        )

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self.client.close()

    def fill(self, tokens: int) -> None:
        """So much was saved up in a pause."""
        now = self.redis_seconds()
        self.client.hset(
            KEY, mapping={"at": now, "tokens": tokens, "rate": 200, "paused_until": now, "slowed_until": now}
        )

    def redis_seconds(self) -> float:
        seconds, micros = self.client.time()
        return float(seconds) + float(micros) / 1_000_000


@pytest.fixture
def shards(own_redis: ValkeyServer) -> Iterator[Shards]:
    found = Shards(own_redis)
    yield found
    found.close()


def take(pace: SharedPace, turns: int) -> None:
    """Wait for so many turns."""
    while turns:
        wait = pace.delay()
        turns -= not wait
        time.sleep(wait)


def test_together_they_take_no_more_than_the_rate(shards: Shards) -> None:
    rate, each = 400.0, 100
    paces = [shards.pace(rate) for _ in range(SHARDS)]
    began = shards.redis_seconds()
    threads = [threading.Thread(target=take, args=(pace, each)) for pace in paces for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = shards.redis_seconds() - began
    # What a pause of half a second saves up may come on top.
    assert 2 * SHARDS * each <= rate * (passed + 0.5) + 1
    assert shards.losses == []


def test_what_many_shards_have_left_over_is_no_second_burst(shards: Shards) -> None:
    paces = [shards.pace(200, shards=20) for _ in range(20)]
    for pace in paces:
        shards.fill(tokens=100)
        take(pace, 1)
    shards.fill(tokens=100)
    began, turns = shards.redis_seconds(), 0
    for pace in paces:
        while not pace.delay():
            turns += 1
    assert turns <= 100 + 200 * (0.05 + shards.redis_seconds() - began) + 1


def test_the_first_rate_is_kept_and_rises(shards: Shards) -> None:
    pace = shards.pace(1_000, start=10)
    assert pace.delay() == 0
    kept = float(shards.client.hget(KEY, "rate"))  # type: ignore[arg-type]
    assert 10 <= kept < 1_000


def test_when_one_is_told_to_slow_down_none_gets_a_turn(shards: Shards) -> None:
    one, other = shards.pace(100), shards.pace(100)
    assert (one.delay(), other.pause) == (0, 0)
    take(other, 1)
    one.slow_down(30)
    assert 29 < one.pause <= 30
    assert one.delay() > 29
    # The other may use up the lot that it has.
    held = 0
    while not other.delay():
        held += 1
    assert held <= 5
    assert 29 < other.pause <= 30
    assert float(shards.client.hget(KEY, "rate")) == 50  # type: ignore[arg-type]
    # A second word about the same second counts once.
    other.slow_down(1)
    assert float(shards.client.hget(KEY, "rate")) == 50  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "garbage",
    [
        {"at": "x", "tokens": "1e9", "rate": "nan", "paused_until": "inf", "slowed_until": "-inf"},
        {"at": "99999999999", "tokens": "5", "rate": "100", "paused_until": "0", "slowed_until": "0"},
        {"at": "1", "tokens": "1e300", "rate": "1e300", "paused_until": "0", "slowed_until": "1e300"},
        {"at": "1", "tokens": "-7", "rate": "0", "paused_until": "0", "slowed_until": "0"},
        {"note": "somebody else's"},
    ],
)
def test_whatever_stands_there_the_rate_is_kept_and_nobody_waits_for_ever(
    shards: Shards, garbage: dict[str, str]
) -> None:
    shards.client.hset(KEY, mapping=garbage)  # type: ignore[arg-type]
    pace = shards.pace(100)
    began, turns = shards.redis_seconds(), 0
    while not (wait := pace.delay()):
        turns += 1
    assert turns <= 100 * (0.5 + shards.redis_seconds() - began) + 1
    assert wait <= 600
    assert shards.losses == []


def test_a_pause_that_nobody_can_have_meant_ends(shards: Shards) -> None:
    now = shards.redis_seconds()
    shards.client.hset(
        KEY, mapping={"at": now, "tokens": 1, "rate": 100, "paused_until": now + 1e9, "slowed_until": now}
    )
    assert shards.pace(100).delay() <= 600


@pytest.mark.parametrize("how", ["another type", "stopped"])
def test_where_redis_is_lost_each_keeps_to_its_part(shards: Shards, how: str) -> None:
    timer = VirtualTimer()
    pace = shards.pace(90, alone=Pace(30, timer))
    if how == "stopped":
        shards.server.stop()
    else:
        shards.client.lpush(KEY, "x")
    turns = 0
    end = timer.seconds() + 10
    while timer.seconds() < end:
        wait = pace.delay()
        turns += not wait
        timer.wait(wait)
    assert 295 <= turns <= 315
    assert len(shards.losses) == 1
    pace.slow_down(7)
    assert pace.pause == pytest.approx(7)


@pytest.mark.parametrize(
    "answer", [None, 7, ["1", "0"], ["x", "0", "0"], ["nan", "0", "0"], ["0", "inf", "0"], ["9e9"] * 3]
)
def test_an_answer_that_is_none_of_the_scripts_is_a_redis_that_is_lost(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setattr(RedisStore, "run_script", lambda *_: answer)
    pace = shards.pace(90)
    assert pace.delay() == 0
    # It is logged: a sentence, in words of our own.
    (loss,) = shards.losses
    assert str(loss).startswith("Redis gave no useful answer (")


def test_the_script_leaves_nothing_behind_for_ever(shards: Shards) -> None:
    shards.pace(10).delay()
    assert 0 < shards.client.ttl(KEY) <= 600
