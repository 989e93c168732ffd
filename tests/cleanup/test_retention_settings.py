"""How long things are kept: a setting that cannot be meant stops every cleanup before it has deleted anything."""

import pytest

from shared.outcome import Status
from tests.cleanup.test_artifacts import ZIP, deletes
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON

# What each job says it did, and the settings with the most that each may be.
DONE = {
    "usage_counter_cleanup": "deleted_count",
    "abandoned_cleanup": "jobs_cleaned",
    "artifact_cleanup": "artifacts_cleaned",
    "opt_out_cleanup": "jobs_cleaned",
}
MOST = {
    "USAGE_COUNTER_RETENTION_MONTHS": 1_200,
    "ABANDONED_AFTER_DAYS": 36_500,
    "ARTIFACT_RETENTION_DAYS": 36_500,
    "ORPHAN_AGE_DAYS": 36_500,
    "OPT_OUT_GRACE_DAYS": 36_500,
}
WRONG = (
    "0", "-1", "+1", "x", "1.5", "1,5", "1e3", "1_000", "0x10", "7 days", "7d", "1 2", "None", "nan", "inf", "--",
    "\u0667", "\u00b2", "000000000000", "1000000000", "9" * 30, "1000000000000000000000",
)  # fmt: skip
# An empty value counts as not set, everywhere: the default holds.
NOT_SET = ("", " ", "\t", " \n ")


def due_for_all(world: CleanupWorld) -> None:
    """Something for each of the jobs, due by any retention of up to two years."""
    old = 900
    world.file(world.draft(world.job(age=old), age=old))
    world.file(world.submitted(world.job(age=old), age=old, persist_data=False))
    kept = world.submitted(world.job(age=old), age=old)
    world.file(kept)
    world.file(kept, **ZIP)
    world.put("temp_uploads/ann/1_a.pdf", age=old)
    world.put("imports/x/a.pdf", age=old)
    world.database.use("ann", NOON.replace(year=2023), 7)


@pytest.mark.parametrize("setting", MOST)
def test_what_cannot_be_meant_is_misconfigured_and_nothing_is_deleted(world: CleanupWorld, setting: str) -> None:
    """By none of the jobs, whichever of them the setting is for."""
    due_for_all(world)
    before = world.checksum()
    for job in DONE:
        for value in (*WRONG, str(MOST[setting] + 1)):
            outcome = world.run(job, {setting: value}, dry_run=value == "x")
            assert (outcome.status, outcome.success) == (Status.MISCONFIGURED, False), value
            assert outcome.details["setting"] == setting
            assert outcome.message == f"{setting} must be a whole number from 1 to {MOST[setting]}."
    assert world.checksum() == before
    assert deletes(world) == []
    assert world.count("maintenance.fences") == 0
    # Nothing else was in the way.
    for job, count in DONE.items():
        assert world.run(job, {setting: "24"}).counts[count] > 0


@pytest.mark.parametrize("setting", MOST)
def test_an_empty_one_counts_as_not_set_and_blanks_around_it_as_nothing(world: CleanupWorld, setting: str) -> None:
    due_for_all(world)
    seen = {
        value: [world.run(job, {setting: value}, dry_run=True).counts[count] for job, count in DONE.items()]
        for value in (*NOT_SET, " 24 ", str(MOST[setting]), f"0{MOST[setting]}")
    }
    default = [world.run(job, dry_run=True).counts[count] for job, count in DONE.items()]
    assert {value: seen[value] for value in NOT_SET} == dict.fromkeys(NOT_SET, default)
    assert seen[" 24 "] == default
    # The longest that may be said keeps everything that it is about.
    longest = seen[str(MOST[setting])]
    assert [a < b for a, b in zip(longest, default, strict=True)].count(True) == 1
    assert seen[f"0{MOST[setting]}"] == longest
