"""A bucket that is down, slow, half broken or forbidden, and comes back: nothing is lost, and all goes in the end."""

import threading
from datetime import timedelta

import pytest
from google.cloud.storage.retry import DEFAULT_RETRY

from devstack import gcs_front
from devstack.gcs_faults import On
from shared import gcs
from shared.outcome import Status
from tests.support.bucket_faults import add_open_rows, asked_to_delete, deleted, due, remaining, states
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON

ALL = ["abandoned_cleanup", "artifact_cleanup", "opt_out_cleanup"]
# The other erasing job drains the same outbox in the same way.
BOTH = ALL[:2]

both = pytest.mark.parametrize("job", BOTH)
each_of_three = pytest.mark.parametrize("job", ALL)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What google-cloud-storage repeats by itself, in real time, it gives up at once."""
    monkeypatch.setattr(gcs, "_RETRY", DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.01).with_timeout(0.1))


def assert_nothing_is_forgotten(world: CleanupWorld, names: list[str]) -> None:
    """Every object is there and has an open row that the next run may take; what was erased is not complete."""
    assert remaining(world, names) == {*names}
    assert sorted(row["object_name"] for row in world.outbox()) == sorted(names)
    assert states(world) == {"pending": len(names)}
    assert not any(row["completed_at"] for row in world.erasures())


def assert_all_went(world: CleanupWorld, names: list[str]) -> None:
    """Every object is gone, every row done, every erasure complete."""
    assert remaining(world, names) == set()
    assert len(world.objects()) == 1
    assert all(row["done_at"] for row in world.outbox())
    assert len(world.outbox()) == len(names)
    assert all(row["completed_at"] for row in world.erasures())
    assert sum(row["objects"] for row in world.erasures()) in (0, len(names))


# ---- down


@each_of_three
@pytest.mark.parametrize("dry_run", [True, False])
def test_while_it_is_down_nothing_begins(world: CleanupWorld, job: str, dry_run: bool) -> None:
    names = due(world, job, 3)
    before = world.checksum()
    world.front.down()
    outcome = world.run(job, dry_run=dry_run)
    assert (outcome.status, outcome.success, outcome.details["service"]) == (Status.UNAVAILABLE, False, "gcs")
    assert world.bucket in outcome.message
    assert world.checksum() == before
    world.front.up()
    assert world.run(job).status is Status.COMPLETED
    assert_all_went(world, names)


@both
@pytest.mark.parametrize("how", [503, 500, 429, 408, "cut"])
def test_when_it_goes_down_in_between_every_row_stays_open(world: CleanupWorld, job: str, how: int | str) -> None:
    names = due(world, job, 20)
    if isinstance(how, int):
        world.front.fail(how)
    else:
        world.front.cut("before", times=None)
    outcome = world.run(job)
    assert (outcome.status, outcome.success, outcome.details["service"]) == (Status.UNAVAILABLE, False, "gcs")
    assert world.bucket in outcome.message
    assert (outcome.counts["objects_deleted"], outcome.counts["bytes_deleted"]) == (0, 0)
    assert_nothing_is_forgotten(world, names)
    world.front.clear()
    world.clock.advance(hours=1)
    assert world.run(job).counts["objects_deleted"] == 20
    assert_all_went(world, names)


@pytest.mark.parametrize("page", [2, 5])
def test_a_listing_that_breaks_off_is_taken_up_where_it_was(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """In the middle of the count, and of the taking: 13 objects are on three pages, gone over twice."""
    monkeypatch.setattr(gcs_front, "_PAGE", 5)
    names = due(world, "artifact_cleanup", 12)

    def break_off(name: str | None) -> None:
        if name is None and len(listings(world)) == page:
            world.front.fail(503, method="GET", on="list")

    world.front.before("GET", break_off)
    outcome = world.run("artifact_cleanup", slot=NOON)
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "gcs")
    assert remaining(world, names) == {*names}
    listed = len(listings(world))
    world.front.clear()
    second = world.run("artifact_cleanup", slot=NOON)
    assert (second.status, second.counts["artifacts_cleaned"]) == (Status.COMPLETED, 12)
    assert listings(world)[listed].query["startOffset"] > "jobs/"
    assert_all_went(world, names)


def listings(world: CleanupWorld) -> list[gcs_front.Recorded]:
    """The requests for a page of the listing."""
    return [each for each in world.front.requests if each.path.endswith("/o") and each.method == "GET"]


@pytest.mark.parametrize("fault", ["503", "forbidden"])
def test_many_failures_in_a_row_end_the_run_before_it_tried_every_object(world: CleanupWorld, fault: str) -> None:
    names = [f"jobs/x/{number}.pdf" for number in range(1_500)]
    add_open_rows(world, names)
    if fault == "503":
        world.front.fail(503)
    else:
        world.front.forbid()
    outcome = world.run("abandoned_cleanup")
    assert outcome.status is {"503": Status.UNAVAILABLE, "forbidden": Status.MISCONFIGURED}[fault]
    assert 0 < len(asked_to_delete(world)) < 1_000
    assert states(world) == {"pending": 1_500}


# ---- a few objects that fail


@both
def test_where_tries_are_used_up_the_run_is_incomplete_and_says_how_many_wait(world: CleanupWorld, job: str) -> None:
    names = due(world, job, 10)
    world.front.fail(503)
    outcome = world.run(job)
    assert (outcome.status, outcome.success) == (Status.INCOMPLETE, False)
    assert {
        "abandoned_cleanup": "10 objects could not be deleted yet",
        "artifact_cleanup": "deleted 0 objects; 10 more wait",
    }[job] in outcome.message
    assert (outcome.counts["objects_deleted"], outcome.counts["open_objects"]) == (0, 10)
    assert_nothing_is_forgotten(world, names)
    assert {*asked_to_delete(world).values()} == {5}
    assert {(row["attempts"], row["error"]) for row in world.outbox()} == {(1, "503 ServiceUnavailable")}


def test_each_run_that_fails_puts_the_next_attempt_further_off(world: CleanupWorld) -> None:
    """And before its time the bucket is not asked."""
    due(world, "artifact_cleanup", 1)
    world.front.fail(503)
    waits = []
    for _ in range(10):
        assert world.run("artifact_cleanup").status is Status.INCOMPLETE
        asked = asked_to_delete(world)
        (row,) = world.outbox()
        waits.append((row["next_attempt_at"] - world.clock.now()).total_seconds())
        world.clock.set(row["next_attempt_at"] - timedelta(seconds=1))
        assert world.run("artifact_cleanup").counts["open_objects"] == 1
        assert asked_to_delete(world) == asked
        world.clock.advance(seconds=1)
    assert waits == [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


# ---- half of the deletes


@both
@pytest.mark.parametrize("status", [429, 503])
def test_half_of_the_deletes_refused_and_all_go(world: CleanupWorld, job: str, status: int) -> None:
    """Each second request fails, so that four tries are enough for 16 objects; each is counted once."""
    names = due(world, job, 16)
    world.front.fail(status, share=0.5, name=lambda name: name in names)
    outcome = world.run(job)
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    size = {"abandoned_cleanup": 10, "artifact_cleanup": 1}[job]
    assert (outcome.counts["objects_deleted"], outcome.counts["bytes_deleted"]) == (16, 16 * size)
    assert deleted(world) == sorted(names)
    assert_all_went(world, names)


@both
def test_half_of_the_objects_refused_and_the_others_go(world: CleanupWorld, job: str) -> None:
    names = due(world, job, 20)
    refused = names[::2]
    world.front.fail(503, name=lambda name: name in refused)
    first = world.run(job, slot=NOON)
    assert (first.status, first.counts["objects_deleted"], first.counts["open_objects"]) == (Status.INCOMPLETE, 10, 10)
    assert remaining(world, names) == {*refused}
    assert states(world) == {"deleted": 10, "pending": 10}
    assert not any(row["completed_at"] for row in world.erasures())
    world.front.clear()
    world.clock.advance(minutes=1)
    second = world.run(job, slot=NOON)
    assert (second.status, second.counts["objects_deleted"]) == (Status.COMPLETED, 20)
    assert deleted(world) == sorted(names)
    assert_all_went(world, names)


# ---- slow, and connections that break


@both
def test_a_delete_that_its_caller_gave_up_waiting_for_is_done_with_once(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """The first request hangs until there is a second one for the same object."""
    monkeypatch.setattr(gcs, "_TIMEOUT_SECONDS", (5.0, 2.0))
    names = due(world, job, 5)
    again = threading.Event()

    def hang(name: str | None) -> None:
        if name == names[0] and not again.is_set():
            if asked_to_delete(world)[name] > 1:
                again.set()
            again.wait(30)

    world.front.before("DELETE", hang)
    outcome = world.run(job)
    assert outcome.status is Status.COMPLETED
    assert outcome.counts["objects_deleted"] + outcome.counts["objects_absent"] == 5
    assert asked_to_delete(world)[names[0]] > 1
    assert_all_went(world, names)


@both
@pytest.mark.parametrize(("when", "state"), [("before", "deleted"), ("after", "absent")])
def test_a_connection_that_breaks_is_no_lost_object(world: CleanupWorld, job: str, when: str, state: str) -> None:
    """Cut after the server has done it, the second try finds nothing there: that is done."""
    names = due(world, job, 5)
    world.front.cut(when, times=5, name=lambda name: name in names)  # type: ignore[arg-type]
    outcome = world.run(job)
    assert (outcome.status, outcome.counts[f"objects_{state}"]) == (Status.COMPLETED, 5)
    assert states(world) == {state: 5}
    assert_all_went(world, names)


# ---- forbidden


@both
def test_a_missing_permission_ends_the_run_and_is_named(world: CleanupWorld, job: str) -> None:
    names = due(world, job, 5)
    world.front.forbid("storage.objects.delete")
    outcome = world.run(job)
    assert (outcome.status, outcome.details) == (Status.MISCONFIGURED, {"setting": "bucket rights"})
    assert "storage.objects.delete" in outcome.message
    assert world.bucket in outcome.message
    assert_nothing_is_forgotten(world, names)
    world.front.clear()
    assert world.run(job).counts["objects_deleted"] == 5
    assert_all_went(world, names)


@both
def test_a_permission_missing_for_one_object_leaves_the_rest_counted(world: CleanupWorld, job: str) -> None:
    """What went before the run ended is on record, and nothing goes twice."""
    names = due(world, job, 30)
    world.front.fail(403, name=names[20])
    first = world.run(job, slot=NOON)
    assert first.status is Status.MISCONFIGURED
    gone = len(names) - len(remaining(world, names))
    assert first.counts["objects_deleted"] == states(world)["deleted"] == gone
    assert states(world)["pending"] == 30 - gone
    world.front.clear()
    assert world.run(job, slot=NOON).counts["objects_deleted"] == 30
    assert deleted(world) == sorted(names)
    assert_all_went(world, names)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("permission", ["storage.objects.list", "storage.buckets.get"])
def test_a_bucket_that_may_not_be_looked_at_is_not_swept(world: CleanupWorld, permission: str, dry_run: bool) -> None:
    due(world, "artifact_cleanup", 3)
    before = world.checksum()
    world.front.forbid(permission)
    outcome = world.run("artifact_cleanup", dry_run=dry_run)
    assert (outcome.status, outcome.details) == (Status.MISCONFIGURED, {"setting": "bucket rights"})
    assert permission in outcome.message
    assert world.bucket in outcome.message
    assert world.checksum() == before


def test_what_was_imported_is_looked_at_first_and_that_may_be_forbidden(world: CleanupWorld) -> None:
    """The generation of a name that can come back is read from the listing: that needs a permission of its own."""
    run = world.draft(world.job())
    name = world.object_of(world.file(run, f"imports/{run}/1_a.pdf"))
    world.front.forbid("storage.objects.list")
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.details) == (Status.MISCONFIGURED, {"setting": "bucket rights"})
    assert "storage.objects.list" in outcome.message
    assert_nothing_is_forgotten(world, [name])


# ---- comes back


@pytest.mark.parametrize("following", ALL)
@pytest.mark.parametrize("fault", ["down", "forbidden"])
@both
def test_the_next_run_of_any_of_the_three_takes_what_is_open(
    world: CleanupWorld, job: str, fault: str, following: str
) -> None:
    names = due(world, job, 20)
    if fault == "down":
        world.front.fail(503)
    else:
        world.front.forbid()
    assert world.run(job).status in (Status.UNAVAILABLE, Status.MISCONFIGURED)
    assert_nothing_is_forgotten(world, names)
    world.front.clear()
    world.clock.advance(minutes=1)
    outcome = world.run(following)
    assert (outcome.status, outcome.counts["objects_deleted"]) == (Status.COMPLETED, 20)
    assert deleted(world) == sorted(names)
    assert_all_went(world, names)
    assert {row["completed_at"] for row in world.erasures()} <= {NOON + timedelta(minutes=1)}
    assert outcome.counts["open_objects"] == 0


@pytest.mark.parametrize("on", ["bucket", "list"])
def test_it_comes_back_while_the_run_still_asks(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, on: On) -> None:
    """A look at the bucket and a page of the listing are asked for again, within seconds."""
    monkeypatch.setattr(gcs, "_RETRY", DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.01).with_timeout(8.0))
    names = due(world, "artifact_cleanup", 3)
    world.front.fail(503, method="GET", on=on, times=2)
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 3
    assert_all_went(world, names)
