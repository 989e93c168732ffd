"""artifact_cleanup: which objects leave the bucket, and which stay."""

from typing import Any

import pytest

from devstack.gcs_front import Recorded
from shared.outcome import Status
from tests.support.cleanup import CleanupWorld

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
