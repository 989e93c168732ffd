"""The slot ledger: a firing runs once, however often and whenever it is delivered."""

from collections import Counter
from datetime import timedelta

import pytest
import redis
from sqlalchemy import text

from shared.context import Context
from shared.invocation import parse_invocation
from shared.job import JobResult
from shared.outcome import Status
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.jobs import Gate, count_one, ordered
from tests.support.redis import lose_everything
from tests.support.running import NEXT_FIRING, WAITERS, Background, fire
from tests.support.wait import until


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


def test_a_completed_slot_is_replayed_while_the_job_runs_for_another(
    make_environment: MakeEnvironment, redis_client: "redis.Redis"
) -> None:
    """Redis has lost the result, and the lock is taken: the ledger is asked before the lock."""
    first = fire(make_environment(), ordered("a_job", count_one))
    lose_everything(redis_client)
    gate = Gate()
    job = ordered("a_job", gate)
    running = Background(make_environment(), job, NEXT_FIRING)
    assert gate.entered.wait(30)
    replay = fire(make_environment(), job)
    gate.let_go.set()
    assert (replay.status, replay.run_id) == (Status.REPLAYED, first.run_id)
    assert running.outcome().status is Status.COMPLETED


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
