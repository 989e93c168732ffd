"""abandoned_cleanup: which drafts go, with what, and which stay."""

import pytest

from shared.outcome import Status
from tests.support.cleanup import CleanupWorld


def test_a_draft_goes_with_its_files_and_its_job(world: CleanupWorld) -> None:
    job = world.job()
    run = world.draft(job)
    name = world.object_of(file := world.file(run))
    conversion = world.put(f"jobs/{run}/conversions/{file}.pdf")
    other = world.put("jobs/other/extracted/other.pdf")
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert outcome.message == "Abandoned cleanup erased 1 draft"
    assert {outcome.counts[key] for key in ("jobs_cleaned", "parents_deleted", "objects_deleted")} == {1}
    assert not world.has("job_runs", run)
    assert not world.has("extraction_jobs", job)
    assert not {name, conversion} & world.objects()
    assert other in world.objects()


@pytest.mark.parametrize("status", ["pending", "cancelled"])
@pytest.mark.parametrize(("age", "goes"), [(30.001, True), (30, False), (29.9, False)])
def test_it_goes_when_it_was_idle_for_thirty_days(world: CleanupWorld, status: str, age: float, goes: bool) -> None:
    run = world.draft(world.job(), age=age, status=status)
    world.run("abandoned_cleanup")
    assert world.has("job_runs", run) is not goes
