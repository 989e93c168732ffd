"""What one sweep of the bucket leaves to the next: its place and its count, and never what was allowed it alone."""

import json

import pytest

from functions.cleanup import artifacts
from shared.outcome import Outcome, Status
from tests.support.cleanup import CleanupWorld

ORPHANS = [f"jobs/x/{number:03}.pdf" for number in range(40)]
SCRATCH = [f"temp_uploads/ann/{number:03}.pdf" for number in range(40)]


def fill(world: CleanupWorld, names: list[str], age: float = 100) -> None:
    """A file that stays, and these objects."""
    world.file(world.submitted(world.job()))
    for name in names:
        world.put(name, age=age)


def end_early(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, **fields: object) -> Outcome:
    """A run that has counted, and ends with the first object that it would delete."""
    monkeypatch.setattr(artifacts, "_DRAIN_AT", 1)
    world.front.fail(503)
    outcome = world.run("artifact_cleanup", **fields)  # type: ignore[arg-type]
    world.front.clear()
    world.clock.advance(hours=1)
    return outcome


def cursor(world: CleanupWorld) -> dict[str, object]:
    """Where the last sweep stopped."""
    return dict(json.loads(world.database.value("SELECT value FROM maintenance.cursors")))


@pytest.mark.parametrize("names", [ORPHANS, SCRATCH], ids=["orphans", "scratch"])
@pytest.mark.parametrize(
    ("fields", "number"), [({"allow_deletes": 500}, 40), ({"limit": 3}, 8)], ids=["an operator's", "a limited"]
)
def test_the_next_run_does_not_inherit_what_one_run_was_allowed(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], number: int, names: list[str]
) -> None:
    changes = {"MAX_DELETE_FLOOR": "10", "MAX_DELETE_FRACTION": "0.1"}
    fill(world, names[:number])
    assert end_early(world, monkeypatch, changes=changes, **fields).status in (Status.UNAVAILABLE, Status.INCOMPLETE)
    for name in names[:30]:
        world.put(name + "2")
    outcome = world.run("artifact_cleanup", changes)
    assert outcome.status is Status.REFUSED
    assert world.count("maintenance.cursors") == 0
    # What was found then is in the outbox and goes; nothing else.
    assert world.objects() >= {f"{name}2" for name in names[:30]}


def test_it_goes_on_the_next_day_where_it_stopped(world: CleanupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world, SCRATCH)
    end_early(world, monkeypatch)
    assert cursor(world)["counted"]
    world.clock.advance(hours=24)
    seen = len(world.front.requests)
    assert world.run("artifact_cleanup").status is Status.COMPLETED
    starts = [each.query.get("startOffset") for each in world.front.requests[seen:] if "/o" in each.path[-2:]]
    assert None not in starts
    assert not world.objects("temp_uploads/")


@pytest.mark.parametrize(
    ("changes", "later"),
    [({}, 37), ({"ARTIFACT_RETENTION_DAYS": "5"}, 1), ({"ORPHAN_MAX_FLOOR": "30"}, 1), ({"MAX_DELETE_FLOOR": "99"}, 1)],
    ids=["long ago", "another retention", "another guard for orphans", "another guard"],
)
def test_what_was_counted_long_ago_or_under_other_settings_is_counted_anew(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], later: int
) -> None:
    fill(world, SCRATCH)
    end_early(world, monkeypatch)
    world.clock.advance(hours=later)
    seen = len(world.front.requests)
    assert world.run("artifact_cleanup", changes).status is Status.COMPLETED
    starts = [each.query.get("startOffset") for each in world.front.requests[seen:] if "/o" in each.path[-2:]]
    assert starts == [None, None]


@pytest.mark.parametrize("saved", [{"bucket": "another"}, {"unknown": 1}, {"under": "other settings"}])
def test_a_cursor_that_is_not_this_ones_is_left_aside(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, saved: dict[str, object]
) -> None:
    fill(world, SCRATCH)
    end_early(world, monkeypatch)
    world.database.execute(
        "UPDATE maintenance.cursors SET value = :value", value=json.dumps({**cursor(world), "after": "zzz", **saved})
    )
    # Those of before are in the outbox already; the sweep that begins anew finds these too.
    for name in SCRATCH:
        world.put(f"{name}2")
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 80


@pytest.mark.parametrize(
    ("before", "more", "said"),
    [(ORPHANS[:15], ORPHANS[15:], "at most 20 orphans"), (SCRATCH[:15], SCRATCH[15:], "at most 20 may go")],
    ids=["orphans", "scratch"],
)
def test_what_comes_after_the_count_is_held_against_it(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, before: list[str], more: list[str], said: str
) -> None:
    changes = {"MAX_DELETE_FLOOR": "20", "MAX_DELETE_FRACTION": "0.1"}
    fill(world, before)
    end_early(world, monkeypatch, changes=changes)
    saved = cursor(world)
    world.database.execute(
        "UPDATE maintenance.cursors SET value = :value", value=json.dumps({**saved, "after": None, "taken": 0})
    )
    for name in more:
        world.put(name)
    outcome = world.run("artifact_cleanup", changes)
    assert (outcome.status, said in outcome.message) == (Status.REFUSED, True), outcome.message
    assert "came since all was counted" in outcome.message
    assert world.objects() >= set(more)


@pytest.mark.parametrize("names", [ORPHANS, SCRATCH], ids=["orphans", "scratch"])
def test_many_limited_runs_do_not_do_what_one_may_not(world: CleanupWorld, names: list[str]) -> None:
    changes = {"MAX_DELETE_FLOOR": "10", "MAX_DELETE_FRACTION": "0.1"}
    fill(world, names)
    outcome = world.run("artifact_cleanup", changes, limit=10)
    assert (outcome.status, outcome.details["would_delete"]) == (Status.REFUSED, 40)
    assert len(world.objects()) == 41


def test_a_dry_run_says_that_a_run_would_refuse(world: CleanupWorld) -> None:
    fill(world, ORPHANS)
    outcome = world.run("artifact_cleanup", dry_run=True)
    assert outcome.status is Status.COMPLETED
    assert outcome.message == (
        "Dry run: artifact cleanup would delete 40 objects; a run would refuse that, because at most 20 may go in one"
    )


def test_with_a_limit_only_what_the_run_itself_found_goes(world: CleanupWorld) -> None:
    fill(world, SCRATCH[:10])
    world.front.fail(503)
    world.run("artifact_cleanup")
    world.front.clear()
    world.clock.advance(hours=1)
    for name in SCRATCH[10:20]:
        world.put(name)
    assert world.run("artifact_cleanup", limit=2).counts["artifacts_cleaned"] == 2
    assert world.run("artifact_cleanup").counts["artifacts_cleaned"] == 18


def test_what_is_open_goes_before_a_sweep_that_takes_all_the_time(world: CleanupWorld) -> None:
    fill(world, SCRATCH)
    world.front.fail(503)
    world.run("artifact_cleanup")
    world.front.clear()
    world.clock.advance(hours=1)
    # The bucket itself is asked first, and then the time is up with the first page of the listing.
    world.front.before("GET", lambda _: world.clock.advance(minutes=20))
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.counts["objects_deleted"]) == (Status.INCOMPLETE, 40)
