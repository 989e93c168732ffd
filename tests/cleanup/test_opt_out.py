"""opt_out_cleanup: whose data goes, when, and what stays of the run that an automation lives on."""

from datetime import timedelta

import pytest

from shared.outcome import Status
from tests.support.cleanup import DAY, CleanupWorld
from tests.support.clock import NOON

JUST = timedelta(seconds=1)


def test_a_run_goes_with_everything_that_hangs_on_it(world: CleanupWorld) -> None:
    job = world.job()
    run = world.submitted(job, persist_data=False)
    file = world.file(run)
    name, conversion = world.object_of(file), world.conversion(file)
    event = world.usage(world.task(run, file))
    world.export(run, "a file in Drive")
    kept = world.object_of(world.file(world.submitted(world.job("bob"))))
    outcome = world.run("opt_out_cleanup")
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert outcome.message == "Opt-out cleanup erased 1 run"
    assert (outcome.counts["jobs_cleaned"], outcome.counts["objects_deleted"]) == (1, 1)
    assert not world.has("job_runs", run)
    for table in ("extraction_tasks", "extraction_results", "source_files_to_tasks", "job_exports"):
        assert world.count(table) == 0, table
    assert world.count("job_fields", "job_run_id = :run", run=run) == 0
    assert not {name, conversion} & world.objects()
    assert kept in world.objects()
    assert world.count("usage_events", "id = :event AND task_id IS NULL AND pages = 3", event=event) == 1


@pytest.mark.parametrize(("after", "goes"), [(7 * DAY + JUST, True), (7 * DAY, False), (7 * DAY - JUST, False)])
def test_a_completed_run_goes_seven_days_after_its_completion(
    world: CleanupWorld, after: timedelta, goes: bool
) -> None:
    """Whether it was looked at since does not matter."""
    job = world.job()
    run = world.submitted(job, persist_data=False, completed_at=NOON - after, last_active_at=NOON)
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run) is not goes


def test_a_completed_run_stays_in_its_days_of_grace_though_it_was_idle_before(world: CleanupWorld) -> None:
    run = world.submitted(world.job(), persist_data=False, completed_at=NOON - 6 * DAY, last_active_at=NOON - 90 * DAY)
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run)


@pytest.mark.parametrize("status", ["partially_completed", "failed", "cancelled"])
@pytest.mark.parametrize(("after", "goes"), [(7 * DAY + JUST, True), (7 * DAY, False)])
def test_any_other_end_counts_from_its_last_activity(
    world: CleanupWorld, status: str, after: timedelta, goes: bool
) -> None:
    run = world.submitted(world.job(), status=status, persist_data=False, last_active_at=NOON - after)
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run) is not goes


def test_the_days_of_grace_are_a_setting(world: CleanupWorld) -> None:
    job = world.job()
    older, newer = (world.submitted(job, age=age, persist_data=False) for age in (3, 1))
    world.run("opt_out_cleanup", {"OPT_OUT_GRACE_DAYS": "2"})
    assert (world.has("job_runs", older), world.has("job_runs", newer)) == (False, True)


@pytest.mark.parametrize("status", ["pending", "in_progress"])
def test_what_is_under_way_stays(world: CleanupWorld, status: str) -> None:
    run = world.submitted(world.job(), status=status, persist_data=False)
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run)


@pytest.mark.parametrize("status", ["completed", "partially_completed", "failed", "cancelled"])
def test_what_is_to_be_kept_stays(world: CleanupWorld, status: str) -> None:
    run = world.submitted(world.job(), status=status)
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run)


@pytest.mark.parametrize(("age", "goes"), [(30.001, True), (30, False), (20, False)])
def test_a_draft_marked_to_be_deleted_goes_when_it_was_idle_for_thirty_days(
    world: CleanupWorld, age: float, goes: bool
) -> None:
    run = world.draft(world.job(), age=age, status="cancelled", persist_data=False)
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run) is not goes


def test_a_draft_that_was_given_up_goes_though_a_completion_would_be_new(world: CleanupWorld) -> None:
    """A draft has no end: only its last activity says anything."""
    run = world.draft(world.job(), status="cancelled", persist_data=False, completed_at=NOON)
    world.run("opt_out_cleanup")
    assert not world.has("job_runs", run)


@pytest.mark.parametrize(
    ("status", "persist_data"), [("pending", False), ("pending", True), ("cancelled", True), ("in_progress", False)]
)
def test_any_other_draft_is_not_this_jobs_business(world: CleanupWorld, status: str, persist_data: bool) -> None:
    run = world.draft(world.job(), status=status, persist_data=persist_data)
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run)


