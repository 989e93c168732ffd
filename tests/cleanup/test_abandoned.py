"""abandoned_cleanup: which drafts go, with what, and which stay."""

import pytest

from shared.outcome import Status
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON


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


# ---- which drafts


@pytest.mark.parametrize("status", ["pending", "cancelled"])
@pytest.mark.parametrize(("age", "goes"), [(30.001, True), (30, False), (29.9, False)])
def test_it_goes_when_it_was_idle_for_thirty_days(world: CleanupWorld, status: str, age: float, goes: bool) -> None:
    run = world.draft(world.job(), age=age, status=status)
    world.run("abandoned_cleanup")
    assert world.has("job_runs", run) is not goes


def test_how_long_is_a_setting(world: CleanupWorld) -> None:
    job = world.job(age=1)
    older, newer = world.draft(job, age=8), world.draft(job, age=6)
    world.run("abandoned_cleanup", {"ABANDONED_AFTER_DAYS": "7"})
    assert (world.has("job_runs", older), world.has("job_runs", newer)) == (False, True)


@pytest.mark.parametrize("step", ["upload", "fields", "review"])
def test_a_draft_goes_from_any_step_of_the_wizard(world: CleanupWorld, step: str) -> None:
    run = world.draft(world.job(), config_step=step)
    world.run("abandoned_cleanup")
    assert not world.has("job_runs", run)


def test_it_is_activity_that_counts_and_not_the_day_it_was_made(world: CleanupWorld) -> None:
    run = world.draft(world.job(), age=100, last_active_at=world.ago(1))
    world.run("abandoned_cleanup")
    assert world.has("job_runs", run)


@pytest.mark.parametrize("persist_data", [True, False])
def test_a_draft_goes_whether_its_data_was_to_be_kept_or_not(world: CleanupWorld, persist_data: bool) -> None:
    run = world.draft(world.job(), persist_data=persist_data)
    world.run("abandoned_cleanup")
    assert not world.has("job_runs", run)


@pytest.mark.parametrize(
    "status", ["pending", "in_progress", "partially_completed", "completed", "failed", "cancelled"]
)
def test_what_was_submitted_stays(world: CleanupWorld, status: str) -> None:
    run = world.submitted(world.job(), status=status)
    file = world.file(run)
    assert world.run("abandoned_cleanup").counts["jobs_cleaned"] == 0
    assert world.has("job_runs", run)
    assert world.object_of(file) in world.objects()


@pytest.mark.parametrize("status", ["in_progress", "partially_completed", "completed", "failed"])
def test_what_is_under_way_or_over_stays_though_it_was_not_submitted(world: CleanupWorld, status: str) -> None:
    run = world.draft(world.job(), status=status)
    world.run("abandoned_cleanup")
    assert world.has("job_runs", run)


# ---- automations


@pytest.mark.parametrize("enabled", [True, False])
def test_the_latest_run_of_a_job_with_an_automation_stays_and_older_drafts_go(
    world: CleanupWorld, enabled: bool
) -> None:
    job = world.job()
    automation = world.automation(job)
    world.database.execute("UPDATE automations SET is_enabled = :enabled", enabled=enabled)
    older, latest = world.draft(job, age=90), world.draft(job, age=80)
    name = world.object_of(world.file(latest))
    outcome = world.run("abandoned_cleanup")
    assert (world.has("job_runs", older), world.has("job_runs", latest)) == (False, True)
    assert world.has("automations", automation)
    assert world.has("extraction_jobs", job)
    assert name in world.objects()
    assert world.count("job_fields", "job_run_id = :run", run=latest) == 1
    assert (outcome.counts["jobs_cleaned"], outcome.counts["parents_deleted"]) == (1, 0)


def test_the_latest_is_the_one_made_last_and_not_the_one_used_last(world: CleanupWorld) -> None:
    job = world.job()
    world.automation(job)
    older = world.draft(job, age=90, last_active_at=world.ago(40))
    latest = world.draft(job, age=80)
    world.run("abandoned_cleanup")
    assert (world.has("job_runs", older), world.has("job_runs", latest)) == (False, True)


