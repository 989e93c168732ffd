"""Pruning of our own tables: each row that goes, and beside it each kind of row that stays."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from shared.outcome import Status
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase

JOB = "usage_counter_cleanup"
TICK = timedelta(microseconds=1)
RUNS_AGE, SENDS_AGE, OUTBOX_AGE = timedelta(days=400), timedelta(days=400), timedelta(days=90)
ENDED = (*("completed", "incomplete", "failed", "refused", "unavailable", "misconfigured", "fenced", "lost", "paused"),)


def add_run(database: TestDatabase, age: timedelta, status: str = "failed", **columns: object) -> int:
    """A recorded run that began so long ago; give its id."""
    values = {
        "job": "period_reset",
        "trigger": "schedule",
        "status": status,
        "dry_run": False,
        "counts": "{}",
        "started_at": NOON - age,
        "deadline_at": NOON - age,
        **columns,
    }
    named = ", ".join(f"CAST(:{name} AS jsonb)" if name == "counts" else f":{name}" for name in values)
    with database.engine.begin() as connection:
        sql = f"INSERT INTO maintenance.runs ({', '.join(values)}) VALUES ({named}) RETURNING id"
        return int(connection.execute(text(sql), values).scalar_one())


def runs(database: TestDatabase) -> set[int]:
    """The runs on record that are no cleanup's."""
    return {row["id"] for row in database.rows("SELECT id FROM maintenance.runs WHERE job <> :job", job=JOB)}


@pytest.mark.parametrize("status", ENDED)
def test_runs_older_than_400_days_go(database: TestDatabase, environment: Environment, status: str) -> None:
    last = add_run(database, timedelta(days=1), "completed")
    add_run(database, RUNS_AGE + TICK, status)
    young = add_run(database, RUNS_AGE, status)
    outcome = environment.run(JOB)
    assert (outcome.status, outcome.counts["runs_pruned"]) == (Status.COMPLETED, 1)
    assert runs(database) == {last, young}


def test_a_run_that_never_ended_stays(database: TestDatabase, environment: Environment) -> None:
    running = add_run(database, timedelta(days=900), "running", job="a_job")
    assert environment.run(JOB).counts["runs_pruned"] == 0
    assert runs(database) == {running}


def test_the_last_success_of_each_job_stays(database: TestDatabase, environment: Environment) -> None:
    """Each job's, each shard's, and of dry runs too: what is no full success does not stand for one."""
    days = timedelta(days=1)
    staying = {
        add_run(database, 500 * days, "completed"),
        add_run(database, 600 * days, "completed", job="stripe_reconcile"),
        add_run(database, 700 * days, "completed", shard=1),
        add_run(database, 800 * days, "completed", dry_run=True),
    }
    for status in ENDED:
        add_run(database, 900 * days, status)
    for status in set(ENDED) - {"completed"}:
        add_run(database, 450 * days, status)
    add_run(database, 450 * days, "completed", counts='{"limit": 3}')
    add_run(database, 450 * days, "completed", counts='{"all_failed": 1}')
    outcome = environment.run(JOB)
    assert outcome.counts["runs_pruned"] == 2 * len(ENDED) + 1
    assert runs(database) == staying


def test_a_younger_success_lets_the_old_one_go(database: TestDatabase, environment: Environment) -> None:
    add_run(database, timedelta(days=500), "completed")
    younger = add_run(database, timedelta(days=401), "completed")
    environment.run(JOB)
    assert runs(database) == {younger}
    youngest = add_run(database, timedelta(days=3), "completed")
    environment.run(JOB)
    assert runs(database) == {youngest}


def add_send(database: TestDatabase, name: str, state: str, verified_at: datetime | None) -> None:
    database.execute(
        "INSERT INTO maintenance.meter_sends (usage_event_id, user_id, stripe_customer_id, identifier, occurred_at, "
        "value, state, invoice_closes_at, accepted_at, verified_at) "
        "VALUES (gen_random_uuid(), 'ann', 'cus', :name, :at, 1, :state, :at, :at, :verified)",
        name=name,
        state=state,
        at=NOON - timedelta(days=2_000),
        verified=verified_at,
    )