def test_the_extraction_job_stays(world: CleanupWorld) -> None:
    job = world.job()
    world.submitted(job, persist_data=False)
    world.run("opt_out_cleanup")
    assert world.count("job_runs") == 0
    assert world.has("extraction_jobs", job)


@pytest.mark.parametrize("scope", ["user", "job", "run"])
@pytest.mark.parametrize(("until", "held"), [(None, True), (-1, True), (0, False)])
def test_what_is_held_stays_for_as_long_as_it_is(
    world: CleanupWorld, scope: str, until: float | None, held: bool
) -> None:
    job = world.job("ann")
    run = world.submitted(job, persist_data=False)
    name = world.object_of(world.file(run))
    subject = {"user": "ann", "job": job, "run": run}[scope]
    world.hold(scope, subject, None if until is None else world.ago(until))
    outcome = world.run("opt_out_cleanup")
    assert world.has("job_runs", run) is held
    assert (name in world.objects()) is held
    assert (outcome.counts["held"], outcome.counts["jobs_cleaned"]) == ((1, 0) if held else (0, 1))


# ---- the run that an automation lives on


@pytest.mark.parametrize("enabled", [True, False])
def test_of_the_latest_run_of_a_job_with_an_automation_only_the_content_goes(
    world: CleanupWorld, enabled: bool
) -> None:
    job = world.job()
    world.automation(job)
    world.database.execute("UPDATE automations SET is_enabled = :enabled", enabled=enabled)
    older = world.submitted(job, age=90, persist_data=False)
    run = world.submitted(job, age=80, persist_data=False)
    file = world.file(run)
    name, conversion = world.object_of(file), world.conversion(file)
    world.usage(world.task(run, file))
    drive, download = world.export(run, "a file in Drive"), world.export(run)
    outcome = world.run("opt_out_cleanup")
    assert (outcome.status, outcome.counts["jobs_cleaned"], outcome.counts["due_count"]) == (Status.COMPLETED, 2, 0)
    assert (world.has("job_runs", older), world.has("job_runs", run)) == (False, True)
    assert world.count("job_fields", "job_run_id = :run", run=run) == 1
    assert (world.has("job_exports", drive), world.has("job_exports", download)) == (True, False)
    for table in ("source_files", "extraction_tasks", "extraction_results", "source_files_to_tasks"):
        assert world.count(table) == 0, table
    assert not {name, conversion} & world.objects()
    assert world.count("usage_events", "task_id IS NULL") == 1
    assert world.count("automations") == 1


@pytest.mark.parametrize("what", ["file", "task"])
def test_it_is_due_for_as_long_as_anything_of_its_content_is_there(world: CleanupWorld, what: str) -> None:
    job = world.job()
    world.automation(job)
    run = world.submitted(job, persist_data=False)
    world.file(run) if what == "file" else world.task(run)
    assert world.run("opt_out_cleanup").counts["jobs_cleaned"] == 1
    assert world.count("source_files") == world.count("extraction_tasks") == world.count("extraction_results") == 0
    assert world.has("job_runs", run)


def test_it_is_done_afterwards_and_goes_whole_when_a_newer_run_has_come(world: CleanupWorld) -> None:
    job = world.job()
    world.automation(job)
    run = world.submitted(job, persist_data=False)
    world.task(run, world.file(run))
    world.export(run, "a file in Drive")
    assert world.run("opt_out_cleanup").counts["jobs_cleaned"] == 1
    again = world.run("opt_out_cleanup")
    assert (again.status, again.counts["jobs_cleaned"], again.counts["due_count"]) == (Status.COMPLETED, 0, 0)
    assert [row["extent"] for row in world.erasures()] == ["content"]
    newer = world.draft(job, age=0)
    assert world.run("opt_out_cleanup").counts["jobs_cleaned"] == 1
    assert (world.has("job_runs", run), world.has("job_runs", newer)) == (False, True)
    assert [row["extent"] for row in world.erasures()] == ["content", "run"]


def test_of_a_draft_that_an_automation_lives_on_the_files_go(world: CleanupWorld) -> None:
    job = world.job()
    world.automation(job)
    run = world.draft(job, status="cancelled", persist_data=False)
    name = world.object_of(world.file(run))
    world.run("opt_out_cleanup")
    assert world.has("job_runs", run)
    assert world.count("job_fields") == 1
    assert name not in world.objects()
    assert world.count("source_files") == 0
