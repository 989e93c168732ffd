"""One invocation: overlap, failures, the deadline, the log."""

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import text

from devstack.accounts import add_accounts
from devstack.stack import Stack
from functions.registry import JOBS
from shared.context import Context
from shared.job import JobResult
from shared.outcome import Status
from shared.settings import RedisTarget
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.jobs import Gate, count_one, ordered
from tests.support.running import NEXT_FIRING, Background, fire


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


def test_a_secret_in_the_text_of_an_error_does_not_get_into_the_log(
    database: TestDatabase, environment: Environment, stack: Stack
) -> None:
    secrets = [database.target.password, RedisTarget(stack.redis_url).password, stack.redis_url]

    def fail(_: Context) -> JobResult:
        raise RuntimeError(f"cannot log in with {secrets}")

    outcome = fire(environment, ordered("a_job", fail))
    text = environment.log + str(outcome.as_json())
    assert "cannot log in" in text
    assert not [secret for secret in secrets if secret and secret in text]


def test_a_lock_that_is_not_to_be_had_is_unavailable(database: TestDatabase, environment: Environment) -> None:
    """As while a migration of ours runs."""
    with database.engine.connect() as other:
        other.execute(text("LOCK TABLE maintenance.identity IN ACCESS EXCLUSIVE MODE"))
        outcome = fire(environment, ordered("a_job", count_one))
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "postgres")
    assert "lock timeout" in outcome.message


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
    assert "time ran out" in first.message
    outcomes = [first]
    while outcomes[-1].status is Status.INCOMPLETE and len(outcomes) < 40:
        outcomes.append(fire(environment, JOBS["period_reset"]))
    assert outcomes[-1].status is Status.COMPLETED
    assert outcomes[-1].counts["updated_count"] == 12_000
    assert fire(environment, JOBS["period_reset"]).status is Status.REPLAYED


def test_a_run_stops_sixty_seconds_before_its_timeout(environment: Environment) -> None:
    left: list[float] = []
    job = ordered("a_job", lambda ctx: left.append(ctx.time_left()) or JobResult("done"))  # type: ignore[func-returns-value]
    fire(environment, job)
    assert left == [1710 - 60]


def test_time_that_has_run_out_does_not_come_back_with_a_clock_that_is_put_back(
    environment: Environment, clock: ManualClock
) -> None:
    """What stopped for want of time would be told as completed."""
    left: list[float] = []

    def put_back(ctx: Context) -> JobResult:
        for seconds in (1700, -300, 310):
            clock.advance(seconds=seconds)
            left.append(ctx.time_left())
        return JobResult("done")

    fire(environment, ordered("a_job", put_back))
    assert left == [-50, 0, -60]


def test_a_run_that_is_asked_to_stop_has_no_time_left_and_still_knows_when_its_deadline_is_long_past(
    environment: Environment, clock: ManualClock
) -> None:
    """What waits for a last answer gives up some seconds after the deadline: stopping must not take that end away."""
    left: list[float] = []

    def stopped(ctx: Context) -> JobResult:
        environment.services.stopping.set()
        left.append(ctx.time_left())
        clock.advance(seconds=1710)
        left.append(ctx.time_left())
        return JobResult("done")

    fire(environment, ordered("a_job", stopped))
    assert left == [0, -60]


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
