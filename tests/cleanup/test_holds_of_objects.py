"""What somebody holds stays in the bucket, also where it was found before, or nothing tells any more whose it is."""

from typing import Any

import pytest

from functions.cleanup import erasing
from shared.outcome import Status
from shared.postgres import Transaction
from shared.sql import Statement
from tests.support.cleanup import DAY, CleanupWorld
from tests.support.clock import NOON

ZIP: dict[str, Any] = {"file_type": "application/zip", "original_filename": "a.zip", "status": "unpacked"}


@pytest.mark.parametrize("scope", ["user", "job", "run"])
def test_a_hold_that_begins_before_the_object_goes_keeps_it_until_it_ends(world: CleanupWorld, scope: str) -> None:
    job = world.job()
    run = world.submitted(job)
    world.file(run)
    zipped = world.object_of(world.file(run, **ZIP))
    other = world.put("temp_uploads/bob/1_x.pdf")
    world.front.fail(503)
    world.run("artifact_cleanup")
    assert {row["state"] for row in world.outbox()} == {"pending"}
    world.front.clear()
    world.hold(scope, {"user": "ann", "job": job, "run": run}[scope], until=NOON + 3 * DAY)
    world.clock.advance(hours=5)
    outcome = world.run("artifact_cleanup")
    assert (zipped in world.objects(), other in world.objects()) == (True, False)
    assert (outcome.counts["open_objects"], outcome.counts["kept_objects"]) == (1, 1)
    world.clock.advance(days=4)
    assert world.run("artifact_cleanup").counts["zips_cleaned"] == 1


@pytest.mark.parametrize("scope", ["user", "job"])
def test_what_the_service_left_of_something_held_stays(world: CleanupWorld, scope: str) -> None:
    """The objects name a run whose row is gone: they may be the held one's."""
    world.file(world.submitted(world.job("bob")))
    bobs = world.put(f"jobs/{world.draft(world.job('bob'), age=0)}/extracted/old.pdf")
    job = world.job("ann")
    run = world.submitted(job)
    anns = {world.object_of(world.file(run)), world.put(f"jobs/{run}/conversions/a.pdf"), world.put(f"imports/{run}/a")}
    world.hold(scope, "ann" if scope == "user" else job)
    world.database.execute("DELETE FROM extraction_jobs WHERE id = :job", job=job)
    outcome = world.run("artifact_cleanup")
    assert world.objects() >= anns
    assert outcome.counts["held"] == 3
    # Whose this was, its run tells.
    assert bobs not in world.objects()


def test_a_hold_on_a_run_keeps_nothing_of_others_that_are_gone(world: CleanupWorld) -> None:
    run = world.submitted(world.job())
    world.file(run)
    world.hold("run", run)
    orphan = world.put("jobs/00000000-0000-0000-0000-000000000001/extracted/a.pdf")
    world.run("artifact_cleanup")
    assert orphan not in world.objects()


def test_the_scratch_of_a_held_user_stays_whatever_is_in_the_id(world: CleanupWorld) -> None:
    world.file(world.submitted(world.job()))
    held = world.put("temp_uploads/a/b/1_x_a.pdf")
    other = world.put("temp_uploads/a/bc/1_x_a.pdf")
    world.hold("user", "a/b")
    world.run("artifact_cleanup")
    assert (held in world.objects(), other in world.objects()) == (True, False)


def set_at_once(world: CleanupWorld, scope: str, subject: str) -> str:
    """Try to set a hold without waiting; give what the database says against it."""
    try:
        world.database.script(
            "SET LOCAL lock_timeout = 100; INSERT INTO maintenance.holds (scope, subject, reason, by, created_at) "
            f"VALUES ('{scope}', '{subject}', 'a case', 'lea', '2026-01-01')"
        )
    except Exception as error:  # noqa: BLE001  what the database says is what is asked
        return str(error)
    return ""


def test_who_sets_a_hold_waits_for_the_batch_at_work_and_is_told_the_truth(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a batch nobody can be told that its run is held."""
    run = world.draft(world.job())
    erase = erasing.Eraser._erase
    refused: list[str] = []

    def hold_meanwhile(eraser: erasing.Eraser, *arguments: Any) -> None:
        refused.append(set_at_once(world, "run", run))
        erase(eraser, *arguments)

    monkeypatch.setattr(erasing.Eraser, "_erase", hold_meanwhile)
    world.run("abandoned_cleanup")
    assert "lock timeout" in refused[0]
    assert (world.has("job_runs", run), world.count("maintenance.holds")) == (False, 0)


def test_so_does_who_holds_a_job_that_is_empty_already(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.job()
    execute = Transaction.execute
    refused: list[str] = []

    def hold_meanwhile(transaction: Transaction, statement: Statement, **parameters: object) -> int:
        if statement is erasing.STATEMENTS["delete_parents"]:
            refused.append(set_at_once(world, "job", job))
        return execute(transaction, statement, **parameters)

    monkeypatch.setattr(Transaction, "execute", hold_meanwhile)
    world.run("abandoned_cleanup")
    assert "lock timeout" in refused[0]
    assert (world.has("extraction_jobs", job), world.count("maintenance.holds")) == (False, 0)


def test_a_hold_that_is_not_committed_yet_ends_the_run_and_costs_it_little(world: CleanupWorld) -> None:
    """All runs would meet the same lock, so that trying them one by one leads nowhere."""
    runs = [world.draft(world.job()) for _ in range(4)]
    with world.database.engine.connect() as other:
        other.exec_driver_sql(
            "INSERT INTO maintenance.holds (scope, subject, reason, by, created_at) "
            f"VALUES ('run', '{runs[0]}', 'a case', 'lea', '2026-01-01')"
        )
        outcome = world.run("abandoned_cleanup")
        assert (outcome.status, "setting a hold" in outcome.message) == (Status.UNAVAILABLE, True)
        assert world.count("job_runs") == 4
        other.commit()
    assert world.run("abandoned_cleanup").counts["jobs_cleaned"] == 3
    assert world.has("job_runs", runs[0])
