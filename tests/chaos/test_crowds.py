"""Fifty requests at the same moment, and a Redis that someone else has filled: one run, and nothing left behind."""

from collections import Counter
from collections.abc import Callable

import pytest
import redis

from functions.registry import JOBS
from tests.chaos.judging import judge
from tests.chaos.place import Place, Scene
from tests.chaos.playing import Player, Told
from tests.chaos.schedule import Schedule

CROWD = 50
_QUIET = Schedule(seed=3, skews=(0, 0), rounds=())


def everybody(scene: Scene, job: str, *, machines: int) -> list[Told]:
    """The answers to so many deliveries of one firing, sent off together, to one machine or to both by turns."""
    slot = scene.clock.now()
    futures = [scene.machines[number % machines].fire(job, slot) for number in range(CROWD)]
    answers = [future.result(60) for future in futures]
    return [Told(job, slot, answer.code, answer.text) for answer in answers if answer is not None]


@pytest.mark.parametrize(
    ("job", "machines"), [("stripe_reconcile", 2), pytest.param("abandoned_cleanup", 1, marks=pytest.mark.slow)]
)
def test_of_fifty_requests_at_once_one_runs(place: Place, job: str, machines: int) -> None:
    with Scene(place, _QUIET) as scene:
        answers = everybody(scene, job, machines=machines)
        told = Counter(answer.status for answer in answers)
        assert told["completed"] == 1, told
        assert told["busy"] + told["replayed"] == CROWD - 1, {each.text for each in answers}
        assert scene.database.value("SELECT count(*) FROM maintenance.runs") == 1
        # All the rest follows, and with it the look at what is left: sessions, locks, connections.
        assert judge(scene, Player(scene).play()) == []


@pytest.mark.slow
def test_fifty_requests_for_all_jobs_at_once(place: Place) -> None:
    """More jobs than may run at once, each asked for many times: every one of them gets its turn in the end."""
    with Scene(place, _QUIET) as scene:
        player = Player(scene)
        slot = scene.clock.now()
        jobs = [sorted(JOBS)[number % len(JOBS)] for number in range(CROWD)]
        futures = [(job, scene.machines[number % 2].fire(job, slot)) for number, job in enumerate(jobs)]
        for job, future in futures:
            player.record.slots.add((job, slot))
            answer = future.result(60)
            assert answer is not None
            player.record.told.append(Told(job, slot, answer.code, answer.text))
        # Two of them work on the same rows: who finds them held tells that it has not finished.
        assert {told.status for told in player.record.told} <= {"completed", "busy", "replayed", "incomplete"}
        assert judge(scene, player.play()) == []


def _text(client: "redis.Redis", key: str) -> None:
    client.set(key, "somebody else's")


def _list(client: "redis.Redis", key: str) -> None:
    client.rpush(key, "a", "b")


def _large(client: "redis.Redis", key: str) -> None:
    client.set(key, b"\xff" * 1_000_000)


Fill = Callable[["redis.Redis", str], None]


@pytest.mark.parametrize("fill", [_list, *(pytest.param(fill, marks=pytest.mark.slow) for fill in (_text, _large))])
def test_a_redis_full_of_somebody_elses_values_under_our_names_stops_nothing(place: Place, fill: Fill) -> None:
    """Values that do not expire, under every name that we use: they are nobody's lock, and no result."""
    with Scene(place, _QUIET) as scene:
        slot = scene.clock.now()
        names = [f"maintenance:{job}:0:lock" for job in JOBS]
        names += [f"maintenance:running:{number}:lock" for number in range(1, 6)]
        names += [f"maintenance:{job}:0:result:{slot:%Y-%m-%dT%H:%M:%SZ}" for job in JOBS]
        for name in names:
            fill(scene.redis, name)
        told = []
        for job in JOBS:
            answer = scene.machines[0].fire(job, slot).result(60)
            assert answer is not None
            told.append(Told(job, slot, answer.code, answer.text))
        assert [each.status for each in told] == ["completed"] * len(JOBS), [each.text for each in told]
        assert all(each.fields["degraded"] == ["redis"] for each in told)
        for name in names:
            scene.redis.delete(name)
        assert judge(scene, Player(scene).play()) == []


def test_a_lock_that_is_somebodys_is_respected(place: Place) -> None:
    """One that expires may be a run's, whatever its value: that job waits, and no other."""
    with Scene(place, _QUIET) as scene:
        scene.redis.set("maintenance:period_reset:0:lock", "another run's", px=60_000)
        for job, status in (("period_reset", "busy"), ("usage_counter_cleanup", "completed")):
            answer = scene.machines[0].fire(job, scene.clock.now()).result(60)
            assert answer is not None
            assert Told(job, None, answer.code, answer.text).status == status
