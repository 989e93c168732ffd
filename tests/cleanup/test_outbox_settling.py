"""What is written of an object that is done with, by two runs at once, in two attempts, or after it came back."""

import threading
from typing import Any

import pytest

from functions.cleanup import outbox as outbox_module
from functions.cleanup.outbox import Outbox
from shared.outcome import Status
from tests.support.bucket_faults import add_open_rows
from tests.support.cleanup import CleanupWorld
from tests.support.wait import until

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_two_runs_that_settle_the_last_objects_of_an_erasure_at_once_complete_it(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has committed that its object is gone when the other one looks whether any is left."""
    run = world.draft(world.job())
    files = [world.file(run), world.file(run)]
    last = world.object_of(files[1])
    world.front.fail(503, name=last, times=5)
    complete = Outbox._complete
    other = threading.Thread(target=lambda: world.run("opt_out_cleanup"))

    def complete_and_let_the_other_come(outbox: Outbox, *arguments: Any) -> None:
        complete(outbox, *arguments)
        if other.ident is None:
            world.front.clear()
            world.clock.advance(hours=1)
            world.database.execute(
                "UPDATE maintenance.object_deletions SET claimed_until = NULL WHERE object_name = :last", last=last
            )
            other.start()
            until(
                lambda: not other.is_alive() or world.database.value(WAITING),
                "the other run is over, or waits for this one",
            )

    monkeypatch.setattr(Outbox, "_complete", complete_and_let_the_other_come)
    world.run("abandoned_cleanup")
    other.join(60)
    (record,) = world.erasures()
    assert (record["completed_at"] is not None, record["objects"]) == (True, 2)


def test_an_erasure_that_nobody_completed_is_completed_by_the_next_run(world: CleanupWorld) -> None:
    world.file(world.draft(world.job()))
    world.run("abandoned_cleanup")
    world.database.execute("UPDATE maintenance.erasures SET completed_at = NULL, copies = NULL")
    world.run("opt_out_cleanup")
    (record,) = world.erasures()
    assert (record["completed_at"] is not None, record["copies"]) == (True, "none")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_conversion_that_goes_later_than_its_file_changes_nothing_of_the_record(
    world: CleanupWorld, is_there: bool
) -> None:
    run = world.draft(world.job())
    file = world.file(run)
    conversion = world.conversion(file)
    world.front.fail(503, name=conversion)
    world.run("abandoned_cleanup")
    (row,) = world.outbox()
    assert (row["state"], row["object_name"], row["bytes"]) == ("pending", conversion, 10)
    world.front.clear()
    world.clock.advance(hours=1)
    if not is_there:
        world.front.fail(404, name=conversion, message="No such object")
    world.run("abandoned_cleanup")
    (record,) = world.erasures()
    assert (record["objects"], record["bytes"], record["completed_at"]) == (1, 10, world.clock.now())


def test_the_conversion_of_a_file_that_moved_belongs_to_the_erasure_of_its_old_run(world: CleanupWorld) -> None:
    old = world.submitted(world.job(), age=90, persist_data=False)
    file = world.file(old)
    world.task(old, file)
    conversion = world.conversion(file)
    world.appended(old, age=50)
    world.front.fail(503, name=conversion)
    world.run("opt_out_cleanup")
    assert world.erasures()[0]["completed_at"] is None
    world.front.clear()
    world.clock.advance(hours=1)
    world.run("opt_out_cleanup")
    (record,) = world.erasures()
    assert (record["objects"], record["bytes"], record["completed_at"]) == (1, 0, world.clock.now())


def test_what_is_uploaded_again_before_its_row_comes_stays(world: CleanupWorld) -> None:
    """A draft's content goes, the draft stays for its automation, and its user imports the same file once more."""
    job = world.job()
    world.automation(job)
    run = world.draft(job, status="cancelled", persist_data=False)
    name = f"imports/{run}/d1_a.pdf"
    world.file(run, name)
    world.front.fail(503)
    world.run("opt_out_cleanup")
    world.front.clear()
    world.clock.advance(minutes=30)
    world.put(name, age=0)
    world.front.created[name] = world.clock.now()
    outcome = world.run("opt_out_cleanup")
    assert (outcome.counts["objects_superseded"], name in world.objects()) == (1, True)


def test_what_keeps_failing_does_not_stand_in_the_way_of_the_rest(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows as are claimed at once fail; those that came later have their turn all the same."""
    monkeypatch.setattr(outbox_module, "_CLAIM", 5)
    monkeypatch.setattr(outbox_module, "_FAILURES_IN_A_ROW", 5)
    bad = [world.object_of(world.file(world.draft(world.job()))) for _ in range(5)]
    world.front.fail(503, name=lambda name: name in bad)
    assert world.run("abandoned_cleanup").status is Status.UNAVAILABLE
    assert {row["error"] for row in world.outbox()} == {"503 ServiceUnavailable"}
    world.clock.advance(seconds=1)
    good = world.object_of(world.file(world.draft(world.job())))
    world.run("abandoned_cleanup")
    assert good not in world.objects()
    assert world.objects() >= set(bad)


def test_a_clock_that_was_far_ahead_once_makes_no_row_wait_for_ever(world: CleanupWorld) -> None:
    name = world.object_of(world.file(world.draft(world.job())))
    world.front.fail(503)
    world.run("abandoned_cleanup")
    world.front.clear()
    later = world.clock.now().replace(year=world.clock.now().year + 1)
    world.database.execute(
        "UPDATE maintenance.object_deletions SET next_attempt_at = :later, claimed_until = :later", later=later
    )
    world.run("abandoned_cleanup")
    assert name not in world.objects()


def test_what_a_hold_keeps_does_not_stand_in_the_way_of_the_rest_either(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows as are claimed at once are all held, so that no thread has anything to do: more are claimed."""
    monkeypatch.setattr(outbox_module, "_CLAIM", 2)
    world.user("bob")
    world.hold("user", "bob")
    kept = [world.put(f"temp_uploads/bob/{number}_a.pdf") for number in range(2)]
    due = world.put("temp_uploads/ann/1_a.pdf")
    add_open_rows(world, [*kept, due])
    world.database.execute(
        "UPDATE maintenance.object_deletions SET next_attempt_at = next_attempt_at - interval '1 hour' "
        "WHERE object_name = ANY (CAST(:kept AS text[]))",
        kept=kept,
    )
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.counts["objects_deleted"], world.objects()) == (Status.COMPLETED, 1, set(kept))
