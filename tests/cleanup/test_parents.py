"""Extraction jobs that are left with nothing: which go, and which stay."""

import pytest

from functions.cleanup import parents
from shared.outcome import Status
from tests.support.cleanup import CleanupWorld


def test_a_job_goes_with_its_last_drafts(world: CleanupWorld) -> None:
    job = world.job()
    for _ in range(3):
        world.draft(job)
    outcome = world.run("abandoned_cleanup")
    assert not world.has("extraction_jobs", job)
    assert (outcome.counts["jobs_cleaned"], outcome.counts["parents_deleted"]) == (3, 1)


@pytest.mark.parametrize(("age", "goes"), [(30.001, True), (30, False), (1, False)])
def test_it_goes_when_it_was_idle_as_long(world: CleanupWorld, age: float, goes: bool) -> None:
    emptied, empty = world.job(age=age), world.job(age=age)
    run = world.draft(emptied)
    world.run("abandoned_cleanup")
    assert not world.has("job_runs", run)
    assert [world.has("extraction_jobs", job) for job in (emptied, empty)] == [not goes, not goes]


def test_a_job_with_another_run_stays(world: CleanupWorld) -> None:
    job = world.job()
    draft, kept = world.draft(job), world.submitted(job)
    world.run("abandoned_cleanup")
    assert [world.has("job_runs", run) for run in (draft, kept)] == [False, True]
    assert world.has("extraction_jobs", job)


def test_a_job_with_an_automation_stays_though_it_has_no_runs(world: CleanupWorld) -> None:
    job = world.job()
    automation = world.automation(job)
    outcome = world.run("abandoned_cleanup")
    assert world.has("extraction_jobs", job)
    assert world.has("automations", automation)
    assert outcome.counts["parents_deleted"] == 0


@pytest.mark.parametrize("scope", ["user", "job"])
def test_a_held_job_stays_until_the_hold_is_over(world: CleanupWorld, scope: str) -> None:
    job = world.job("ann")
    world.hold(scope, "ann" if scope == "user" else job, world.ago(-1))
    world.run("abandoned_cleanup")
    assert world.has("extraction_jobs", job)
    world.clock.advance(days=1)
    world.run("abandoned_cleanup")
    assert not world.has("extraction_jobs", job)


def test_what_opt_out_cleanup_or_the_service_left_empty_goes(world: CleanupWorld) -> None:
    job = world.job()
    world.submitted(job, persist_data=False)
    world.run("opt_out_cleanup")
    assert world.count("job_runs") == 0
    assert world.has("extraction_jobs", job)
    outcome = world.run("abandoned_cleanup")
    assert not world.has("extraction_jobs", job)
    assert (outcome.status, outcome.counts["parents_deleted"]) == (Status.COMPLETED, 1)


def test_empty_jobs_on_many_pages_all_go(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "_FIRST_PAGES", 1)
    monkeypatch.setattr(parents, "_MOST_PAGES", 1)
    monkeypatch.setattr(parents, "_JOBS_A_BATCH", 10)
    kept = world.job()
    world.submitted(kept)
    old = world.ago(100)
    world.database.execute(
        "INSERT INTO extraction_jobs (id, user_id, last_active_at, created_at) "
        "SELECT gen_random_uuid(), 'ann', :old, :old FROM generate_series(1, 500)",
        old=old,
    )
    outcome = world.run("abandoned_cleanup")
    assert world.database.value("SELECT pg_relation_size('extraction_jobs') / 8192") > 3
    assert (world.count("extraction_jobs"), outcome.counts["parents_deleted"]) == (1, 500)


def test_a_job_that_others_hold_locked_is_passed_by_and_the_rest_goes(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parents, "_JOBS_A_BATCH", 2)
    jobs = [world.job() for _ in range(5)]
    with world.database.engine.connect() as other:
        other.exec_driver_sql(f"SELECT FROM extraction_jobs WHERE id = '{jobs[2]}' FOR UPDATE")
        outcome = world.run("abandoned_cleanup")
    assert [world.has("extraction_jobs", job) for job in jobs] == [False, False, True, False, False]
    assert (outcome.status, outcome.counts["parents_deleted"]) == (Status.COMPLETED, 4)
    assert world.run("abandoned_cleanup").counts["parents_deleted"] == 1


def test_a_job_that_the_database_will_not_delete_is_counted_and_the_rest_goes(world: CleanupWorld) -> None:
    jobs = [world.job() for _ in range(5)]
    world.database.script(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF OLD.id = '{jobs[3]}' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '23000'; END IF; "
        "RETURN OLD; END $$"
    )
    world.database.script(
        "CREATE TRIGGER refuse BEFORE DELETE ON extraction_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    outcome = world.run("abandoned_cleanup")
    assert [world.has("extraction_jobs", job) for job in jobs] == [False, False, False, True, False]
    assert (outcome.counts["parents_deleted"], outcome.counts["failed_count"]) == (4, 1)


def test_a_run_added_while_the_job_was_being_looked_at_keeps_it(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of idle jobs was read a moment ago; what is deleted is decided under the lock."""
    job = world.job()
    delete = parents._delete

    def late(*arguments: object) -> int:
        world.draft(job, age=0)
        return delete(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(parents, "_delete", late)
    outcome = world.run("abandoned_cleanup")
    assert world.has("extraction_jobs", job)
    assert world.count("job_runs") == 1
    assert (outcome.status, outcome.counts["parents_deleted"]) == (Status.COMPLETED, 0)