def test_sends_verified_400_days_ago_go_and_everything_undecided_stays(
    database: TestDatabase, environment: Environment
) -> None:
    old = NOON - SENDS_AGE - TICK
    add_send(database, "old", "accepted", old)
    add_send(database, "just not", "accepted", old + TICK)
    add_send(database, "accepted, never seen", "accepted", None)
    others = ("pending", "sending", "in_doubt", "rejected", "expired", "blocked", "waived")
    for state in others:
        add_send(database, state, state, None)
        add_send(database, f"{state} again", state, old)
    assert environment.run(JOB).counts["sends_pruned"] == 1
    left = {row["identifier"] for row in database.rows("SELECT identifier FROM maintenance.meter_sends")}
    assert left == {"just not", "accepted, never seen", *others, *(f"{state} again" for state in others)}


def add_object(
    database: TestDatabase,
    name: str,
    done: timedelta | None = OUTBOX_AGE + TICK,
    state: str = "deleted",
    **more: object,
) -> None:
    """A row of the outbox, done with so long ago."""
    values = {
        "bucket": "b",
        "object_name": name,
        "kind": "source",
        "run_id": 1,
        "state": state,
        "next_attempt_at": NOON,
        "requested_at": NOON - timedelta(days=2_000),
        "done_at": None if done is None else NOON - done,
        **more,
    }
    database.execute(
        f"INSERT INTO maintenance.object_deletions ({', '.join(values)}) "
        f"VALUES ({', '.join(f':{name}' for name in values)})",
        **values,
    )


def objects(database: TestDatabase) -> set[str]:
    """The names in the outbox."""
    return {row["object_name"] for row in database.rows("SELECT object_name FROM maintenance.object_deletions")}


def test_objects_done_90_days_ago_go_and_everything_undecided_stays(
    database: TestDatabase, environment: Environment
) -> None:
    for state in ("deleted", "absent", "superseded"):
        add_object(database, state, state=state)
        add_object(database, f"{state} later", done=OUTBOX_AGE, state=state)
    for state in ("pending", "held", "failed"):
        add_object(database, state, done=None, state=state)
    assert environment.run(JOB).counts["outbox_pruned"] == 3
    assert objects(database) == {
        *("deleted later", "absent later", "superseded later"),
        *("pending", "held", "failed"),
    }


def test_a_zips_row_stays_while_the_service_shows_it(database: TestDatabase, environment: Environment) -> None:
    there, gone = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    database.account("ann")
    database.script(
        f"""
        INSERT INTO extraction_jobs (id, user_id) VALUES ('{there}', 'ann');
        INSERT INTO job_runs (id, job_id, config_step, status) VALUES ('{there}', '{there}', 'upload', 'pending');
        INSERT INTO source_files (id, job_run_id, original_filename, original_path, gcs_object_name, file_type,
            file_size_bytes, status, source_type)
        VALUES ('{there}', '{there}', 'a.zip', 'a.zip', 'a', 'application/zip', 1, 'unpacked', 'upload')
        """
    )
    add_object(database, "zip that is shown", kind="zip", source_file_id=there)
    add_object(database, "zip that is gone", kind="zip", source_file_id=gone)
    add_object(database, "zip of no file", kind="zip")
    add_object(database, "no zip", source_file_id=there)
    assert environment.run(JOB).counts["outbox_pruned"] == 3
    assert objects(database) == {"zip that is shown"}
    database.execute("DELETE FROM source_files")
    assert environment.run(JOB).counts["outbox_pruned"] == 1


