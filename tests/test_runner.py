"""One invocation behind its guards: repeats, overlap, takeover, deadline, pause, dry runs, foreign databases."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
import redis
from sqlalchemy import text

from devstack.accounts import KINDS, add_accounts
from devstack.stack import Stack
from functions.registry import JOBS
from shared.context import Context
from shared.errors import Fenced
from shared.invocation import Invocation, parse_invocation
from shared.job import Job, JobResult
from shared.outcome import Outcome, Status
from shared.runner import run_job
from shared.sql import Statement
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.jobs import Gate, count_one, ordered
from tests.support.redis import lose_everything
from tests.support.wait import until

FIRING = Invocation(trigger="schedule", slot=NOON)
NEXT_FIRING = Invocation(trigger="schedule", slot=NOON + timedelta(hours=2))
# Sessions that wait for a lock.
WAITERS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def fire(environment: Environment, job: Job, invocation: Invocation = FIRING) -> Outcome:
    return run_job(environment.services, job, invocation)


class Background:
    """An invocation in a thread."""

    def __init__(self, environment: Environment, job: Job, invocation: Invocation = FIRING) -> None:
        self._outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=lambda: self._outcomes.append(fire(environment, job, invocation)))
        self._thread.start()

    def outcome(self) -> Outcome:
        self._thread.join(60)
        return self._outcomes[0]


# ---- repeats


def test_of_twenty_simultaneous_deliveries_one_runs(database: TestDatabase, make_environment: MakeEnvironment) -> None:
    gate = Gate()
    job = ordered("a_job", gate)
    environments = [make_environment() for _ in range(20)]
    deliveries = [Background(environment, job) for environment in environments]
    assert gate.entered.wait(30)
    gate.let_go.set()
    outcomes = Counter(delivery.outcome().status for delivery in deliveries)
    assert gate.runs == 1
    assert outcomes[Status.COMPLETED] == 1
    assert outcomes[Status.BUSY] + outcomes[Status.REPLAYED] == 19
    assert database.value("SELECT count(*) FROM maintenance.runs") == 1


def test_a_completed_slot_is_answered_from_its_result(environment: Environment, redis_client: "redis.Redis") -> None:
    runs: list[Context] = []
    job = ordered("a_job", lambda ctx: runs.append(ctx) or count_one(ctx))  # type: ignore[func-returns-value]
    first = fire(environment, job)
    again = fire(environment, job)
    lose_everything(redis_client)
    without_redis = fire(environment, job)
    assert len(runs) == 1
    assert first.status is Status.COMPLETED
    for replay in (again, without_redis):
        assert (replay.status, replay.success, replay.message) == (Status.REPLAYED, True, "counted 1")
        assert (replay.run_id, replay.slot, replay.counts) == (first.run_id, NOON, first.counts)


def test_a_result_in_redis_lasts_for_its_time(environment: Environment, redis_client: "redis.Redis") -> None:
    fire(environment, ordered("a_job", count_one))
    key = "maintenance:a_job:0:result:2026-05-15T12:00:00Z"
    assert 24 * 3600 - 60 < redis_client.ttl(key) <= 24 * 3600


@pytest.mark.parametrize(
    "garbage",
    ["", "no json", "[]", "7", '{"job": "a_job"}', '{"success": true, "status": "completed"}', "[" * 100_000],
)
def test_garbage_under_our_keys_is_no_result(
    environment: Environment, redis_client: "redis.Redis", garbage: str
) -> None:
    redis_client.set("maintenance:a_job:0:result:2026-05-15T12:00:00Z", garbage)
    assert fire(environment, ordered("a_job", count_one)).status is Status.COMPLETED


def test_another_type_under_our_keys_is_no_result(environment: Environment, redis_client: "redis.Redis") -> None:
    redis_client.rpush("maintenance:a_job:0:result:2026-05-15T12:00:00Z", "x")
    assert fire(environment, ordered("a_job", count_one)).status is Status.COMPLETED


def test_a_result_of_another_database_in_a_shared_redis_is_not_ours(
    environment: Environment, redis_client: "redis.Redis"
) -> None:
    job = ordered("a_job", count_one)
    fire(environment, job)
    key = "maintenance:a_job:0:result:2026-05-15T12:00:00Z"
    stored = redis_client.get(key)
    assert isinstance(stored, str)
    theirs = stored.replace("maintenance_test_", "another_").replace("2026-05-15T12", "2026-05-15T14")
    redis_client.set(key.replace("T12", "T14"), theirs)
    assert fire(environment, job, NEXT_FIRING).status is Status.COMPLETED


def test_a_delivery_that_looked_before_another_run_completed_does_not_run(
    database: TestDatabase, environment: Environment
) -> None:
    """It finds no result and takes the lock; then another run completes the slot: the ledger is asked once more."""
    gate = Gate()
    job = ordered("a_job", gate)
    with database.engine.connect() as other_run:
        other_run.execute(text("LOCK TABLE maintenance.fences IN SHARE MODE"))
        late = Background(environment, job)
        until(lambda: database.value(WAITERS), "the late delivery has looked, and waits to raise the fence")
        other_run.execute(
            text(
                "INSERT INTO maintenance.runs (job, slot, trigger, status, dry_run, started_at, deadline_at, counts, "
                "message) VALUES ('a_job', :slot, 'schedule', 'completed', false, :slot, :slot, "
                "'{\"updated_count\": 5}', 'the other run')"
            ),
            {"slot": NOON},
        )
        other_run.commit()
        outcome = late.outcome()
    assert (outcome.status, outcome.message, gate.runs) == (Status.REPLAYED, "the other run", 0)
    assert outcome.counts["updated_count"] == 5
    assert database.value("SELECT count(*) FROM maintenance.runs") == 1
    assert database.value("SELECT count(*) FROM maintenance.fences") == 0


def test_a_forced_run_with_the_next_firings_time_does_not_suppress_that_firing(
    environment: Environment, make_environment: MakeEnvironment, clock: ManualClock
) -> None:
    job = ordered("a_job", count_one)
    forced = parse_invocation("2026-05-15T14:00:00Z", b"", clock.now())
    assert fire(environment, job, forced).status is Status.COMPLETED
    clock.set(NOON + timedelta(hours=2))
    firing = parse_invocation("2026-05-15T14:00:00Z", b"", clock.now())
    assert fire(make_environment(), job, firing).status is Status.COMPLETED


def test_force_runs_a_slot_that_is_done(database: TestDatabase, environment: Environment) -> None:
    job = ordered("a_job", count_one)
    fire(environment, job)
    forced = parse_invocation("2026-05-15T12:00:00Z", b'{"force": true}', NOON)
    outcome = fire(environment, job, forced)
    assert (outcome.status, outcome.slot) == (Status.COMPLETED, None)
    assert database.value("SELECT count(*) FROM maintenance.runs") == 2


def test_a_slots_counts_are_the_sum_of_its_attempts(environment: Environment, redis_client: "redis.Redis") -> None:
    attempts = iter([False, False, True])

    def order(ctx: Context) -> JobResult:
        with ctx.batch() as batch:
            batch.count(updated_count=10, counters_created=1)
        return JobResult(f"{ctx.total('updated_count')}", complete=next(attempts), gauges={"due_count": 3})

    job = ordered("a_job", order)
    outcomes = [fire(environment, job) for _ in range(3)]
    assert [outcome.status for outcome in outcomes] == [Status.INCOMPLETE, Status.INCOMPLETE, Status.COMPLETED]
    assert [outcome.counts["updated_count"] for outcome in outcomes] == [10, 20, 30]
    lose_everything(redis_client)
    replay = fire(environment, job)
    assert (replay.status, replay.message, replay.counts) == (Status.REPLAYED, "30", outcomes[2].counts)
    assert replay.counts["due_count"] == 3


# ---- overlap


def test_two_jobs_run_beside_each_other_but_not_one_job_twice(make_environment: MakeEnvironment) -> None:
    gate = Gate()
    first_job, second_job = ordered("a_job", gate), ordered("b_job", count_one)
    running = Background(make_environment(), first_job)
    assert gate.entered.wait(30)
    refused = fire(make_environment(), first_job, NEXT_FIRING)
    other = fire(make_environment(), second_job)
    gate.let_go.set()
    assert (refused.status, refused.success, refused.run_id) == (Status.BUSY, False, None)
    assert other.status is Status.COMPLETED
    assert running.outcome().status is Status.COMPLETED


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "postgres"])
def test_at_most_five_jobs_run_at_once(make_environment: MakeEnvironment, stack: Stack, with_redis: bool) -> None:
    changes = {"REDIS_URL": stack.redis_url} if with_redis else {"REDIS_URL": None, "K_SERVICE": "a-service"}
    gates = [Gate() for _ in range(6)]
    jobs = [ordered(f"job_{number}", gate) for number, gate in enumerate(gates)]
    running = [Background(make_environment(changes), job) for job in jobs[:5]]
    assert all(gate.entered.wait(30) for gate in gates[:5])
    sixth = fire(make_environment(changes), jobs[5])
    for gate in gates:
        gate.let_go.set()
    assert sixth.status is Status.BUSY
    assert "as many jobs are running" in sixth.message
    assert [each.outcome().status for each in running] == [Status.COMPLETED] * 5
    assert fire(make_environment(changes), jobs[5]).status is Status.COMPLETED


def test_one_failed_job_takes_no_other_along(make_environment: MakeEnvironment, database: TestDatabase) -> None:
    def fail(_: Context) -> JobResult:
        raise RuntimeError("a defect")

    environment = make_environment()
    failed = fire(environment, ordered("a_job", fail))
    assert failed.status is Status.FAILED
    assert fire(environment, ordered("b_job", count_one)).status is Status.COMPLETED
    assert fire(environment, ordered("a_job", count_one)).status is Status.COMPLETED
    row = database.row("SELECT * FROM maintenance.runs WHERE status = 'failed'")
    assert (row["error_type"], row["error_id"]) == ("RuntimeError", failed.details["error_id"])


def test_what_nobody_foresaw_is_told_by_an_id_and_logged_with_its_text(environment: Environment) -> None:
    def fail(_: Context) -> JobResult:
        raise RuntimeError("the text of the error")

    outcome = fire(environment, ordered("a_job", fail))
    assert (outcome.status, outcome.success) == (Status.FAILED, False)
    assert "the text of the error" not in str(outcome.as_json())
    error_id = outcome.details["error_id"]
    line = next(line for line in environment.lines() if line["event"] == "error")
    assert line["error_id"] == error_id
    assert "the text of the error" in line["message"]
    assert "in fail" in line["where"]
    assert "Traceback" not in environment.log


def test_a_lock_that_is_not_to_be_had_is_unavailable(database: TestDatabase, environment: Environment) -> None:
    """As while a migration of ours runs."""
    with database.engine.connect() as other:
        other.execute(text("LOCK TABLE maintenance.identity IN ACCESS EXCLUSIVE MODE"))
        outcome = fire(environment, ordered("a_job", count_one))
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "postgres")
    assert "lock timeout" in outcome.message


# ---- takeover


def test_a_takeover_closes_older_runs_as_lost_and_they_end_as_fenced(
    database: TestDatabase, make_environment: MakeEnvironment, redis_client: "redis.Redis"
) -> None:
    gate = Gate()
    stuck = Background(make_environment(), ordered("a_job", gate))
    assert gate.entered.wait(30)
    lose_everything(redis_client)  # as when the lock's time ran out
    gate_of_second = Gate()
    gate_of_second.let_go.set()
    second = fire(make_environment(), ordered("a_job", gate_of_second), NEXT_FIRING)
    gate.let_go.set()
    first = stuck.outcome()
    assert second.status is Status.COMPLETED
    assert (first.status, first.success) == (Status.FENCED, False)
    rows = database.rows("SELECT status, counts FROM maintenance.runs ORDER BY id")
    assert [row["status"] for row in rows] == ["lost", "completed"]
    assert rows[0]["counts"] == {}


def test_a_run_that_died_is_closed_as_lost_and_its_counts_stay_in_the_sum(
    database: TestDatabase, make_environment: MakeEnvironment, redis_client: "redis.Redis"
) -> None:
    class Killed(BaseException):
        """As final as a SIGKILL: nothing catches it."""

    def die(ctx: Context) -> JobResult:
        count_one(ctx)
        raise Killed

    with pytest.raises(Killed):
        fire(make_environment(), ordered("a_job", die))
    lose_everything(redis_client)
    outcome = fire(make_environment(), ordered("a_job", count_one))
    assert (outcome.status, outcome.counts["updated_count"]) == (Status.COMPLETED, 2)
    statuses = [row["status"] for row in database.rows("SELECT status FROM maintenance.runs ORDER BY id")]
    assert statuses == ["lost", "completed"]


def test_a_fenced_run_writes_nothing_and_gets_a_rollback(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    """The takeover comes between two batches: the first stays, the second does not happen."""
    database.account("ann", "free")

    def order(ctx: Context) -> JobResult:
        count_one(ctx)
        assert ctx.fence is not None
        database.execute("UPDATE maintenance.fences SET run_id = run_id + 1000")
        with pytest.raises(Fenced), ctx.batch():
            pytest.fail("a fenced run got a transaction")
        raise Fenced("as the batch said")

    outcome = fire(make_environment(), ordered("a_job", order))
    assert outcome.status is Status.FENCED


def test_nobody_takes_over_in_the_middle_of_a_transaction(
    database: TestDatabase, make_environment: MakeEnvironment, redis_client: "redis.Redis"
) -> None:
    in_batch, go_on = threading.Event(), threading.Event()

    def hold(ctx: Context) -> JobResult:
        with ctx.batch() as batch:
            in_batch.set()
            assert go_on.wait(30)
            batch.count(updated_count=7)
        return JobResult("done")

    first = Background(make_environment(), ordered("a_job", hold))
    assert in_batch.wait(30)
    lose_everything(redis_client)
    second = Background(make_environment(), ordered("a_job", hold), NEXT_FIRING)
    until(lambda: database.value(WAITERS), "the takeover waits for the transaction to end")
    ordered("a_job", count_one)
    go_on.set()
    first_outcome, second_outcome = first.outcome(), second.outcome()
    assert first_outcome.status is Status.FENCED
    assert second_outcome.status is Status.COMPLETED
    # What the first one committed before it was taken over is on record, though it never ended.
    lost = database.row("SELECT counts, status FROM maintenance.runs ORDER BY id LIMIT 1")
    assert (lost["status"], lost["counts"]) == ("lost", {"updated_count": 7})


# ---- the deadline


def test_a_run_that_runs_out_of_time_stops_and_the_next_attempt_goes_on(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    with database.engine.begin() as connection:
        add_accounts(connection, "free and due", 12_000, NOON)
    environment = make_environment({"JOB_TIMEOUT_SECONDS": "120"}, ManualClock(NOON, step=timedelta(seconds=14)))
    first = fire(environment, JOBS["period_reset"])
    moved = database.value("SELECT count(*) FROM billing_accounts WHERE current_period_start = '2026-05-01T00:00:00Z'")
    assert (first.status, first.success) == (Status.INCOMPLETE, False)
    assert 0 < first.counts["updated_count"] == moved < 12_000
    assert first.counts["due_count"] == 12_000 - moved
    assert "ran out of time" in first.message
    outcomes = [first]
    while outcomes[-1].status is Status.INCOMPLETE and len(outcomes) < 10:
        outcomes.append(fire(environment, JOBS["period_reset"]))
    assert outcomes[-1].status is Status.COMPLETED
    assert outcomes[-1].counts["updated_count"] == 12_000
    assert fire(environment, JOBS["period_reset"]).status is Status.REPLAYED


def test_a_run_stops_sixty_seconds_before_its_timeout(environment: Environment) -> None:
    left: list[float] = []
    job = ordered("a_job", lambda ctx: left.append(ctx.time_left()) or JobResult("done"))  # type: ignore[func-returns-value]
    fire(environment, job)
    assert left == [1710 - 60]


# ---- pause, dry run, report


def test_a_paused_job_does_not_run_until_its_time(
    database: TestDatabase, environment: Environment, clock: ManualClock
) -> None:
    job = ordered("a_job", count_one)
    database.execute(
        "INSERT INTO maintenance.controls VALUES ('a_job', :until, 'Ann', 'a migration')",
        until=NOON + timedelta(hours=1),
    )
    outcome = fire(environment, job)
    assert (outcome.status, outcome.success) == (Status.PAUSED, True)
    assert outcome.message == "a_job is paused until 2026-05-15T13:00:00Z by Ann: a migration"
    assert database.value("SELECT status FROM maintenance.runs") == "paused"
    assert fire(environment, ordered("b_job", count_one)).status is Status.COMPLETED
    clock.advance(hours=2)
    assert fire(environment, job).status is Status.COMPLETED


def test_a_dry_run_writes_nothing_and_takes_no_guard(
    database: TestDatabase, environment: Environment, redis_client: "redis.Redis"
) -> None:
    with database.engine.begin() as connection:
        for kind in KINDS:
            add_accounts(connection, kind, 10, NOON)
    before = database.host_checksum()
    outcome = fire(environment, JOBS["period_reset"], Invocation(trigger="schedule", slot=NOON, dry_run=True))
    assert (outcome.status, outcome.dry_run) == (Status.COMPLETED, True)
    assert outcome.counts["updated_count"] == outcome.counts["due_count"] == 40
    assert database.host_checksum() == before
    assert database.value("SELECT count(*) FROM maintenance.fences") == 0
    assert redis_client.keys("maintenance:*") == []
    assert fire(environment, JOBS["period_reset"]).counts["updated_count"] == 40


def test_in_a_dry_run_the_server_refuses_to_write(database: TestDatabase, environment: Environment) -> None:
    def write(ctx: Context) -> JobResult:
        with ctx.reading() as transaction:
            transaction.execute(Statement("write", "A write.", "UPDATE billing_accounts SET status = 'x'"))
        return JobResult("written")

    database.account("ann")
    before = database.host_checksum()
    outcome = fire(environment, ordered("a_job", write), Invocation(dry_run=True))
    assert not outcome.success
    assert database.host_checksum() == before


def test_in_report_mode_every_run_is_a_dry_run_and_says_so(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    database.account("ann", "free")
    before = database.host_checksum()
    report = make_environment({"MAINTENANCE_MODE": "report"})
    outcome = fire(report, JOBS["period_reset"])
    assert (outcome.status, outcome.dry_run, outcome.details["mode"]) == (Status.COMPLETED, True, "report")
    assert outcome.message.startswith("Dry run")
    assert database.host_checksum() == before
    assert fire(make_environment(), JOBS["period_reset"]).counts["updated_count"] == 1


def test_as_of_looks_from_another_time(database: TestDatabase, environment: Environment) -> None:
    database.account("ann", "free", NOON.replace(day=1, hour=0), NOON + timedelta(days=16))
    later = NOON + timedelta(days=30)
    now = fire(environment, JOBS["period_reset"], Invocation(dry_run=True))
    then = fire(environment, JOBS["period_reset"], Invocation(dry_run=True, as_of=later))
    past = fire(environment, JOBS["period_reset"], Invocation(dry_run=True, as_of=NOON - timedelta(days=3000)))
    assert [each.counts["updated_count"] for each in (now, then, past)] == [0, 1, 0]
    assert then.message == "Dry run: period reset would move 1 free user to 2026-06"


# ---- whose database


def test_a_database_of_another_environment_is_refused(database: TestDatabase, environment: Environment) -> None:
    database.account("ann", "free")
    database.execute("UPDATE maintenance.identity SET instance = 'production:5432'")
    before = database.host_checksum()
    outcome = fire(environment, JOBS["period_reset"])
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "identity")
    assert "belongs to another environment" in outcome.message
    assert "production:5432" in outcome.message
    assert database.host_checksum() == before
    assert database.value("SELECT count(*) FROM maintenance.runs") == 0


def test_a_database_bound_to_nothing_is_refused(database: TestDatabase, environment: Environment) -> None:
    database.execute("DELETE FROM maintenance.identity")
    outcome = fire(environment, JOBS["period_reset"])
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "identity")
    assert "python -m ops migrate" in outcome.message


def test_a_schema_older_than_the_code_is_refused(database: TestDatabase, environment: Environment) -> None:
    database.execute("UPDATE maintenance.alembic_version SET version_num = '0000'")
    outcome = fire(environment, JOBS["period_reset"])
    assert outcome.status is Status.MISCONFIGURED
    assert "python -m ops migrate" in outcome.message


# ---- the log


def test_a_run_has_one_start_and_one_finish_line(environment: Environment) -> None:
    outcome = fire(environment, ordered("a_job", count_one))
    fire(environment, ordered("a_job", count_one))
    events = Counter(line["event"] for line in environment.lines())
    assert events == {"start": 1, "finish": 1, "answer": 1}
    finish = next(line for line in environment.lines() if line["event"] == "finish")
    assert finish["severity"] == "INFO"
    assert finish["run_id"] == outcome.run_id
    assert finish["slot"] == "2026-05-15T12:00:00Z"
    assert (finish["job"], finish["status"], finish["updated_count"]) == ("a_job", "completed", 1)
