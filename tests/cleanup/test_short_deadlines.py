"""Many objects and little time: each attempt goes on where the last one stopped, and each object goes once."""

import itertools
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from devstack import buckets, gcs_front
from functions.cleanup import artifacts
from shared.outcome import Outcome, Status
from tests.support.bucket_faults import LongBucket, add_open_rows, deleted, states
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON

OBJECTS = 10_000
# One second to work in.
SHORT = {"JOB_TIMEOUT_SECONDS": "61", "MAX_DELETE_FLOOR": "20000", "ORPHAN_MAX_FLOOR": "20000"}


@pytest.fixture
def long_bucket() -> Iterator[LongBucket]:
    """A bucket with 10,000 objects. The storage server would take minutes for so many."""
    with LongBucket(OBJECTS) as server:
        yield server


def attempts(world: CleanupWorld, job: str, settings: dict[str, str]) -> list[Outcome]:
    """Fire until it is done, as Cloud Scheduler does; a minute lies between two attempts."""
    outcomes: list[Outcome] = []
    while not outcomes or (outcomes[-1].status is Status.INCOMPLETE and len(outcomes) < 30):
        outcomes.append(world.run(job, settings, slot=NOON))
        assert states(world)["claimed"] == 0
        world.clock.advance(minutes=1)
    return outcomes


def assert_only_the_last_is_done(outcomes: list[Outcome], at_least: int) -> None:
    *others, last = outcomes
    assert len(outcomes) >= at_least
    assert {outcome.status for outcome in others} == {Status.INCOMPLETE}
    assert (last.status, last.success) == (Status.COMPLETED, True)


def time_runs_out(world: CleanupWorld, every: int, number: int) -> None:
    """With every so-manyth call, the deadline passes."""
    if number % every == 0:
        world.clock.advance(seconds=2)


def name_by_rows(world: CleanupWorld, names: list[str]) -> None:
    """A run whose files are these objects."""
    world.database.execute(
        "INSERT INTO source_files (id, job_run_id, original_filename, original_path, gcs_object_name, file_type, "
        "file_size_bytes, status, source_type) SELECT gen_random_uuid(), :run, 'a', 'a', name, 'application/pdf', 1, "
        "'uploaded', 'upload' FROM unnest(CAST(:names AS text[])) AS name",
        run=world.submitted(world.job()),
        names=names,
    )


