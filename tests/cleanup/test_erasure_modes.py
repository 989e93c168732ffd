"""abandoned_cleanup and opt_out_cleanup in every mode: dry runs, limits, deadlines, what is not set up."""

from datetime import timedelta

import pytest

from devstack.buckets import create_bucket, drop_bucket
from functions.cleanup import erasing
from functions.registry import JOBS as REGISTRY
from shared.outcome import Status
from tests.cleanup.due_runs import both, drafts, due
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON, ManualClock

SAME = ("jobs_cleaned", "parents_deleted", "files_rehomed")


def mixed(world: CleanupWorld) -> None:
    """For each job something that goes, moves, waits, is held, and stays; and jobs that are empty."""
    for user in ("ann", "bob"):
        for _ in range(3):
            job = world.job(user)
            world.file(world.draft(job))
            world.file(world.draft(job, status="cancelled", persist_data=False))
        old = world.submitted(world.job(user), age=90, persist_data=False)
        world.task(old, world.file(old), world.file(old))
        world.appended(old, age=50)
        waits = world.submitted(world.job(user), age=90, persist_data=False)
        world.task(waits, world.file(waits))
        world.appended(waits, age=5, draft=True)
        together = world.submitted(world.job(user), age=90, persist_data=False)
        world.task(together, world.file(together))
        world.appended(together, age=80, persist_data=False)
        job = world.job(user)
        world.automation(job)
        world.file(world.submitted(job, persist_data=False))
        world.job(user)
        world.job(user, age=2)
        emptied_soon = world.job(user, age=2)
        world.file(world.draft(emptied_soon))
    held = world.job("eve")
    world.file(world.draft(held))
    world.file(world.submitted(held, persist_data=False))
    world.hold("user", "eve")


# ---- dry runs


@both
def test_a_dry_run_names_what_a_real_run_does_and_touches_nothing(world: CleanupWorld, job: str) -> None:
    mixed(world)
    before = world.checksum()
    dry = world.run(job, dry_run=True)
    assert (dry.status, dry.success, dry.dry_run) == (Status.COMPLETED, True, True)
    assert world.checksum() == before
    assert world.count("maintenance.fences") == 0
    real = world.run(job)
    assert real.status is Status.COMPLETED
    assert {name: dry.counts.get(name) for name in SAME} == {name: real.counts.get(name) for name in SAME}
    assert dry.counts["due_count"] == real.counts["jobs_cleaned"] + real.counts["waiting_on_draft"]
    assert dry.counts["waiting_on_draft"] == real.counts["waiting_on_draft"]
    assert dry.counts["held"] == real.counts["held"] == 1
    assert world.checksum() != before
    one = {"abandoned_cleanup": "draft", "opt_out_cleanup": "run"}[job]
    expected = f"Dry run: {job.replace('_cleanup', '').replace('_', '-')} cleanup would erase "
    assert dry.message == f"{expected}{real.counts['jobs_cleaned']} {one}s"


def test_the_mixed_world_has_something_of_everything(world: CleanupWorld) -> None:
    """What the tests around this one compare are not zeros."""
    mixed(world)
    first = world.run("abandoned_cleanup", dry_run=True)
    second = world.run("opt_out_cleanup", dry_run=True)
    assert {name: first.counts[name] for name in ("jobs_cleaned", "parents_deleted", "held")} == {
        "jobs_cleaned": 14,
        "parents_deleted": 8,
        "held": 1,
    }
    assert {name: second.counts[name] for name in ("jobs_cleaned", "files_rehomed", "waiting_on_draft", "held")} == {
        "jobs_cleaned": 14,
        "files_rehomed": 4,
        "waiting_on_draft": 2,
        "held": 1,
    }


@both
@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_a_dry_run_with_a_limit_names_what_a_real_run_with_it_does(world: CleanupWorld, job: str, limit: int) -> None:
    mixed(world)
    dry = world.run(job, dry_run=True, limit=limit)
    real = world.run(job, limit=limit)
    assert {name: dry.counts.get(name) for name in SAME} == {name: real.counts.get(name) for name in SAME}
    assert real.counts["jobs_cleaned"] == min(limit, 14)


@both
def test_in_report_mode_nothing_is_touched(world: CleanupWorld, job: str) -> None:
    mixed(world)
    before = world.checksum()
    outcome = world.run(job, {"MAINTENANCE_MODE": "report"}, slot=NOON)
    assert (outcome.status, outcome.dry_run, outcome.details["mode"]) == (Status.COMPLETED, True, "report")
    assert outcome.counts["jobs_cleaned"] == 14
    assert world.checksum() == before


