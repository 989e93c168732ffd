"""A shard beside the other shards, a run by hand, another firing, and another division: who waits, who may write."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.context import Context, Fence
from shared.errors import Fenced
from shared.outcome import Status
from shared.shards import Part
from tests.conftest import MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.shards import SHARDS, Firing
from tests.support.tasks import QUEUE, Taking


@pytest.fixture
def firing(make_environment: MakeEnvironment, database: TestDatabase, clock: ManualClock) -> Iterator[Firing]:
    with Taking() as taking:
        yield Firing(make_environment, taking, database, clock)


def test_a_run_by_hand_and_the_shards_exclude_one_another(firing: Firing) -> None:
    firing.run()
    seen = []

    def by_hand(ctx: Context) -> None:
        if ctx.share.part is Part.SHARD:
            seen.append(firing.run(trigger="manual", slot=None))

    firing.orders = by_hand
    firing.deliver(1)

    def by_task(ctx: Context) -> None:
        if ctx.share.part is Part.WHOLE:
            seen.extend(firing.deliver(number) for number in (0, 2))

    firing.orders = by_task
    whole = firing.run(trigger="manual", slot=None)
    assert (whole.status, firing.parts[-1]) == (Status.COMPLETED, (Part.WHOLE, 0))
    assert [each.status for each in seen] == [Status.BUSY] * 3
    assert "continued by Cloud Tasks" in seen[0].message
    firing.orders = lambda _: None
    assert firing.run(trigger="manual", slot=None).status is Status.COMPLETED


@pytest.mark.parametrize("redis_url", [None, "redis://127.0.0.1:1"])
def test_so_do_the_locks_without_redis(
    firing: Firing, make_environment: MakeEnvironment, redis_url: str | None
) -> None:
    settings = {"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": firing.taking.address}
    if redis_url:
        firing.environment = make_environment({**settings, "REDIS_URL": redis_url})
    test_a_run_by_hand_and_the_shards_exclude_one_another(firing)


def test_shards_do_not_exclude_one_another(firing: Firing) -> None:
    firing.run()
    seen = []

    def another(ctx: Context) -> None:
        if ctx.share.number == 1:
            seen.append(firing.deliver(1).status)

    firing.orders = another
    assert (firing.deliver(0).status, seen) == (Status.COMPLETED, [Status.COMPLETED])


def test_a_shard_that_waits_for_a_run_by_hand_says_so(firing: Firing) -> None:
    firing.run()
    said = []

    def wait(ctx: Context) -> None:
        if ctx.share.part is Part.WHOLE:
            said.append(firing.deliver(1).message)

    firing.orders = wait
    firing.run(trigger="manual", slot=None)
    assert "asked for over HTTP" in said[0]


def test_a_closing_waits_for_no_other_firings_shards(firing: Firing) -> None:
    firing.run()
    for number in range(3):
        firing.deliver(number)
    firing.clock.advance(hours=1)
    firing.run(slot=NOON + timedelta(hours=1))
    closed = []

    def close(ctx: Context) -> None:
        if ctx.share.part is Part.SHARD:
            closed.append(firing.deliver(3).status)

    firing.orders = close
    firing.deliver(4)
    assert closed == [Status.COMPLETED]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_no_shard_of_another_division_goes_on_beside_a_new_one(firing: Firing, shards: int) -> None:
    """Deployed in the middle of a firing: what the shard at work does is a part of what another run does now."""
    firing.run()
    told: list[Status] = []

    def deploy(ctx: Context) -> None:
        if (ctx.share.number, ctx.share.of) != (3, SHARDS):
            return
        firing.job = replace(firing.job, shards=shards)
        firing.clock.advance(hours=1)
        told.append(firing.run(slot=NOON + timedelta(hours=1)).status)
        firing.job = replace(firing.job, shards=SHARDS)
        with pytest.raises(Fenced), ctx.batch():
            pass

    firing.orders = deploy
    firing.deliver(2)
    assert told == [Status.COMPLETED if shards == 1 else Status.INCOMPLETE]
    # And none stands there as running for ever.
    assert firing.database.value("SELECT count(*) FROM maintenance.runs WHERE status = 'running'") == 0


def test_who_treats_everything_takes_the_right_to_write_from_every_shard(firing: Firing) -> None:
    firing.run()
    stopped: list[Context] = []
    firing.orders = stopped.append
    firing.deliver(1)
    (shard,) = stopped
    with shard.batch():
        pass
    firing.orders = lambda _: None
    firing.run(trigger="manual", slot=None)
    with pytest.raises(Fenced), shard.batch():
        pass
    # And the other way round: it writes no more once one shard has a newer run.
    firing.orders = stopped.append
    firing.run(trigger="manual", slot=None)
    firing.deliver(2)
    whole = stopped[1]
    assert whole.fence == Fence("in_shards", (0, 1, 2, 3), whole.fence.run_id)  # type: ignore[union-attr]
    with pytest.raises(Fenced), whole.batch():
        pass
