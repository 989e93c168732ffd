"""Whatever breaks, in whatever order: no page billed twice or lost, nothing gone that should stay, nothing left behind.

`make chaos` plays as many more as are asked for.
"""

import dataclasses
from typing import get_args

import pytest

from devstack.proxy import Kind
from functions.registry import JOBS
from tests.chaos.place import Place, Scene
from tests.chaos.running import play_schedule
from tests.chaos.schedule import BLOWS, DEEDS, DIVISIBLE, draw

# The form for every day, chosen so that each kind of trouble comes in at least one of them.
SEEDS = (2, 13, 21, 24, 40)
MORE = (1, 11, 27, 28, 29, 30, 34, 3012, 5101, 5127, 5174)
# What they found once was found in firings that were not cut up.
WHOLE = (5127, 5174)


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MORE)])
def test_a_schedule_leaves_everything_right(place: Place, seed: int) -> None:
    schedule = draw(seed)
    if seed in WHOLE:
        schedule = dataclasses.replace(schedule, shards=1, refused_tasks=0)
    result = play_schedule(place, schedule)
    assert result.findings == []
    assert result.seen["completed"] >= len(JOBS)
    # One firing each at the end, and all of them in shards.
    assert result.seen["shards completed"] >= (len(DIVISIBLE) * schedule.shards if schedule.shards > 1 else 0)


def test_the_same_seed_draws_the_same_schedule_and_makes_the_same_world(place: Place) -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    made = []
    for _ in range(2):
        with Scene(place, dataclasses.replace(draw(7), rounds=())) as scene:
            expected, events = scene.world.expected, scene.world.ledger.events.values()
            counters = sorted(expected.counters.items())
            used = sorted((event.at, event.user, event.pages) for event in events)
            made.append((scene.world.beginning, counters, used, len(expected.objects), len(expected.gone_runs)))
    assert made[0] == made[1]


def test_the_seeds_of_every_day_have_every_kind_of_trouble() -> None:
    schedules = [draw(seed) for seed in SEEDS]
    rounds = [each for schedule in schedules for each in schedule.rounds]
    troubles = [trouble for each in rounds for trouble in each.troubles]
    assert {trouble.backend for trouble in troubles} == {"postgres", "redis", "gcs", "stripe"}
    assert {trouble.signal for trouble in troubles} == {"", "kill", "stop", "takeover"}
    assert {schedule.redis for schedule in schedules} == {"there", "absent", "cut off from 0", "cut off from 1"}
    assert {schedule.wakes_late for schedule in schedules} == {False, True}
    assert {trouble.kind for trouble in troubles} == {*get_args(Kind)}
    assert {blow.what for each in rounds for blow in each.blows} == {*BLOWS, *DEEDS}
    assert {schedule.shards for schedule in schedules} == {1, 2, 3}
    assert any(schedule.refused_tasks for schedule in schedules)
    assert {fire.job for each in rounds for fire in each.firings} == set(JOBS)
