"""artifact_cleanup's guard: the wrong database, or an old copy of the right one, must not empty the bucket."""

import pytest

from devstack.buckets import drop_bucket, put_many
from shared.outcome import Outcome, Status
from tests.cleanup.test_artifacts import ZIP, deletes
from tests.support.cleanup import CleanupWorld

NO_FLOORS = {"ORPHAN_MAX_FLOOR": "0", "MAX_DELETE_FLOOR": "0"}


def files(world: CleanupWorld, number: int) -> list[str]:
    """So many files of one run, with their objects."""
    run = world.submitted(world.job())
    return [world.file(run) for _ in range(number)]


def orphans(world: CleanupWorld, number: int, folder: str = "a") -> set[str]:
    """So many objects that no row names, all of them long there."""
    names = {f"imports/{folder}/{each:03}_x.pdf" for each in range(number)}
    put_many(world.front.upstream, world.bucket, names)
    return names


def conversions(world: CleanupWorld, number: int) -> set[str]:
    """So many by-products."""
    names = {f"jobs/a/conversions/{each:03}.pdf" for each in range(number)}
    put_many(world.front.upstream, world.bucket, names)
    return names


def forget(world: CleanupWorld, *gone: str) -> None:
    """Have rows of source_files that were never there."""
    for file in gone:
        world.database.execute("DELETE FROM source_files WHERE id = :file", file=file)


def assert_refused(outcome: Outcome, would_delete: int, allowed: int) -> None:
    """The answer is a refusal with these numbers."""
    answer = outcome.as_json()
    assert (answer["status"], answer["success"]) == ("refused", False)
    assert (answer["would_delete"], answer["allowed"]) == (would_delete, allowed)
    assert "was deleted" in outcome.message


# ---- another database


def test_empty_tables_against_a_full_bucket_are_refused(world: CleanupWorld) -> None:
    orphans(world, 30)
    conversions(world, 10)
    before = world.checksum()
    outcome = world.run("artifact_cleanup")
    assert_refused(outcome, 40, 0)
    assert f"the bucket {world.bucket} has 40" in outcome.message
    assert "DATABASE_URL" in outcome.message
    assert world.checksum() == before
    assert deletes(world) == []


@pytest.mark.parametrize("name", ["imports/a/x.pdf", "temp_uploads/ann/x.pdf", "backups/x.sql"])
def test_empty_tables_are_refused_under_the_floor_and_whoever_asks(world: CleanupWorld, name: str) -> None:
    world.put(name)
    world.submitted(world.job())
    for asked in ({}, {"allow_deletes": 1_000}, {"limit": 1}):
        outcome = world.run("artifact_cleanup", {"ORPHAN_MAX_FRACTION": "1", "MAX_DELETE_FRACTION": "1"}, **asked)
        assert_refused(outcome, 0 if name.startswith("backups") else 1, 0)
    assert world.objects() == {name}


def test_another_service_s_rows_do_not_make_it_the_right_database(world: CleanupWorld) -> None:
    """Rows there are, but they name nothing that is in the bucket."""
    run = world.submitted(world.job())
    for _ in range(50):
        world.file(run, stored=False)
    orphans(world, 30)
    before = world.checksum()
    assert_refused(world.run("artifact_cleanup"), 30, 20)
    assert world.checksum() == before


def test_a_half_year_old_copy_is_refused(world: CleanupWorld) -> None:
    """It knows nothing of the files that came since."""
    forget(world, *files(world, 50)[25:])
    before = world.checksum()
    outcome = world.run("artifact_cleanup")
    assert_refused(outcome, 25, 20)
    assert f"25 of 50 objects in {world.bucket}" in outcome.message
    assert "python -m ops run artifact --allow-deletes" in outcome.message
    assert world.checksum() == before
    assert deletes(world) == []


def test_a_copy_with_few_files_missing_is_not_told_from_a_service_that_deleted_them(world: CleanupWorld) -> None:
    there = files(world, 40)
    kept = {world.object_of(file) for file in there[20:]}
    forget(world, *there[:20])
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.counts["orphans_cleaned"]) == (Status.COMPLETED, 20)
    assert world.objects() == kept


# ---- at the limits


@pytest.mark.parametrize(
    ("number", "named", "fraction", "floor", "allowed"),
    [
        (2, 6, "0.25", 0, 2),
        (3, 6, "0.25", 0, 2),
        (3, 6, "0.25", 3, 3),
        (4, 6, "0.25", 3, 3),
        (1, 9, "0", 0, 0),
        (9, 1, "1", 0, 10),
    ],
)
def test_orphans_go_up_to_their_share_or_floor_and_no_further(
    world: CleanupWorld, number: int, named: int, fraction: str, floor: int, allowed: int
) -> None:
    files(world, named)
    names = orphans(world, number)
    settings = {"ORPHAN_MAX_FRACTION": fraction, "ORPHAN_MAX_FLOOR": str(floor)}
    outcome = world.run("artifact_cleanup", settings)
    if number <= allowed:
        assert (outcome.status, outcome.counts["orphans_cleaned"]) == (Status.COMPLETED, number)
        assert world.objects() == world.named_objects()
    else:
        assert_refused(outcome, number, allowed)
        assert names <= world.objects()


