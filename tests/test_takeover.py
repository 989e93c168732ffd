"""The fence: a run that lost its lock cannot write, and what it did before stays on record."""

import threading

import pytest
import redis
from sqlalchemy import text

from shared.context import Context
from shared.errors import Fenced, Unavailable
from shared.job import JobResult
from shared.outcome import Status
from tests.conftest import Environment, MakeEnvironment
from tests.support.database import TestDatabase
from tests.support.jobs import Gate, count_one, ordered
from tests.support.redis import lose_everything
from tests.support.running import NEXT_FIRING, WAITERS, Background, fire
from tests.support.wait import until


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


def test_a_run_that_was_recorded_while_its_successor_waited_is_closed_as_lost_too(
    database: TestDatabase, environment: Environment
) -> None:
    """Two begin at once, without a lock between them. The first one's record is committed while the second waits."""
    with database.engine.begin() as other:
        other.execute(
            text(
                "INSERT INTO maintenance.runs "
                "(job, shard, step, trigger, status, dry_run, started_at, deadline_at, counts) "
                "VALUES ('a_job', 0, 0, 'manual', 'running', false, now(), now(), '{}')"
            )
        )
        other.execute(text("INSERT INTO maintenance.fences SELECT 'a_job', 0, max(id) FROM maintenance.runs"))
        second = Background(environment, ordered("a_job", count_one))
        until(lambda: database.value(WAITERS), "the second waits for the first one's fence")
    assert second.outcome().status is Status.COMPLETED
    statuses = [row["status"] for row in database.rows("SELECT status FROM maintenance.runs ORDER BY id")]
    assert statuses == ["lost", "completed"]


def test_the_fence_only_rises(database: TestDatabase, environment: Environment) -> None:
    """A newer run has begun already: this one does not start, and the fence stays where it is."""
    database.execute("INSERT INTO maintenance.fences VALUES ('a_job', 0, 1000)")
    outcome = fire(environment, ordered("a_job", count_one))
    assert (outcome.status, outcome.run_id) == (Status.FENCED, None)
    assert database.value("SELECT run_id FROM maintenance.fences") == 1000
    assert database.value("SELECT count(*) FROM maintenance.runs") == 0


def test_a_commit_whose_answer_was_lost_still_counts(database: TestDatabase, environment: Environment) -> None:
    """The batch is on record, and the run does not know: its connection broke at the commit."""

    def order(ctx: Context) -> JobResult:
        count_one(ctx)
        database.execute("UPDATE maintenance.runs SET counts = '{\"updated_count\": 7}'")
        raise Unavailable("postgres", "The connection was lost.")

    first = fire(environment, ordered("a_job", order))
    assert (first.status, first.counts["updated_count"]) == (Status.UNAVAILABLE, 7)
    second = fire(environment, ordered("a_job", count_one))
    assert (second.status, second.counts["updated_count"]) == (Status.COMPLETED, 8)


def test_the_record_of_a_run_held_by_another_is_not_taken_for_an_accounts_lock(
    database: TestDatabase, environment: Environment
) -> None:
    def order(ctx: Context) -> JobResult:
        with database.engine.connect() as other:
            other.execute(text("SELECT 1 FROM maintenance.runs FOR UPDATE"))
            return count_one(ctx)

    outcome = fire(environment, ordered("a_job", order))
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "postgres")
    assert "holds the record of run" in outcome.message


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
