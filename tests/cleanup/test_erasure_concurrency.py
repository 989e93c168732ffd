"""Erasing beside the live service: rows that others hold, and runs at the same time."""

import threading
from typing import Any

import pytest

from functions.cleanup import erasing
from shared.outcome import Outcome, Status
from tests.cleanup.live_service import a_draft, an_ended_run
from tests.cleanup.points import Points
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON


@pytest.mark.parametrize("table", ["extraction_jobs", "job_runs", "source_files"])
@pytest.mark.parametrize("job", ["abandoned_cleanup", "opt_out_cleanup"])
def test_what_another_session_holds_is_passed_by_and_the_others_go(world: CleanupWorld, table: str, job: str) -> None:
    scenes = [(a_draft if job == "abandoned_cleanup" else an_ended_run)(world) for _ in range(5)]
    held = scenes[2]
    key = {"extraction_jobs": held.job, "job_runs": held.run, "source_files": held.files[0]}[table]
    with world.database.engine.connect() as other:
        other.exec_driver_sql(f"SELECT FROM {table} WHERE id = '{key}' FOR UPDATE")
        outcome = world.run(job, slot=NOON)
        assert (outcome.status, outcome.success) == (Status.INCOMPLETE, False)
        assert (outcome.counts["jobs_cleaned"], outcome.counts["due_count"]) == (4, 1)
        assert "1 more stayed locked by other sessions" in outcome.message
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False, False, True, False, False]
    assert world.object_of(held.files[0]) in world.objects()
    again = world.run(job, slot=NOON)
    assert (again.status, again.counts["jobs_cleaned"]) == (Status.COMPLETED, 5)
    assert world.objects() == set()


def test_what_is_let_go_a_moment_later_goes_in_the_same_run(world: CleanupWorld, points: Points) -> None:
    scene = a_draft(world)
    with world.database.engine.connect() as other:
        other.exec_driver_sql(f"SELECT FROM job_runs WHERE id = '{scene.run}' FOR UPDATE")
        # Late in the run, when it has met the lock at least once.
        points.at(25, other.rollback)
        outcome = world.run("abandoned_cleanup")
        assert points.called
    assert (outcome.status, outcome.counts["jobs_cleaned"]) == (Status.COMPLETED, 1)


@pytest.mark.parametrize("lock", ["a row that the deletion changes", "a run that gets a file"])
def test_a_lock_met_later_in_the_batch_costs_one_run_alone(world: CleanupWorld, lock: str) -> None:
    """The usage event whose task goes, or the run that a file moves to: the batch is halved until it stands alone."""
    scenes = [an_ended_run(world) for _ in range(6)]
    if lock == "a run that gets a file":
        held = world.appended(scenes[4].run, age=10)
        sql = f"SELECT FROM job_runs WHERE id = '{held}' FOR UPDATE"
    else:
        task = world.database.value("SELECT id FROM extraction_tasks WHERE job_run_id = :run", run=scenes[4].run)
        held = world.usage(str(task))
        sql = f"SELECT FROM usage_events WHERE id = '{held}' FOR UPDATE"
    with world.database.engine.connect() as other:
        other.exec_driver_sql(sql)
        outcome = world.run("opt_out_cleanup")
    assert (outcome.status, outcome.counts["jobs_cleaned"]) == (Status.INCOMPLETE, 5)
    assert "stayed locked" in outcome.message
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False] * 4 + [True, False]
    assert outcome.counts["failed_count"] == 0
    assert world.run("opt_out_cleanup").counts["jobs_cleaned"] == 1


def refuse_to_delete(world: CleanupWorld, run: str) -> None:
    world.database.script(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF OLD.id = '{run}' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '23000'; END IF; "
        "RETURN OLD; END $$"
    )
    world.database.script("CREATE TRIGGER refuse BEFORE DELETE ON job_runs FOR EACH ROW EXECUTE FUNCTION refuse()")


def test_a_run_that_the_database_will_not_delete_is_counted_and_the_others_go(world: CleanupWorld) -> None:
    scenes = [a_draft(world) for _ in range(7)]
    bad = scenes[3]
    refuse_to_delete(world, bad.run)
    environment = world.environment()
    outcome = environment.run("abandoned_cleanup")
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert {key: outcome.counts[key] for key in ("jobs_cleaned", "failed_count", "due_count")} == {
        "jobs_cleaned": 6,
        "failed_count": 1,
        "due_count": 1,
    }
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False] * 3 + [True] + [False] * 3
    # Nothing of its batch stayed half done: its files, its objects, and no record that says otherwise.
    assert world.object_of(bad.files[0]) in world.objects()
    assert bad.run not in {row["erased"] for row in world.erasures()}
    (line,) = [line for line in environment.lines() if line.get("event") == "item"]
    assert (line["item"], "not this one" in line["message"]) == (bad.run, True)


def test_where_every_run_is_refused_the_run_is_no_success(world: CleanupWorld) -> None:
    scene = a_draft(world)
    refuse_to_delete(world, scene.run)
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.success, outcome.counts["failed_count"]) == (Status.COMPLETED, False, 1)


def test_a_user_who_comes_back_between_the_look_and_the_batch_keeps_everything(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "_RUNS_A_BATCH", 2)
    scenes = [a_draft(world) for _ in range(4)]
    batch = erasing.Eraser._batch

    def late(eraser: erasing.Eraser, runs: Any) -> Any:
        world.database.execute("UPDATE job_runs SET last_active_at = :now WHERE id = :run", now=NOON, run=scenes[3].run)
        return batch(eraser, runs)

    monkeypatch.setattr(erasing.Eraser, "_batch", late)
    outcome = world.run("abandoned_cleanup")
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False, False, False, True]
    assert world.object_of(scenes[3].files[0]) in world.objects()
    assert (outcome.status, outcome.counts["jobs_cleaned"], outcome.counts["due_count"]) == (Status.COMPLETED, 3, 0)


def test_two_cleanups_at_once_share_the_work(world: CleanupWorld) -> None:
    """The same runs are due for both: each goes once, with one record."""
    runs = []
    for _ in range(30):
        run = world.draft(world.job(), status="cancelled", persist_data=False)
        world.file(run)
        runs.append(run)
    outcomes: list[Outcome] = []
    jobs = ("abandoned_cleanup", "opt_out_cleanup")
    threads = [threading.Thread(target=lambda job=job: outcomes.append(world.run(job))) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {outcome.status for outcome in outcomes} <= {Status.COMPLETED, Status.INCOMPLETE}
    for job in jobs:
        outcomes.append(world.run(job))
    assert sum(outcome.counts["jobs_cleaned"] for outcome in outcomes) == 30
    assert sorted(row["erased"] for row in world.erasures()) == sorted(runs)
    assert world.count("job_runs") == 0
    assert world.objects() == set()