@pytest.mark.parametrize(
    ("number", "named", "floor", "allowed"),
    [(4, 4, 0, 4), (5, 4, 0, 4), (5, 4, 5, 5), (6, 4, 5, 5)],
)
def test_by_products_go_up_to_half_or_their_floor_and_no_further(
    world: CleanupWorld, number: int, named: int, floor: int, allowed: int
) -> None:
    """Unpacked ZIPs are by-products too."""
    run = world.submitted(world.job())
    files(world, named)
    zipped = world.object_of(world.file(run, **ZIP))
    names = {zipped, world.put("temp_uploads/ann/x.pdf")} | conversions(world, number - 2)
    outcome = world.run("artifact_cleanup", {"MAX_DELETE_FRACTION": "0.5", "MAX_DELETE_FLOOR": str(floor)})
    if number <= allowed:
        assert (outcome.status, outcome.counts["artifacts_cleaned"]) == (Status.COMPLETED, number)
        assert world.objects() == world.named_objects() - {zipped}
    else:
        assert_refused(outcome, number, allowed)
        assert f"of {number + named} objects in {world.bucket}" in outcome.message
        assert "by-products" in outcome.message
        assert names <= world.objects()


def test_orphans_and_by_products_each_have_a_limit_of_their_own(world: CleanupWorld) -> None:
    files(world, 2)
    orphans(world, 2)
    conversions(world, 4)
    shares = {"ORPHAN_MAX_FRACTION": "0.25", "MAX_DELETE_FRACTION": "0.5"}
    assert world.run("artifact_cleanup", NO_FLOORS | shares).counts["artifacts_cleaned"] == 6


# ---- what an operator may


def test_what_an_operator_allows_may_go_and_no_more(world: CleanupWorld) -> None:
    files(world, 1)
    orphans(world, 3)
    conversions(world, 2)
    before = world.checksum()
    fewer = world.run("artifact_cleanup", NO_FLOORS, allow_deletes=4)
    assert_refused(fewer, 5, 4)
    assert world.checksum() == before
    enough = world.run("artifact_cleanup", NO_FLOORS, allow_deletes=5)
    assert (enough.status, enough.counts["artifacts_cleaned"]) == (Status.COMPLETED, 5)
    assert world.objects() == world.named_objects()


def when_it_takes(world: CleanupWorld, *added: str) -> None:
    """Have more objects in the bucket after it was counted, before its listing is gone over again."""
    listed = iter(range(1_000))

    def add(name: str | None) -> None:
        # The bucket itself is asked for first; then come the listings.
        if name is None and next(listed) == 2:
            put_many(world.front.upstream, world.bucket, added)

    world.front.before("GET", add)


def test_what_comes_after_the_count_does_not_exceed_what_an_operator_allowed(world: CleanupWorld) -> None:
    files(world, 1)
    orphans(world, 3)
    when_it_takes(world, "imports/a/100_x.pdf", "jobs/a/conversions/late.pdf")
    outcome = world.run("artifact_cleanup", NO_FLOORS, allow_deletes=3)
    assert (outcome.status, outcome.counts["artifacts_cleaned"]) == (Status.COMPLETED, 3)
    assert world.objects() - world.named_objects() == {"imports/a/100_x.pdf", "jobs/a/conversions/late.pdf"}


def test_orphans_that_come_after_the_count_are_held_against_the_same_limit(world: CleanupWorld) -> None:
    files(world, 1)
    names = orphans(world, 3)
    when_it_takes(world, "imports/a/100_x.pdf")
    outcome = world.run("artifact_cleanup", {"ORPHAN_MAX_FLOOR": "3", "ORPHAN_MAX_FRACTION": "0"})
    assert (outcome.details["would_delete"], outcome.details["allowed"]) == (4, 3)
    assert outcome.status is Status.REFUSED
    assert {*names, "imports/a/100_x.pdf"} <= world.objects()


def test_a_limit_does_not_lift_the_guard(world: CleanupWorld) -> None:
    files(world, 1)
    names = orphans(world, 6)
    outcome = world.run("artifact_cleanup", {"ORPHAN_MAX_FLOOR": "2"}, limit=3)
    assert (outcome.status, outcome.details["allowed"]) == (Status.REFUSED, 2)
    assert names <= world.objects()


# ---- afterwards


def test_after_a_refusal_the_next_run_counts_anew(world: CleanupWorld) -> None:
    there = files(world, 30)
    backup = world.database.rows("SELECT * FROM source_files")
    forget(world, *there[1:])
    assert_refused(world.run("artifact_cleanup"), 29, 20)
    assert world.count("maintenance.cursors") == 0
    forget(world, there[0])
    for row in backup:
        world.add("source_files", **row)
    late = world.put("imports/a/x.pdf")
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.counts["artifacts_cleaned"]) == (Status.COMPLETED, 1)
    assert world.objects() == world.named_objects()
    assert late not in world.objects()


# ---- the bucket


@pytest.mark.parametrize("rows", [0, 3])
def test_an_empty_bucket_is_fine(world: CleanupWorld, rows: int) -> None:
    run = world.submitted(world.job())
    for _ in range(rows):
        world.file(run, stored=False)
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.success, outcome.counts["listed_count"]) == (Status.COMPLETED, True, 0)
    assert outcome.message == "Artifact cleanup deleted 0 objects"


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_missing_bucket_is_named(world: CleanupWorld, dry_run: bool) -> None:
    files(world, 2)
    drop_bucket(world.front.upstream, world.bucket)
    outcome = world.run("artifact_cleanup", dry_run=dry_run)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "GCS_BUCKET_NAME")
    assert f"There is no bucket {world.bucket}." in outcome.message
