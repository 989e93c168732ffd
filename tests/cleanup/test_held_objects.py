"""Objects that a retention policy or a hold of the bucket's own keeps: the run goes on, and they go when they may."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from devstack.gcs_front import GcsFront
from shared.outcome import Status
from tests.support.bucket_faults import add_open_rows, asked_to_delete, deleted, due, remaining, states
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON

ALL = ["abandoned_cleanup", "artifact_cleanup", "opt_out_cleanup"]
Keep = Callable[[GcsFront, str], object]

KEPT: dict[str, Keep] = {
    "temporary hold": lambda front, name: front.hold(name),
    "event-based hold": lambda front, name: front.hold(name, kind="Event-Based"),
    "hold, as documented": lambda front, name: front.hold(name, reason="objectUnderActiveHold"),
    "reason alone": lambda front, name: front.fail(403, name=name, reason="retentionPolicyNotMet", message="Not yet."),
    "retention": lambda front, name: front.retain(name, NOON + timedelta(days=9)),
}

each_of_three = pytest.mark.parametrize("job", ALL)
two_of_three = pytest.mark.parametrize("job", ALL[:2])


@each_of_three
@pytest.mark.parametrize("how", KEPT)
def test_what_is_kept_is_held_and_the_others_go(world: CleanupWorld, job: str, how: str) -> None:
    names = due(world, job, 4)
    KEPT[how](world.front, names[1])
    outcome = world.run(job)
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert (outcome.counts["objects_deleted"], outcome.counts["open_objects"]) == (3, 1)
    assert remaining(world, names) == {names[1]}
    assert states(world) == {"deleted": 3, "held": 1}
    (row,) = (row for row in world.outbox() if row["done_at"] is None)
    assert (row["object_name"], row["attempts"], row["error"]) == (names[1], 1, "403 Forbidden")
    assert not any(each["completed_at"] for each in world.erasures())


@each_of_three
def test_it_is_asked_for_again_after_a_day_and_then_goes(world: CleanupWorld, job: str) -> None:
    """Not before, even if it was released meanwhile."""
    names = due(world, job, 3)
    world.front.hold(names[0])
    world.run(job)
    world.front.clear()
    world.clock.advance(hours=23)
    assert world.run(job).counts["open_objects"] == 1
    assert asked_to_delete(world)[names[0]] == 1
    world.clock.advance(hours=1)
    outcome = world.run(job)
    assert (outcome.status, outcome.counts["objects_deleted"], outcome.counts["open_objects"]) == (
        Status.COMPLETED,
        1,
        0,
    )
    assert remaining(world, names) == set()
    assert states(world) == {"deleted": 3}
    assert all(each["completed_at"] == NOON + timedelta(days=1) for each in world.erasures())


@two_of_three
def test_what_is_still_kept_waits_another_day(world: CleanupWorld, job: str) -> None:
    """The sweep finds it in the listing each day, and does not write it down a second time."""
    (name,) = due(world, job, 1)
    world.front.hold(name)
    for day in range(3):
        outcome = world.run(job)
        assert (outcome.status, outcome.counts["open_objects"]) == (Status.COMPLETED, 1)
        (row,) = world.outbox()
        assert (row["state"], row["attempts"]) == ("held", day + 1)
        assert row["next_attempt_at"] == world.clock.now() + timedelta(days=1)
        world.clock.advance(days=1)
    world.front.clear()
    assert world.run(job).counts["objects_deleted"] == 1
    assert states(world) == {"deleted": 1}


@pytest.mark.parametrize("following", ALL)
@two_of_three
def test_released_it_goes_with_the_next_run_of_any_of_the_three(world: CleanupWorld, job: str, following: str) -> None:
    names = due(world, job, 3)
    world.front.retain(names[2], NOON + timedelta(hours=1))
    world.run(job)
    world.front.clear()
    world.clock.advance(days=1)
    assert world.run(following).counts["objects_deleted"] == 1
    assert deleted(world) == sorted(names)
    assert states(world) == {"deleted": 3}


def test_a_bucket_that_keeps_everything_is_not_one_that_is_down(world: CleanupWorld) -> None:
    """However many are refused in a row."""
    add_open_rows(world, [f"jobs/x/{number}.pdf" for number in range(200)])
    world.front.retain(None, NOON + timedelta(days=9))
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.counts["open_objects"]) == (Status.COMPLETED, 200)
    assert states(world) == {"held": 200}
    assert {*asked_to_delete(world).values()} == {1}


def test_an_import_that_is_kept_is_held_as_well(world: CleanupWorld) -> None:
    """Its generation is read first, and the deletion of that is what is refused."""
    run = world.draft(world.job())
    name = world.object_of(world.file(run, f"imports/{run}/1_a.pdf"))
    world.front.hold(name)
    assert world.run("abandoned_cleanup").status is Status.COMPLETED
    assert states(world) == {"held": 1}
    world.front.clear()
    world.clock.advance(days=1)
    assert world.run("abandoned_cleanup").counts["objects_deleted"] == 1
    assert world.objects() == set()


def test_a_conversion_that_is_kept_keeps_its_files_row_open(world: CleanupWorld) -> None:
    run = world.draft(world.job())
    file = world.file(run)
    conversion = world.conversion(file)
    world.front.hold(conversion)
    assert world.run("abandoned_cleanup").status is Status.COMPLETED
    assert world.objects() == {conversion}
    assert states(world) == {"held": 1}
    assert world.erasures()[0]["completed_at"] is None
    world.front.clear()
    world.clock.advance(days=1)
    assert world.run("abandoned_cleanup").status is Status.COMPLETED
    assert world.objects() == set()
    assert states(world)["held"] == 0
    assert world.erasures()[0]["completed_at"] == NOON + timedelta(days=1)
    assert world.erasures()[0]["objects"] == 1


@two_of_three
def test_kept_and_forbidden_are_told_apart(world: CleanupWorld, job: str) -> None:
    """Both are a 403. A missing permission ends the run; a hold does not."""
    names = due(world, job, 2)
    world.front.hold(names[0])
    world.front.forbid("storage.objects.delete")
    outcome = world.run(job)
    assert (outcome.status, outcome.details) == (Status.MISCONFIGURED, {"setting": "bucket rights"})
    assert remaining(world, names) == {*names}
    assert states(world)["held"] <= 1
    assert states(world).total() == 2
