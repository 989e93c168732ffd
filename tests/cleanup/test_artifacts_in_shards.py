"""artifact_cleanup's opening, where a firing is in shards: what was decided earlier does not wait for its sweep."""

from dataclasses import replace

import pytest

from functions.cleanup import artifacts
from functions.registry import JOBS
from shared.invocation import Invocation
from shared.outcome import Outcome, Status
from shared.runner import run_job
from tests.cleanup.test_artifact_guard import orphans
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON
from tests.support.tasks import QUEUE, Taking

JOB = replace(JOBS["artifact_cleanup"], shards=3)


def what_waits(world: CleanupWorld, number: int) -> set[str]:
    """So many objects in the outbox, beside a file that stays."""
    world.file(world.submitted(world.job()))
    names = {world.put(f"temp_uploads/ann/{each:03}.pdf") for each in range(number)}
    world.front.fail(503)
    world.run("artifact_cleanup")
    world.front.clear()
    world.clock.advance(hours=1)
    assert names <= world.objects()
    return names


def opening(world: CleanupWorld, taking: Taking) -> Outcome:
    """The first step of a firing in shards."""
    environment = world.environment({"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": taking.address})
    return run_job(environment.services, JOB, Invocation("schedule", NOON, host="127.0.0.1:8080"))


def test_a_sweep_that_is_refused_does_not_keep_what_is_to_go(world: CleanupWorld) -> None:
    waited = what_waits(world, 5)
    strange = orphans(world, 30)
    with Taking() as taking:
        outcome = opening(world, taking)
    # No shard comes after a refusal: whatever goes, the opening itself has deleted.
    assert (outcome.status, taking.names) == (Status.REFUSED, [])
    assert (outcome.counts["objects_deleted"], outcome.details["would_delete"]) == (5, 30)
    assert world.objects() & waited == set()
    assert strange <= world.objects()


def test_what_a_sweep_finds_is_left_to_the_shards(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run that is no opening would delete with the first page.
    monkeypatch.setattr(artifacts, "_DRAIN_AT", 1)
    waited = what_waits(world, 5)
    found = orphans(world, 3)
    with Taking() as taking:
        outcome = opening(world, taking)
    assert (outcome.status, outcome.details, len(taking.names)) == (Status.INCOMPLETE, {"handed_to": 3}, 3)
    assert world.objects() & waited == set()
    assert found <= world.objects()
    assert {row["state"] for row in world.outbox() if row["object_name"] in found} == {"pending"}


def test_without_rows_nothing_is_drained_before_a_sweep(world: CleanupWorld) -> None:
    """Empty tables are another database's: its outbox is not to be believed either."""
    waited = what_waits(world, 5)
    world.database.execute("DELETE FROM source_files")
    with Taking() as taking:
        outcome = opening(world, taking)
    assert (outcome.status, taking.names) == (Status.REFUSED, [])
    assert waited <= world.objects()
