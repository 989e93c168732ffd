"""artifact_cleanup in every mode: dry runs, limits, holds, small pages, and a run that ends in the middle."""

import pytest

from devstack import gcs_front
from functions.registry import JOBS
from shared.health import health
from shared.outcome import Status
from tests.cleanup.test_artifacts import ZIP, deletes
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON

SAME = (
    "artifacts_cleaned", "zips_cleaned", "conversions_cleaned", "temp_uploads_cleaned", "orphans_cleaned", "held",
    "listed_count",
)  # fmt: skip
A_JOB, A_RUN = "0a0a0a0a-0000-4000-8000-000000000001", "0a0a0a0a-0000-4000-8000-000000000002"


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of many pages, with few objects."""
    monkeypatch.setattr(gcs_front, "_PAGE", 2)


def mixed(world: CleanupWorld) -> set[str]:
    """Of each kind something that goes, is held, is too young, and stays; give the names of the ten that go."""
    run = world.submitted(world.job())
    for _ in range(3):
        world.file(run)
    zips = [world.object_of(world.file(run, **ZIP)) for _ in range(3)]
    world.file(run, **{**ZIP, "status": "unpacking"})
    gone = {
        *zips,
        world.put(f"jobs/{run}/conversions/a.pdf"),
        world.put(f"jobs/{run}/conversions/b.pdf"),
        world.put("temp_uploads/ann/1_a.pdf"),
        world.put("temp_uploads/bob/1_a.pdf"),
        world.put(f"jobs/{run}/extracted/a.pdf"),
        world.put(f"imports/{run}/a.pdf"),
        world.put(f"imports/{run}/b.pdf"),
    }
    held = world.submitted(world.job("eve"))
    world.hold("run", held)
    world.hold("user", "eve")
    world.file(held, **ZIP)
    world.put(f"imports/{held}/a.pdf")
    world.put("temp_uploads/eve/1_a.pdf")
    for name in ("jobs/x/conversions/c.pdf", "temp_uploads/ann/2_a.pdf", "imports/x/c.pdf"):
        world.put(name, age=3)
    world.put("backups/a.sql")
    return gone


# ---- dry runs


def test_a_dry_run_counts_what_a_real_run_then_takes_and_touches_nothing(
    world: CleanupWorld,
    small_pages: None,  # noqa: ARG001
) -> None:
    gone = mixed(world)
    there, before = world.objects(), world.checksum()
    dry = world.run("artifact_cleanup", dry_run=True)
    assert (dry.status, dry.success, dry.dry_run) == (Status.COMPLETED, True, True)
    assert dry.message == "Dry run: artifact cleanup would delete 10 objects"
    assert [dry.counts[name] for name in SAME] == [10, 3, 2, 2, 3, 3, 21]
    assert world.checksum() == before
    assert deletes(world) == []
    assert world.count("maintenance.fences") == 0
    real = world.run("artifact_cleanup")
    assert real.status is Status.COMPLETED
    assert {name: real.counts[name] for name in SAME} == {name: dry.counts[name] for name in SAME}
    assert world.objects() == there - gone


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_with_a_limit_both_take_as_many_of_the_same_kinds(
    world: CleanupWorld,
    small_pages: None,  # noqa: ARG001
    limit: int,
) -> None:
    gone = mixed(world)
    there = world.objects()
    dry = world.run("artifact_cleanup", dry_run=True, limit=limit)
    real = world.run("artifact_cleanup", limit=limit)
    taken = there - world.objects()
    assert len(taken) == real.counts["artifacts_cleaned"] == min(limit, 10)
    assert taken <= gone
    assert {name: dry.counts[name] for name in SAME[:5]} == {name: real.counts[name] for name in SAME[:5]}
    rest = world.run("artifact_cleanup")
    assert rest.counts["artifacts_cleaned"] == 10 - len(taken)
    assert world.objects() == there - gone


def test_in_report_mode_nothing_is_touched(world: CleanupWorld) -> None:
    mixed(world)
    before = world.checksum()
    outcome = world.run("artifact_cleanup", {"MAINTENANCE_MODE": "report"}, slot=NOON)
    assert (outcome.status, outcome.dry_run, outcome.details["mode"]) == (Status.COMPLETED, True, "report")
    assert outcome.counts["artifacts_cleaned"] == 10
    assert world.checksum() == before
    assert deletes(world) == []


def test_a_dry_run_may_look_from_another_time(world: CleanupWorld) -> None:
    world.file(world.submitted(world.job()))
    world.put("temp_uploads/ann/a.pdf", age=0)
    world.put("imports/x/a.pdf", age=0)
    seen = [world.run("artifact_cleanup", dry_run=True, as_of=world.ago(-day)).counts for day in (6, 8, 15)]
    assert [counts["artifacts_cleaned"] for counts in seen] == [0, 1, 2]


# ---- holds


def held_user(world: CleanupWorld, run: str) -> list[str]:
    world.hold("user", "ann")
    job = world.database.value("SELECT job_id FROM job_runs WHERE id = :run", run=run)
    return [
        world.object_of(world.file(run, **ZIP)),
        world.put("temp_uploads/ann/1_a.pdf"),
        world.put(f"imports/{run}/1_a.pdf"),
        world.put(f"jobs/{job}/a.pdf"),
        world.put(f"jobs/{run}/conversions/{world.file(run)}.pdf"),
    ]


def held_job(world: CleanupWorld, run: str) -> list[str]:
    job = str(world.database.value("SELECT job_id FROM job_runs WHERE id = :run", run=run))
    world.hold("job", job)
    # Of a job whose rows the service deleted, only the name tells.
    world.hold("job", A_JOB)
    return [
        world.object_of(world.file(run, **ZIP)),
        world.put(f"jobs/{job}/a.pdf"),
        world.put(f"imports/{run}/1_a.pdf"),
        world.put(f"jobs/{A_JOB}/runs/{A_RUN}/a.pdf"),
        world.put(f"jobs/x/conversions/{world.file(run)}.pdf"),
    ]


def held_run(world: CleanupWorld, run: str) -> list[str]:
    world.hold("run", run)
    world.hold("run", A_RUN)
    return [
        # Its row names the run, its name does not.
        world.object_of(world.file(run, f"jobs/{A_JOB}/a.zip", **ZIP)),
        world.put(f"jobs/{run}/extracted/a.pdf"),
        world.put(f"jobs/{run}/conversions/a.pdf"),
        world.put(f"jobs/{A_JOB}/runs/{A_RUN}/gmail_imports/a.pdf"),
        world.put(f"imports/{A_RUN}/extracted_a.pdf"),
    ]


@pytest.mark.parametrize("scope", [held_user, held_job, held_run])
def test_what_is_held_stays_for_as_long_as_it_is(world: CleanupWorld, scope: object) -> None:
    assert callable(scope)
    held = set(scope(world, world.submitted(world.job())))
    # What is like it, but another user's, job's or run's.
    job = world.job("bob")
    other = world.submitted(job)
    free = {
        world.object_of(world.file(other, **ZIP)),
        world.put("temp_uploads/ann2/1_a.pdf"),
        world.put(f"imports/{other}/1_a.pdf"),
        world.put(f"jobs/{other}/conversions/{world.file(other)}.pdf"),
        world.put(f"jobs/{job}/a.pdf"),
    }
    outcome = world.run("artifact_cleanup")
    assert (outcome.status, outcome.counts["held"], outcome.counts["artifacts_cleaned"]) == (Status.COMPLETED, 5, 5)
    assert held <= world.objects()
    assert not free & world.objects()
    world.database.execute("UPDATE maintenance.holds SET until = :now", now=NOON)
    world.hold("run", "0a0a0a0a-0000-4000-8000-000000000003")
    outcome = world.run("artifact_cleanup")
    assert (outcome.counts["held"], outcome.counts["artifacts_cleaned"]) == (0, 5)
    assert not held & world.objects()


# ---- a run that ends in the middle


def time_runs_out(world: CleanupWorld, page: int) -> None:
    """Let an hour pass before the listing's page of this number."""
    listings = iter(range(1_000))

    def wait(name: str | None) -> None:
        # The bucket itself is asked for first.
        if name is None and next(listings) == page:
            world.clock.advance(hours=1)

    world.front.before("GET", wait)