@both
def test_a_dry_run_may_look_from_another_time(world: CleanupWorld, job: str) -> None:
    if job == "abandoned_cleanup":
        world.draft(world.job(), age=10)
    else:
        world.submitted(world.job(), age=-10, persist_data=False)
    days = [0, 16, 21]
    found = [world.run(job, dry_run=True, as_of=world.ago(-day)).counts["jobs_cleaned"] for day in days]
    assert found == [0, 0, 1]


# ---- limits


@both
def test_a_limit_is_kept_and_said(world: CleanupWorld, job: str) -> None:
    runs = due(world, job, 5)
    outcome = world.run(job, limit=2)
    assert (outcome.status, outcome.counts["jobs_cleaned"], outcome.counts["due_count"]) == (Status.COMPLETED, 2, 3)
    assert outcome.message.endswith("(limit reached)")
    assert [world.has("job_runs", run) for run in runs] == [False, False, True, True, True]
    assert len(world.objects()) == 3
    assert world.run(job, limit=3).message.endswith("erased 3 " + ("drafts" if job == "abandoned_cleanup" else "runs"))


def test_with_a_limit_only_the_jobs_of_what_it_erased_go(world: CleanupWorld) -> None:
    empty = world.job()
    drafts(world, 3)
    outcome = world.run("abandoned_cleanup", limit=2)
    assert (outcome.counts["jobs_cleaned"], outcome.counts["parents_deleted"]) == (2, 2)
    assert world.has("extraction_jobs", empty)


@pytest.mark.parametrize("batch", [2, 500])
def test_a_run_that_cannot_go_does_not_use_up_the_limit(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """The first one waits for a draft, the second is held by another session: the third goes in their place."""
    monkeypatch.setattr(erasing, "_RUNS_A_BATCH", batch)
    waits = world.submitted(world.job(), persist_data=False)
    world.task(waits, world.file(waits))
    world.appended(waits, age=5, draft=True)
    locked, third, fourth = due(world, "opt_out_cleanup", 3)
    with world.database.engine.connect() as other:
        other.exec_driver_sql(f"SELECT FROM job_runs WHERE id = '{locked}' FOR UPDATE")
        outcome = world.run("opt_out_cleanup", limit=1)
    assert outcome.counts["jobs_cleaned"] == 1
    assert [world.has("job_runs", run) for run in (waits, locked, third, fourth)] == [True, True, False, True]


# ---- deadlines


@both
def test_a_run_that_is_out_of_time_says_so_and_the_next_attempt_goes_on(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    monkeypatch.setattr(erasing, "_RUNS_A_BATCH", 2)
    due(world, job, 12)
    still = world.clock
    world.clock = ManualClock(step=timedelta(milliseconds=130))
    first = world.run(job, {"JOB_TIMEOUT_SECONDS": "61"}, slot=NOON)
    assert (first.status, first.success) == (Status.INCOMPLETE, False)
    assert 0 < first.counts["jobs_cleaned"] < 12
    assert first.counts["due_count"] == 12 - first.counts["jobs_cleaned"]
    assert f"{first.counts['due_count']} more wait" in first.message
    world.clock = still
    still.set(world.ago(-1))
    second = world.run(job, slot=NOON)
    assert (second.status, second.counts["jobs_cleaned"], second.counts["due_count"]) == (Status.COMPLETED, 12, 0)
    assert world.objects() == set()
    assert len(world.erasures()) == 12
    assert all(row["completed_at"] for row in world.erasures())


# ---- what is not set up


@both
@pytest.mark.parametrize(
    ("index", "column"),
    [
        ("usage_events", "task_id"),
        ("source_files_to_tasks", "task_id"),
        ("job_runs", "append_from_run_id"),
    ],
)
def test_without_an_index_it_does_not_start_and_names_the_command(
    world: CleanupWorld, job: str, index: str, column: str
) -> None:
    due(world, job, 2)
    name = world.database.value(
        "SELECT CAST(pg_index.indexrelid AS regclass)::text FROM pg_index JOIN pg_attribute AS attribute "
        "ON attribute.attrelid = pg_index.indrelid AND attribute.attnum = pg_index.indkey[0] "
        "WHERE pg_index.indrelid = to_regclass(:index) AND attribute.attname = :column",
        index=index,
        column=column,
    )
    world.database.execute(f"DROP INDEX {name}")
    before = world.checksum()
    for dry_run in (True, False):
        outcome = world.run(job, dry_run=dry_run)
        assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "indexes")
        assert f"{index}.{column}" in outcome.message
        assert "python -m ops migrate" in outcome.message
    assert world.checksum() == before


def test_an_index_that_is_not_valid_or_not_of_all_rows_does_not_count(world: CleanupWorld) -> None:
    drafts(world, 1)
    for sql in (
        "UPDATE pg_index SET indisvalid = false WHERE indrelid = to_regclass('usage_events') AND NOT indisunique",
        "CREATE INDEX a_part ON usage_events (task_id) WHERE pages > 5",
        "CREATE INDEX late ON usage_events (pages, task_id)",
    ):
        world.database.execute(sql)
        outcome = world.run("abandoned_cleanup")
        assert outcome.details["setting"] == "indexes", sql
        assert "usage_events.task_id" in outcome.message
    world.database.execute("CREATE INDEX right_one ON usage_events (task_id, pages)")
    assert world.run("abandoned_cleanup").counts["jobs_cleaned"] == 1


@both
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_missing_bucket_is_told_before_a_row_is_deleted(world: CleanupWorld, job: str, dry_run: bool) -> None:
    runs = due(world, job, 2)
    drop_bucket(world.front.upstream, world.bucket)
    outcome = world.run(job, dry_run=dry_run)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "GCS_BUCKET_NAME")
    assert world.bucket in outcome.message
    assert all(world.has("job_runs", run) for run in runs)
    assert world.outbox() == []