def test_the_rows_of_an_erasure_stay_until_it_is_complete(database: TestDatabase, environment: Environment) -> None:
    for complete in (None, NOON - timedelta(days=99)):
        database.execute(
            "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at, "
            "completed_at) VALUES ('j', 1, gen_random_uuid(), '\\x00', 'run', '{}', :at, :complete)",
            at=NOON - timedelta(days=999),
            complete=complete,
        )
    open_one, complete_one = (row["id"] for row in database.rows("SELECT id FROM maintenance.erasures ORDER BY id"))
    add_object(database, "of the open one", erasure_id=open_one)
    add_object(database, "of the complete one", erasure_id=complete_one)
    assert environment.run(JOB).counts["outbox_pruned"] == 1
    assert objects(database) == {"of the open one"}
    # The proof itself stays for good.
    assert database.value("SELECT count(*) FROM maintenance.erasures") == 2


def test_drift_and_what_operators_did_stay(database: TestDatabase, environment: Environment) -> None:
    database.script(
        """
        INSERT INTO maintenance.drift
            (stripe_customer_id, period_start, period_end, ours, theirs, reason, seen_at, resolved_at)
        VALUES ('c', '2010-01-01', '2010-02-01', 1, 2, 'r', '2010-02-01', '2010-02-02');
        INSERT INTO maintenance.operator_actions (at, by, action) VALUES ('2010-01-01', 'ann', 'pause')
        """
    )
    environment.run(JOB)
    assert database.value("SELECT count(*) FROM maintenance.drift") == 1
    assert database.value("SELECT count(*) FROM maintenance.operator_actions") == 1


@pytest.fixture
def many(database: TestDatabase) -> int:
    """So many old rows in the outbox, on more pages than a range has at first, and as many that stay."""
    database.script(
        f"""
        INSERT INTO maintenance.object_deletions
            (bucket, object_name, kind, run_id, state, next_attempt_at, requested_at, done_at)
        SELECT 'b', md5(n::text), 'source', 1, 'deleted', now.now, now.now, now.now - mod(n, 2) * interval '91 days'
        FROM generate_series(1, 30000) AS n, (SELECT '{NOON.isoformat()}'::timestamptz) AS now (now)
        """
    )
    return 15_000


def test_more_than_one_range_goes(database: TestDatabase, environment: Environment, many: int) -> None:
    assert environment.run(JOB).counts["outbox_pruned"] == many
    assert len(objects(database)) == many


def test_time_ends_the_pruning_and_what_is_left_goes_next_week(make_environment: MakeEnvironment, many: int) -> None:
    hurried = make_environment({"JOB_TIMEOUT_SECONDS": "120"}, ManualClock(NOON, step=timedelta(seconds=14)))
    first = hurried.run(JOB)
    assert first.status is Status.COMPLETED
    assert 0 < first.counts["outbox_pruned"] < many
    assert make_environment().run(JOB).counts["outbox_pruned"] == many - first.counts["outbox_pruned"]


def test_a_row_that_is_held_ends_no_run(database: TestDatabase, environment: Environment) -> None:
    add_object(database, "held by another session")
    add_send(database, "old", "accepted", NOON - timedelta(days=500))
    with database.engine.connect() as other:
        other.exec_driver_sql("SELECT 1 FROM maintenance.object_deletions FOR UPDATE")
        outcome = environment.run(JOB)
    assert (outcome.status, outcome.counts["sends_pruned"], outcome.counts["outbox_pruned"]) == (Status.COMPLETED, 1, 0)
    assert environment.run(JOB).counts["outbox_pruned"] == 1


def test_a_dry_run_counts_them_and_a_limited_run_leaves_them(database: TestDatabase, environment: Environment) -> None:
    add_run(database, timedelta(days=401))
    add_send(database, "old", "accepted", NOON - timedelta(days=500))
    add_object(database, "old")
    names = ("runs_pruned", "sends_pruned", "outbox_pruned")
    counted = environment.run(JOB, dry_run=True).counts
    limited = environment.run(JOB, limit=1).counts
    real = environment.run(JOB).counts
    assert [[counts[name] for name in names] for counts in (counted, limited, real)] == [[1] * 3, [0] * 3, [1] * 3]
