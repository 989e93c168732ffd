"""The record of an erasure: for whom, what, when, and what the bucket still keeps; with no content in it."""

import hashlib
import hmac
import re
from datetime import timedelta
from typing import Any

import pytest

from functions.cleanup import erasing
from shared.outcome import Status
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON

NO_ROWS = {
    "job_runs": 0,
    "source_files": 0,
    "extraction_tasks": 0,
    "extraction_results": 0,
    "source_files_to_tasks": 0,
    "job_fields": 0,
    "job_exports": 0,
    "automation_runs": 0,
}


def hash_of(world: CleanupWorld, user: str) -> bytes:
    key = bytes(world.database.value("SELECT erasure_key FROM maintenance.identity"))
    return hmac.new(key, user.encode(), hashlib.sha256).digest()


def a_full_run(world: CleanupWorld, job: str, age: float = 100, **columns: object) -> str:
    """A run with three files, two tasks with three links and one result, and three exports of which one is in Drive."""
    run = world.submitted(job, age, **columns)
    files = [world.file(run, file_size_bytes=size) for size in (10, 200, 3_000)]
    world.task(run, files[0], files[1])
    world.task(run, files[2], result=False)
    for external_id in ("a file in Drive", None, None):
        world.export(run, external_id)
    return run


# ---- for whom


def test_a_user_has_one_hash_and_users_have_different_ones(world: CleanupWorld) -> None:
    for user in ("ann", "ann", "bob"):
        world.draft(world.job(user))
    world.submitted(world.job("ann"), persist_data=False)
    world.run("abandoned_cleanup")
    world.run("opt_out_cleanup")
    hashes = [bytes(row["user_hash"]) for row in world.erasures()]
    assert sorted(hashes) == sorted([hash_of(world, "ann")] * 3 + [hash_of(world, "bob")])
    assert hash_of(world, "ann") != hash_of(world, "bob")


def test_the_hash_is_made_with_the_databases_own_key(world: CleanupWorld) -> None:
    """Without the key nobody can try out user ids; another database's records cannot be joined with these."""
    world.draft(world.job())
    world.run("abandoned_cleanup")
    before = hash_of(world, "ann")
    world.database.execute("UPDATE maintenance.identity SET erasure_key = DEFAULT")
    assert hash_of(world, "ann") != before
    world.draft(world.job())
    world.run("abandoned_cleanup")
    assert [bytes(row["user_hash"]) for row in world.erasures()] == [before, hash_of(world, "ann")]
    assert hashlib.sha256(b"ann").digest() not in {before, hash_of(world, "ann")}


# ---- what


def test_it_counts_the_rows_of_each_table(world: CleanupWorld) -> None:
    job = world.job()
    run = a_full_run(world, job, age=90, persist_data=False)
    world.automation_run(world.automation(job), run, "completed")
    world.submitted(job, age=50)
    outcome = world.run("opt_out_cleanup")
    (record,) = world.erasures()
    assert (record["job"], record["run_id"]) == ("opt_out_cleanup", outcome.run_id)
    assert (record["erased"], record["extent"]) == (run, "run")
    assert record["row_counts"] == {
        "job_runs": 1,
        "source_files": 3,
        "extraction_tasks": 2,
        "extraction_results": 1,
        "source_files_to_tasks": 3,
        "job_fields": 1,
        "job_exports": 3,
        "automation_runs": 1,
    }
    assert (record["objects"], record["bytes"]) == (3, 3_210)


def test_of_a_run_that_stays_it_counts_what_went(world: CleanupWorld) -> None:
    job = world.job()
    run = a_full_run(world, job, persist_data=False)
    world.automation_run(world.automation(job), run, "completed")
    counted = ("job_runs", "source_files", "extraction_tasks", "extraction_results", "source_files_to_tasks")
    tables = (*counted, "job_fields", "job_exports", "automation_runs")
    before = {table: world.count(table) for table in tables}
    world.run("opt_out_cleanup")
    (record,) = world.erasures()
    assert record["extent"] == "content"
    assert record["row_counts"] == {table: before[table] - world.count(table) for table in tables}
    assert record["row_counts"]["job_exports"] == 2


def test_of_an_empty_draft_it_says_so_at_once(world: CleanupWorld) -> None:
    world.draft(world.job())
    world.run("abandoned_cleanup")
    (record,) = world.erasures()
    assert record["row_counts"] == {**NO_ROWS, "job_runs": 1, "job_fields": 1}
    assert (record["objects"], record["bytes"], record["copies"]) == (0, 0, "none")
    assert record["erased_at"] == record["completed_at"] == NOON


def test_each_run_has_its_own_counts(world: CleanupWorld) -> None:
    sizes = {}
    for number in range(4):
        run = world.draft(world.job())
        for _ in range(number):
            world.file(run)
        sizes[run] = number
    world.run("abandoned_cleanup")
    records = {row["erased"]: row for row in world.erasures()}
    assert {run: row["row_counts"]["source_files"] for run, row in records.items()} == sizes
    assert {run: row["objects"] for run, row in records.items()} == sizes
    assert {run: row["bytes"] for run, row in records.items()} == {run: 10 * size for run, size in sizes.items()}


# ---- when


