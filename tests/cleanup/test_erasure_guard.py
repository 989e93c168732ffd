"""The guard before abandoned_cleanup and opt_out_cleanup: too much is refused, and nobody can lift that over HTTP."""

import pytest

from devstack.serving import fire
from shared.outcome import Status
from tests.cleanup.due_runs import both, drafts, due
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON
from tests.support.serving import Functions


@both
@pytest.mark.parametrize(
    ("number", "others", "floor", "may"),
    [(6, 5, 0, 5), (5, 6, 0, 5), (5, 4, 4, 4), (5, 4, 5, 5), (5, 0, 4, 4), (5, 0, 5, 5), (5, 0, 1_000, 1_000)],
)
def test_more_than_half_and_more_than_the_floor_are_refused(
    world: CleanupWorld, job: str, number: int, others: int, floor: int, may: int
) -> None:
    due(world, job, number)
    for _ in range(others):
        world.submitted(world.job(age=1))
    before = world.checksum()
    outcome = world.run(job, {"MAX_DELETE_FLOOR": str(floor), "MAX_DELETE_FRACTION": "0.5"})
    if number <= may:
        assert (outcome.status, outcome.counts["jobs_cleaned"]) == (Status.COMPLETED, number)
    else:
        assert (outcome.status, outcome.success) == (Status.REFUSED, False)
        assert (outcome.details["would_delete"], outcome.details["allowed"]) == (number, may)
        assert "python -m ops run" in outcome.message
        assert world.checksum() == before


def test_too_many_empty_jobs_are_refused_as_well(world: CleanupWorld) -> None:
    for _ in range(4):
        world.job()
    world.submitted(world.job(age=1))
    before = world.checksum()
    outcome = world.run("abandoned_cleanup", {"MAX_DELETE_FLOOR": "2"})
    assert (outcome.status, outcome.details["would_delete"], outcome.details["allowed"]) == (Status.REFUSED, 4, 2)
    assert "extraction jobs" in outcome.message
    assert world.checksum() == before


@both
def test_what_an_operator_allows_may_go_and_no_more(world: CleanupWorld, job: str) -> None:
    due(world, job, 5)
    guarded = {"MAX_DELETE_FLOOR": "1"}
    before = world.checksum()
    fewer = world.run(job, guarded, allow_deletes=4)
    assert (fewer.status, fewer.details["would_delete"], fewer.details["allowed"]) == (Status.REFUSED, 5, 4)
    assert world.checksum() == before
    enough = world.run(job, guarded, allow_deletes=5)
    assert (enough.status, enough.counts["jobs_cleaned"]) == (Status.COMPLETED, 5)


@both
def test_many_limited_runs_do_not_do_what_one_may_not(world: CleanupWorld, job: str) -> None:
    runs = due(world, job, 6)
    changes = {"MAX_DELETE_FLOOR": "3", "MAX_DELETE_FRACTION": "0.1"}
    assert world.run(job, changes, limit=3).status is Status.REFUSED
    assert world.count("job_runs") == len(runs)
    dry = world.run(job, changes, dry_run=True)
    assert (dry.status, "a run would refuse that" in dry.message) == (Status.COMPLETED, True)


def test_the_guard_counts_the_jobs_that_the_run_itself_would_leave_empty(world: CleanupWorld) -> None:
    """Four drafts of a hundred runs are few, and their four jobs of five are not."""
    busy = world.job("bob", age=1)
    for _ in range(40):
        world.submitted(busy, age=1)
    for _ in range(4):
        world.draft(world.job())
    outcome = world.run("abandoned_cleanup", {"MAX_DELETE_FLOOR": "3", "MAX_DELETE_FRACTION": "0.5"})
    assert (outcome.status, outcome.details["would_delete"]) == (Status.REFUSED, 4)
    assert "extraction jobs" in outcome.message
    assert world.count("extraction_jobs") == 5


def test_over_http_the_guard_answers_500_and_nobody_can_lift_it(world: CleanupWorld, functions: Functions) -> None:
    drafts(world, 4)
    before = world.checksum()
    served = functions.serve(
        {"GCS_BUCKET_NAME": world.bucket, "STORAGE_EMULATOR_HOST": world.front.url, "MAX_DELETE_FLOOR": "1"},
        target="abandoned_cleanup",
    )
    answer = fire(served.url, job="abandoned_cleanup", slot=NOON)
    assert (answer.status, answer.fields["status"]) == (500, "refused")
    assert (answer.fields["would_delete"], answer.fields["allowed"]) == (4, 2)
    lifted = fire(served.url, job="abandoned_cleanup", slot=NOON, body=b'{"allow_deletes": 4}')
    assert (lifted.status, lifted.fields["field"]) == (400, "allow_deletes")
    assert fire(served.url, job="abandoned_cleanup", slot=NOON, body=b'{"force": true}').status == 500
    assert world.checksum() == before