@pytest.mark.slow
def test_a_sweep_of_10_000_objects_goes_on_where_it_stopped(
    world: CleanupWorld, long_bucket: LongBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four objects stay: rows name them. Time runs out at each fourth page, of the count and of the taking."""
    monkeypatch.setattr(artifacts, "_DRAIN_AT", 400)
    names = list(long_bucket.objects)
    going = names[::4]
    name_by_rows(world, sorted({*names} - {*going}))
    long_bucket.on_page = lambda number: time_runs_out(world, 4, number)
    outcomes = attempts(world, "artifact_cleanup", {**SHORT, "STORAGE_EMULATOR_HOST": long_bucket.url})
    assert_only_the_last_is_done(outcomes, at_least=6)
    assert "still being counted" in outcomes[0].message
    assert "still being looked through" in outcomes[-2].message
    cleaned = [outcome.counts["artifacts_cleaned"] for outcome in outcomes]
    assert cleaned == sorted(cleaned)
    assert len({*cleaned}) > 3
    # Twice from the first object to the last one, and each page begins where the one before ended.
    ends = [last for _, last in long_bucket.pages]
    assert ends.count(OBJECTS - 1) == 2
    for last, (first, _) in zip(ends, long_bucket.pages[1:], strict=False):
        assert first in (last, (last + 1) % OBJECTS)
    assert long_bucket.deleted == Counter(going)
    counts = outcomes[-1].counts
    kinds = ("conversions_cleaned", "temp_uploads_cleaned", "orphans_cleaned")
    assert counts["artifacts_cleaned"] == counts["objects_deleted"] == sum(counts[kind] for kind in kinds) == len(going)
    assert counts["bytes_deleted"] == sum(int(long_bucket.objects.described(n)["size"]) for n in range(0, OBJECTS, 4))
    assert states(world) == {"deleted": len(going)}


@pytest.mark.slow
def test_an_outbox_of_10_000_objects_is_drained_bit_by_bit(world: CleanupWorld, long_bucket: LongBucket) -> None:
    """Of four erasures. Three of four objects are needed by now: rows name them again."""
    names = list(long_bucket.objects)
    going = names[::4]
    name_by_rows(world, sorted({*names} - {*going}))
    for number in range(4):
        world.add_maintenance(
            "erasures", job="abandoned_cleanup", run_id=0, job_run_id=str(uuid.uuid4()), user_hash=b"?", extent="run",
            row_counts="{}", erased_at=NOON,
        )  # fmt: skip
        part = OBJECTS // 4
        add_open_rows(world, names[number * part : (number + 1) * part], erasure=world.erasures()[-1]["id"])
    long_bucket.on_delete = lambda number: time_runs_out(world, 400, number)
    outcomes = attempts(world, "opt_out_cleanup", {**SHORT, "STORAGE_EMULATOR_HOST": long_bucket.url})
    assert_only_the_last_is_done(outcomes, at_least=5)
    for outcome in outcomes[:-1]:
        left = OBJECTS - outcome.counts["objects_deleted"] - outcome.counts["objects_superseded"]
        assert outcome.counts["open_objects"] == left
        assert f"{left} objects could not be deleted yet" in outcome.message
    assert long_bucket.deleted == Counter(going)
    assert states(world) == {"deleted": len(going), "superseded": OBJECTS - len(going)}
    assert outcomes[-1].counts["objects_deleted"] == len(going)
    assert outcomes[-1].counts["objects_superseded"] == OBJECTS - len(going)
    assert [(row["objects"], row["bytes"]) for row in world.erasures()] == [(OBJECTS / 16, OBJECTS / 16 * 10)] * 4
    assert all(row["completed_at"] > NOON for row in world.erasures())


def test_a_real_bucket_is_emptied_bit_by_bit(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a server that really deletes, with fewer objects on smaller pages."""
    monkeypatch.setattr(gcs_front, "_PAGE", 50)
    kept = world.object_of(world.file(world.submitted(world.job())))
    names = [f"temp_uploads/ann/{number:04}_x_a.pdf" for number in range(600)]
    buckets.put_many(world.front.upstream, world.bucket, names)
    looks, deletes = itertools.count(1), itertools.count(1)
    world.front.before("GET", lambda _: time_runs_out(world, 5, next(looks)))
    world.front.before("DELETE", lambda _: time_runs_out(world, 150, next(deletes)))
    outcomes = attempts(world, "artifact_cleanup", SHORT)
    assert_only_the_last_is_done(outcomes, at_least=6)
    assert deleted(world) == names
    assert outcomes[-1].counts["temp_uploads_cleaned"] == len(names)
    assert world.objects() == {kept}


@pytest.mark.parametrize("job", ["abandoned_cleanup", "artifact_cleanup", "opt_out_cleanup"])
def test_a_deadline_that_has_passed_leaves_the_outbox_to_the_next_run(world: CleanupWorld, job: str) -> None:
    """What was in hand is finished and counted; what was only claimed is free at once."""
    names = [f"jobs/x/{number:03}.pdf" for number in range(200)]
    add_open_rows(world, names)
    world.front.before("DELETE", lambda _: world.clock.advance(seconds=2))
    first = world.run(job, SHORT)
    world.front.clear()
    assert first.status is Status.INCOMPLETE
    assert 0 < first.counts["objects_absent"] < 200
    assert states(world) == {"absent": first.counts["objects_absent"], "pending": first.counts["open_objects"]}
    assert {row["next_attempt_at"] for row in world.outbox() if row["state"] == "pending"} == {NOON}
    second = world.run(job)
    assert second.status is Status.COMPLETED
    assert first.counts["objects_absent"] + second.counts["objects_absent"] == 200
    assert max(row["done_at"] for row in world.outbox()) < NOON + timedelta(hours=1)
