"""Histories that came out wrong once."""

import json

from shared.clock import format_rfc3339
from shared.outcome import Status
from tests.support.cleanup import CleanupWorld


def test_a_zip_whose_row_went_before_its_object_is_an_orphan(world: CleanupWorld) -> None:
    """It was in the outbox as a ZIP when a run died, and the service deleted its job before the next."""
    keep = world.submitted(world.job())
    world.file(keep)
    world.hold("run", keep)
    name = world.put("jobs/x/a.zip", age=100)
    world.add_maintenance(
        "object_deletions", bucket=world.bucket, object_name=name, kind="zip", run_id=1,
        source_file_id="00000000-0000-0000-0000-000000000001", next_attempt_at=world.ago(1), requested_at=world.ago(1),
    )  # fmt: skip
    world.run("artifact_cleanup")
    assert name not in world.objects()


def test_the_conversion_goes_though_the_name_of_its_file_is_needed_again(world: CleanupWorld) -> None:
    """A run died between rows and objects, and the same Drive file was imported into the same run again."""
    run = world.draft(world.job(age=1), age=1)
    name = f"imports/{run}/drive1_a.pdf"
    world.file(run, name)
    old = "00000000-0000-0000-0000-000000000001"
    conversion = world.put(f"jobs/{run}/conversions/{old}.pdf", age=1)
    world.add_maintenance(
        "object_deletions", bucket=world.bucket, object_name=name, kind="source", run_id=1, job_run_id=run,
        source_file_id=old, next_attempt_at=world.ago(1), requested_at=world.ago(1),
    )  # fmt: skip
    world.run("opt_out_cleanup")
    assert name in world.objects()
    assert conversion not in world.objects()


def test_the_conversion_goes_though_its_file_is_gone_already(world: CleanupWorld) -> None:
    """A run died between the two deletions, or only the second was refused, and the name is one that can come back."""
    run = world.submitted(world.job(), persist_data=False)
    file = world.file(run, f"imports/{run}/drive1_a.pdf")
    conversion = world.conversion(file)
    world.front.fail(503, name=conversion, times=5)
    world.run("opt_out_cleanup")
    assert conversion in world.objects()
    world.front.clear()
    world.clock.advance(minutes=3)
    world.run("opt_out_cleanup")
    assert conversion not in world.objects()


def test_a_sweep_that_goes_on_refuses_when_no_row_names_anything_any_more(world: CleanupWorld) -> None:
    """It was counted, and died; then the database lost all its rows."""
    names = {world.put(f"jobs/x/{number}.pdf") for number in range(3)}
    progress = {"started_at": format_rfc3339(world.ago(0)), "bucket": world.bucket, "counted": True}
    limits = {"listed": 3, "kinds": {}, "may_orphans": 20}
    world.add_maintenance("cursors", name="artifact_sweep", value=json.dumps(progress | limits))
    assert world.run("artifact_cleanup").status is Status.REFUSED
    assert world.objects() == names


def test_an_orphan_goes_though_its_name_waits_for_an_earlier_content(world: CleanupWorld) -> None:
    """A run died before it deleted the earlier one; the same import came, and was taken out of its draft again."""
    world.file(world.submitted(world.job()))
    name = world.put("imports/x/drive1_a.pdf")
    world.add_maintenance(
        "object_deletions", bucket=world.bucket, object_name=name, generation=1, kind="orphan", run_id=1,
        next_attempt_at=world.ago(1), requested_at=world.ago(1),
    )  # fmt: skip
    world.run("artifact_cleanup")
    assert name not in world.objects()