def test_of_runs_made_in_one_moment_none_goes(world: CleanupWorld) -> None:
    """Nobody can say which of them the automation takes."""
    job = world.job()
    world.automation(job)
    runs = [world.draft(job, age=80) for _ in range(2)]
    world.run("abandoned_cleanup")
    assert all(world.has("job_runs", run) for run in runs)


def test_a_draft_goes_when_a_run_made_later_has_become_the_automations_model(world: CleanupWorld) -> None:
    job = world.job()
    world.automation(job)
    older, latest = world.draft(job, age=80), world.submitted(job, age=70)
    world.run("abandoned_cleanup")
    assert (world.has("job_runs", older), world.has("job_runs", latest)) == (False, True)


def test_the_automation_of_another_job_keeps_nothing(world: CleanupWorld) -> None:
    run = world.draft(world.job())
    world.automation(world.job())
    world.run("abandoned_cleanup")
    assert not world.has("job_runs", run)


@pytest.mark.parametrize(
    ("status", "goes"), [("pending", False), ("running", False), ("completed", True), ("failed", True)]
)
def test_a_draft_that_an_automation_is_filling_stays(world: CleanupWorld, status: str, goes: bool) -> None:
    job = world.job()
    run = world.draft(job, age=90)
    world.submitted(job, age=80)
    world.automation_run(world.automation(job), run, status)
    world.run("abandoned_cleanup")
    assert world.has("job_runs", run) is not goes


# ---- holds


@pytest.mark.parametrize("scope", ["user", "job", "run"])
@pytest.mark.parametrize("until", [None, 1])
def test_what_is_held_stays_and_is_counted(world: CleanupWorld, scope: str, until: float | None) -> None:
    job = world.job("ann")
    run = world.draft(job)
    name = world.object_of(world.file(run))
    other = world.draft(world.job("bob"))
    subject = {"user": "ann", "job": job, "run": run}[scope]
    world.hold(scope, subject, None if until is None else world.ago(-until))
    outcome = world.run("abandoned_cleanup")
    assert (world.has("job_runs", run), world.has("job_runs", other)) == (True, False)
    assert world.has("extraction_jobs", job)
    assert name in world.objects()
    assert outcome.status is Status.COMPLETED
    assert {key: outcome.counts[key] for key in ("jobs_cleaned", "held", "due_count")} == {
        "jobs_cleaned": 1,
        "held": 1,
        "due_count": 0,
    }


@pytest.mark.parametrize("scope", ["user", "job", "run"])
def test_a_hold_that_is_over_holds_nothing(world: CleanupWorld, scope: str) -> None:
    job = world.job("ann")
    run = world.draft(job)
    world.hold(scope, {"user": "ann", "job": job, "run": run}[scope], NOON)
    outcome = world.run("abandoned_cleanup")
    assert not world.has("job_runs", run)
    assert outcome.counts["held"] == 0


def test_a_hold_names_what_it_holds_and_its_kind(world: CleanupWorld) -> None:
    """A run's id under the scope of a job, and another user's name, hold nothing here."""
    run = world.draft(world.job("ann"))
    world.hold("job", run)
    world.hold("user", "bob")
    world.run("abandoned_cleanup")
    assert not world.has("job_runs", run)


# ---- what is never taken


def test_usage_events_stay_without_their_task_and_users_stay(world: CleanupWorld) -> None:
    run = world.draft(world.job())
    event = world.usage(world.task(run, world.file(run)))
    world.run("abandoned_cleanup")
    assert not world.has("job_runs", run)
    row = world.database.row("SELECT user_id, task_id, pages FROM usage_events WHERE id = :event", event=event)
    assert (row["user_id"], row["task_id"], row["pages"]) == ("ann", None, 3)
    assert world.has("users", "ann")


def test_an_emptied_bucket_is_fine(world: CleanupWorld) -> None:
    run = world.draft(world.job())
    world.file(run, stored=False)
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.counts["objects_absent"], outcome.counts["open_objects"]) == (
        Status.COMPLETED,
        1,
        0,
    )
    assert not world.has("job_runs", run)
