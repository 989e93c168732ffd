"""artifact_cleanup: which objects leave the bucket, and which stay."""

from typing import Any

import pytest
import urllib3

from devstack.buckets import object_url
from devstack.gcs_front import Recorded
from shared.outcome import Status
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON

ZIP: dict[str, Any] = {"file_type": "application/zip", "original_filename": "a.zip", "status": "unpacked"}


def deletes(world: CleanupWorld) -> list[Recorded]:
    """The requests to delete something that the bucket got, as they were sent."""
    return [request for request in world.front.requests if request.method == "DELETE"]


def test_by_products_and_orphans_go_and_content_stays(world: CleanupWorld) -> None:
    run = world.submitted(world.job())
    file = world.file(run)
    zipped = world.file(run, **ZIP)
    names = {
        "zip": world.object_of(zipped),
        "conversion": world.put(f"jobs/{run}/conversions/{file}.pdf"),
        "temp_upload": world.put("temp_uploads/ann/1_x_a.pdf"),
        "orphan": world.put(f"imports/{run}/1_gone.pdf"),
    }
    other = world.put("backups/of the owner.sql")
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.success, outcome.message) == (
        Status.COMPLETED,
        True,
        "Artifact cleanup deleted 4 objects",
    )
    for key in ("zips_cleaned", "conversions_cleaned", "temp_uploads_cleaned", "orphans_cleaned"):
        assert outcome.counts[key] == 1
    assert outcome.counts["bytes_deleted"] == 4
    assert world.objects() == {world.object_of(file), other}
    assert world.has("source_files", zipped)
    assert {row["kind"] for row in world.outbox()} == {*names}
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 0


@pytest.mark.parametrize(
    ("age", "gone"),
    [(6.9, set()), (7.1, {"zip", "conversion", "temp"}), (14.1, {"zip", "conversion", "temp", "orphan"})],
)
def test_each_goes_at_its_age(world: CleanupWorld, age: float, gone: set[str]) -> None:
    run = world.submitted(world.job())
    names = {
        "zip": world.object_of(world.file(run, **ZIP)),
        "conversion": f"jobs/{run}/conversions/x.pdf",
        "temp": "temp_uploads/ann/1_x_a.pdf",
        "orphan": f"jobs/{run}/extracted/x.pdf",
    }
    for name in names.values():
        world.put(name, age=age)
    world.run("artifact_cleanup")
    assert world.objects() == {name for key, name in names.items() if key not in gone}


def test_at_its_very_age_an_object_stays(world: CleanupWorld) -> None:
    run = world.submitted(world.job())
    world.file(run)
    names = {world.put(f"jobs/{run}/conversions/x.pdf", age=7), world.put("imports/x/a.pdf", age=14)}
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 0
    assert names <= world.objects()


@pytest.mark.parametrize(
    ("setting", "name"), [("ARTIFACT_RETENTION_DAYS", "temp_uploads/ann/a.pdf"), ("ORPHAN_AGE_DAYS", "imports/x/a.pdf")]
)
def test_each_age_is_a_setting_of_its_own(world: CleanupWorld, setting: str, name: str) -> None:
    world.file(world.submitted(world.job()))
    world.put("temp_uploads/ann/a.pdf", age=3)
    world.put("imports/x/a.pdf", age=3)
    assert world.run("artifact_cleanup", {setting: "2"}).counts["artifacts_cleaned"] == 1
    assert name not in world.objects()


# ---- ZIPs


def test_an_unpacked_zip_goes_once_and_its_row_shows_on(world: CleanupWorld) -> None:
    file = world.file(world.submitted(world.job()), **ZIP)
    before = world.database.rows("SELECT * FROM source_files")
    assert world.run("artifact_cleanup").counts["zips_cleaned"] == 1
    assert world.database.rows("SELECT * FROM source_files") == before
    (row,) = world.outbox()
    assert (row["kind"], row["state"], str(row["source_file_id"])) == ("zip", "deleted", file)
    world.front.requests.clear()
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 0
    assert deletes(world) == []
    assert len(world.outbox()) == 1


GOES: list[dict[str, str]] = [
    {},
    {"file_type": "application/x-zip-compressed", "original_filename": "archive"},
    {"file_type": "application/zip", "original_filename": "archive"},
    {"file_type": "application/octet-stream", "original_filename": "b.pdf.zip"},
]
STAYS: list[dict[str, str]] = [
    {"file_type": "application/pdf", "original_filename": "a member that is marked unpacked.pdf"},
    {"file_type": "application/pdf", "original_filename": "a.zip.pdf"},
    {"file_type": "application/gzip", "original_filename": "zip"},
    *({"status": status} for status in ("uploading", "uploaded", "importing", "unpacking", "failed")),
]


def test_only_a_zip_goes_and_only_when_it_was_unpacked(world: CleanupWorld) -> None:
    run = world.submitted(world.job())
    for columns in GOES:
        world.file(run, **{**ZIP, **columns})
    stays = {world.object_of(world.file(run, **{**ZIP, **columns})) for columns in STAYS}
    outcome = world.run("artifact_cleanup")
    assert (outcome.counts["zips_cleaned"], outcome.counts["artifacts_cleaned"]) == (len(GOES), len(GOES))
    assert len(world.outbox()) == len(GOES)
    assert world.objects() == stays