@pytest.mark.parametrize(("page", "step"), [(4, "was still being counted"), (14, "was still being looked through")])
def test_a_sweep_longer_than_a_deadline_goes_on_where_it_stopped(
    world: CleanupWorld,
    small_pages: None,  # noqa: ARG001
    page: int,
    step: str,
) -> None:
    gone = mixed(world)
    there = world.objects()
    time_runs_out(world, page)
    first = world.run("artifact_cleanup", slot=NOON)
    assert (first.status, first.success) == (Status.INCOMPLETE, False)
    assert f"the bucket {step} when time ran out" in first.message
    assert first.counts["artifacts_cleaned"] == 0
    world.front.requests.clear()
    second = world.run("artifact_cleanup", slot=NOON)
    assert (second.status, second.counts["artifacts_cleaned"]) == (Status.COMPLETED, 10)
    assert (second.counts["listed_count"], second.counts["held"]) == (21, 3)
    assert "startOffset" in next(each.query for each in world.front.requests if each.path.endswith("/o"))
    assert world.objects() == there - gone
    assert world.count("maintenance.cursors") == 0


def test_the_health_check_says_what_waits(world: CleanupWorld) -> None:
    world.file(world.submitted(world.job()))
    world.put("imports/x/a.pdf")
    world.front.fail(503)
    assert world.run("artifact_cleanup").status is Status.INCOMPLETE
    environment = world.environment()
    with environment.services.database.transaction(read_only=True) as transaction:
        waiting = JOBS["artifact_cleanup"].load().waiting(transaction, NOON, environment.services.settings)
    assert (waiting["open_objects"], waiting["oldest_open_minutes"]) == (1, 0)


def test_a_function_without_a_bucket_tells_what_waits_in_the_one_that_the_database_belongs_to(
    world: CleanupWorld,
) -> None:
    job = world.job()
    kept, file = world.submitted(job), world.submitted(world.job())
    world.file(kept, **ZIP)
    world.file(file, **ZIP)
    world.front.fail(503)
    assert world.run("artifact_cleanup").status is Status.INCOMPLETE
    world.clock.advance(hours=49)
    world.hold("run", file)
    world.run("artifact_cleanup")
    assert world.environment({"GCS_BUCKET_NAME": None}).services.settings.cleanup.bucket is None
    report = health(world.environment({"GCS_BUCKET_NAME": None}).services, JOBS["period_reset"], JOBS)
    lines = {line["job"]: line["waiting"] for line in report["jobs"]}  # type: ignore[attr-defined]
    for name in ("abandoned_cleanup", "artifact_cleanup", "opt_out_cleanup"):
        told = lines[name]
        assert (told["open_objects"], told["kept_objects"], told["oldest_open_minutes"]) == (2, 1, 49 * 60)