@both
def test_a_bucket_that_is_not_set_is_told(world: CleanupWorld, job: str) -> None:
    due(world, job, 2)
    before = world.checksum()
    outcome = world.run(job, {"GCS_BUCKET_NAME": None})
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "GCS_BUCKET_NAME")
    assert world.checksum() == before


@both
def test_another_bucket_than_the_databases_is_not_touched(world: CleanupWorld, job: str) -> None:
    due(world, job, 2)
    before = world.checksum()
    other = create_bucket(world.front.upstream, f"{world.bucket}-other")
    try:
        outcome = world.run(job, {"GCS_BUCKET_NAME": other})
    finally:
        drop_bucket(world.front.upstream, other)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "identity")
    assert {world.bucket, other} <= set(outcome.message.replace(",", " ").replace(".", " ").split())
    assert world.checksum() == before


@both
def test_a_database_that_is_bound_to_no_bucket_is_told(world: CleanupWorld, job: str) -> None:
    due(world, job, 2)
    world.database.execute("UPDATE maintenance.identity SET bucket = NULL")
    before = world.checksum()
    outcome = world.run(job)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "identity")
    assert "python -m ops migrate" in outcome.message
    assert world.checksum() == before


@both
def test_a_bucket_that_does_not_answer_is_told_before_a_row_is_deleted(world: CleanupWorld, job: str) -> None:
    due(world, job, 2)
    before = world.checksum()
    world.front.forbid("storage.buckets.get")
    outcome = world.run(job)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "bucket rights")
    assert "storage.buckets.get" in outcome.message
    assert world.checksum() == before


@both
@pytest.mark.parametrize("value", ["0", "-1", "x", "36501", "999999999999", "1.5", "1e3", "٣"])
@pytest.mark.parametrize("setting", ["ABANDONED_AFTER_DAYS", "OPT_OUT_GRACE_DAYS"])
def test_a_retention_that_cannot_be_meant_deletes_nothing(
    world: CleanupWorld, job: str, setting: str, value: str
) -> None:
    due(world, job, 1)
    before = world.checksum()
    outcome = world.run(job, {setting: value})
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, setting)
    assert "from 1 to 36500" in outcome.message
    assert world.checksum() == before


@both
@pytest.mark.parametrize("value", ["1", "36500"])
def test_the_shortest_and_the_longest_retention_work(world: CleanupWorld, job: str, value: str) -> None:
    due(world, job, 1)
    outcome = world.run(job, {"ABANDONED_AFTER_DAYS": value, "OPT_OUT_GRACE_DAYS": value})
    assert (outcome.status, outcome.counts["jobs_cleaned"]) == (Status.COMPLETED, 1 if value == "1" else 0)


@both
def test_the_health_check_says_what_waits(world: CleanupWorld, job: str) -> None:
    """The figures of a run that did nothing: what is due, what is held, and the objects of the outbox."""
    runs = due(world, job, 3)
    world.hold("run", runs[0])
    environment = world.environment()
    module = REGISTRY[job].load()
    with environment.services.database.transaction(read_only=True) as transaction:
        waiting = module.waiting(transaction, NOON, environment.services.settings)
    assert waiting == {"due_count": 2, "held": 1, "open_objects": 0, "kept_objects": 0, "oldest_open_minutes": 0}