def test_what_a_row_names_is_content_whatever_it_is_called(world: CleanupWorld) -> None:
    run = world.submitted(world.job())
    names = {f"jobs/{run}/conversions/a.pdf", "temp_uploads/ann/a.pdf", "temp_uploads/a.zip", "elsewhere/a.pdf"}
    for name in names:
        world.file(run, name)
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 0
    assert world.objects() == names


# ---- generations


def generation(world: CleanupWorld, name: str) -> str:
    """The generation that an object has now, as the bucket tells it."""
    answer = urllib3.request("GET", object_url(world.front.upstream, world.bucket, name))
    return str(answer.json()["generation"])


def test_each_deletion_of_a_sweep_is_of_what_was_listed(world: CleanupWorld) -> None:
    run = world.submitted(world.job())
    world.file(run)
    names = [
        world.object_of(world.file(run, **ZIP)),
        world.put(f"jobs/{run}/conversions/a.pdf"),
        world.put("temp_uploads/ann/a.pdf"),
        world.put("imports/x/a.pdf"),
        world.put("jobs/x/a.pdf"),
    ]
    listed = {name: generation(world, name) for name in names}
    world.run("artifact_cleanup")
    assert {request.name: request.query.get("ifGenerationMatch") for request in deletes(world)} == listed


def test_what_is_written_again_after_the_listing_stays(world: CleanupWorld) -> None:
    world.file(world.submitted(world.job()))
    names = {world.put(name) for name in ("imports/x/a.pdf", "temp_uploads/ann/a.pdf", "jobs/x/conversions/a.pdf")}
    other = world.put("imports/x/b.pdf")
    before = {name: generation(world, name) for name in names}
    world.front.before("DELETE", lambda asked: asked in names and world.put(str(asked), age=0))
    outcome = world.run("artifact_cleanup")
    sent = [request for request in deletes(world) if request.name != other]
    assert {request.name: request.query["ifGenerationMatch"] for request in sent} == before
    assert {request.status for request in sent} == {412}
    assert [row["state"] for row in world.outbox()].count("superseded") == 3
    assert all(row["done_at"] == NOON for row in world.outbox())
    assert (outcome.status, outcome.counts["objects_superseded"]) == (Status.COMPLETED, 3)
    assert (outcome.counts["artifacts_cleaned"], outcome.counts["bytes_deleted"]) == (1, 1)
    world.front.clear()
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 0
    assert names < world.objects()


@pytest.mark.parametrize("written", [True, False])
def test_what_is_imported_again_while_a_deletion_waits_is_not_even_tried(world: CleanupWorld, written: bool) -> None:
    """The bucket was down between; the row is committed before or after its object is written."""
    run = world.submitted(world.job())
    world.file(run)
    name = world.put("imports/x/drive1_a.pdf")
    world.front.fail(503)
    assert world.run("artifact_cleanup").status is Status.INCOMPLETE
    world.front.clear()
    world.front.requests.clear()
    world.file(run, name, stored=written)
    world.clock.advance(hours=1)
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.counts["objects_superseded"]) == (Status.COMPLETED, 1)
    assert deletes(world) == []
    assert name in world.objects()


NAMES_THAT_COME_BACK = [
    "imports/{run}/drive1_a.pdf",
    "imports/{run}/extracted_a.pdf",
    "jobs/{job}/runs/{run}/gmail_imports/a.pdf",
]


@pytest.mark.parametrize("name", NAMES_THAT_COME_BACK)
def test_a_file_whose_name_can_come_back_goes_in_its_present_generation(world: CleanupWorld, name: str) -> None:
    """Once untouched; once written again between the look at it and its deletion."""
    job = world.job()
    world.submitted(job)
    for again in (False, True):
        run = world.draft(job)
        own = world.object_of(world.file(run, name.format(job=job, run=run)))
        before = generation(world, own)
        if again:
            world.front.before("DELETE", lambda asked: asked == own and world.put(own, age=0))  # noqa: B023
        outcome = world.run("abandoned_cleanup")
        (request,) = (request for request in deletes(world) if request.name == own)
        assert (request.query.get("ifGenerationMatch"), request.status) == (before, 412 if again else 204)
        assert (outcome.status, outcome.counts["objects_superseded"]) == (Status.COMPLETED, int(again))
        assert (own in world.objects()) is again


@pytest.mark.parametrize("name", NAMES_THAT_COME_BACK)
def test_a_file_that_is_imported_again_between_erasure_and_deletion_stays(world: CleanupWorld, name: str) -> None:
    job = world.job()
    run, other = world.draft(job), world.draft(job, age=0)
    own = world.object_of(world.file(run, name.format(job=job, run=run)))

    def import_again(asked: str | None) -> None:
        if asked == own and own not in world.named_objects():
            world.file(other, own)

    world.front.before("GET", import_again)
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.counts["jobs_cleaned"], outcome.counts["objects_superseded"]) == (
        Status.COMPLETED,
        1,
        1,
    )
    assert own not in {request.name for request in deletes(world)}
    assert own in world.objects()


@pytest.mark.parametrize("name", ["jobs/{job}/u.pdf", "jobs/{job}/runs/{run}/u.pdf", "jobs/{run}/extracted/u.pdf"])
def test_a_file_whose_name_is_never_given_again_goes_without_a_look_at_it(world: CleanupWorld, name: str) -> None:
    job = world.job()
    run = world.draft(job)
    own = world.object_of(world.file(run, name.format(job=job, run=run)))
    world.run("abandoned_cleanup")
    asked = [
        (request.method, request.query.get("ifGenerationMatch"))
        for request in world.front.requests
        if request.name == own
    ]
    assert asked == [("DELETE", None)]