def test_it_is_complete_only_when_its_objects_are_gone(world: CleanupWorld) -> None:
    run = world.draft(world.job())
    for _ in range(3):
        world.file(run)
    other = world.draft(world.job("bob"))
    world.front.fail(503, method="DELETE")
    outcome = world.run("abandoned_cleanup")
    assert outcome.status in (Status.INCOMPLETE, Status.UNAVAILABLE)
    records = {row["erased"]: row for row in world.erasures()}
    assert (records[run]["erased_at"], records[run]["completed_at"], records[run]["copies"]) == (NOON, None, None)
    assert records[other]["completed_at"] == NOON
    assert len(world.objects()) == 3
    world.front.clear()
    world.clock.advance(hours=1)
    assert world.run("abandoned_cleanup").status is Status.COMPLETED
    records = {row["erased"]: row for row in world.erasures()}
    assert (records[run]["erased_at"], records[run]["completed_at"]) == (NOON, NOON + timedelta(hours=1))
    assert (records[run]["objects"], records[run]["bytes"]) == (3, 30)
    assert world.objects() == set()


def test_one_object_that_is_kept_keeps_it_open(world: CleanupWorld) -> None:
    run = world.draft(world.job())
    names = [world.object_of(world.file(run)) for _ in range(3)]
    world.front.retain(names[1], NOON + timedelta(days=1))
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.counts["open_objects"]) == (Status.COMPLETED, 1)
    (record,) = world.erasures()
    assert record["completed_at"] is None
    assert world.objects() == {names[1]}
    world.front.clear()
    world.clock.advance(days=1)
    world.run("abandoned_cleanup")
    (record,) = world.erasures()
    assert record["completed_at"] == NOON + timedelta(days=1)
    assert (record["objects"], record["bytes"]) == (3, 30)


# ---- what the bucket still keeps


@pytest.mark.parametrize(
    ("fields", "copies", "until"),
    [
        ({}, "none", None),
        ({"softDeletePolicy": {"retentionDurationSeconds": "0"}}, "none", None),
        ({"softDeletePolicy": {"retentionDurationSeconds": "604800"}}, "soft_delete", NOON + timedelta(days=7)),
        ({"versioning": {"enabled": True}}, "versions", None),
        (
            {"versioning": {"enabled": True}, "softDeletePolicy": {"retentionDurationSeconds": "604800"}},
            "versions",
            None,
        ),
        ({"versioning": {"enabled": False}}, "none", None),
    ],
)
def test_it_says_until_when_the_bucket_keeps_copies(
    world: CleanupWorld, fields: dict[str, object], copies: str, until: object
) -> None:
    world.front.bucket_fields = {"versioning": {"enabled": False}, **fields}
    run = world.draft(world.job())
    world.file(run)
    world.run("abandoned_cleanup")
    (record,) = world.erasures()
    assert (record["copies"], record["copies_until"]) == (copies, until)


def test_a_name_that_can_come_back_is_asked_for_exactly_and_without_the_right_to_read(world: CleanupWorld) -> None:
    world.front.forbid("storage.objects.get")
    run = world.draft(world.job())
    names = [f"imports/{run}/1_a.pdf", f"imports/{run}/2_b.pdf"]
    world.file(run, names[0])
    world.file(run, names[1], stored=False)
    # Were it taken for the other, that would seem to have been uploaded since.
    longer = world.put(names[1] + "2", age=-1)
    world.run("abandoned_cleanup")
    assert {row["state"] for row in world.outbox()} == {"deleted", "absent"}
    assert world.objects() == {longer}


def test_a_batch_is_bounded_by_its_files_too(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its locks for as long as its rows take to go, and one run may have very many."""
    monkeypatch.setattr(erasing, "_FILES_A_BATCH", 4)
    for files in (2, 2, 1, 9, 0, 3):
        run = world.draft(world.job())
        for _ in range(files):
            world.file(run)
    sizes: list[int] = []
    batch = erasing.Eraser._batch

    def count(eraser: erasing.Eraser, runs: Any) -> Any:
        sizes.append(sum(run["files"] for run in runs))
        return batch(eraser, runs)

    monkeypatch.setattr(erasing.Eraser, "_batch", count)
    world.run("abandoned_cleanup")
    assert sizes == [4, 1, 9, 3]


# ---- without content


@pytest.mark.parametrize("state", ["deleted", "absent", "superseded"])
def test_a_name_that_is_done_with_is_a_hash(world: CleanupWorld, state: str) -> None:
    run = world.draft(world.job())
    name = f"imports/{run}/1_Ann's secret.pdf"
    world.file(run, name, stored=state != "absent")
    if state == "superseded":
        # Between the rows' deletion and the object's, the same file is imported again.
        again = world.draft(world.job(age=0), age=0)
        world.front.before("GET", lambda asked: world.file(again, name, stored=False) if asked == name else None)
    world.run("abandoned_cleanup")
    (row,) = world.outbox()
    assert row["state"] == state
    assert row["object_name"] == hashlib.sha256(name.encode()).hexdigest()
    assert row["done_at"] == NOON
    assert (name in world.objects()) is (state == "superseded")


def test_neither_records_nor_the_log_have_content_in_them(world: CleanupWorld) -> None:
    run = world.submitted(world.job("ann secret"), persist_data=False, description="secret")
    file = world.file(run, f"imports/{run}/1_secret.pdf", original_filename="secret.pdf", original_path="secret")
    world.task(run, file)
    world.database.execute("""UPDATE extraction_results SET extracted_data = '{"total": "secret"}'""")
    world.database.execute("UPDATE job_fields SET field_name = 'secret', ai_prompt = 'secret'")
    environment = world.environment()
    assert environment.run("opt_out_cleanup").counts["jobs_cleaned"] == 1
    for table in ("erasures", "object_deletions", "runs"):
        written = world.database.value(f"SELECT string_agg(t::text, '|') FROM maintenance.{table} AS t")
        assert written
        assert not re.search("secret", written), table
    assert "secret" not in environment.log
