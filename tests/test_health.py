"""The health check: each dependency, and whether each job is on time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.registry import JOBS
from shared.health import health, is_overdue
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase
from tests.support.serving import Functions, request

JOB = JOBS["period_reset"]
FIRING = datetime(2026, 5, 15, 0, 30, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def look(environment: Environment) -> dict[str, object]:
    report = health(environment.services, JOB, JOBS)
    jobs = report["jobs"]
    assert isinstance(jobs, list)
    return {**report, **jobs[0]}


def test_a_healthy_environment(database: TestDatabase, functions: Functions) -> None:
    database.account("ann", "free")
    served = functions.serve()
    answer = request(served, "GET")
    assert answer.status == 200
    assert answer.fields["checks"] == {"postgres": "ok", "redis": "ok"}
    job, other, *_ = answer.fields["jobs"]
    assert (other["job"], other["waiting"]["waiting_count"]) == ("stripe_reconcile", 0)
    assert job == {
        "job": "period_reset",
        "last_success": None,
        "since_success_minutes": None,
        "next_firing": "2026-05-16T00:30:00Z",
        "overdue": True,
        "waiting": {"due_count": 1, "stale_paid_count": 0},
    }
    line, *_ = [line for line in served.log_lines() if line["event"] == "health"]
    assert (line["severity"], line["job"], line["overdue"]) == ("WARNING", "period_reset", True)
    assert database.value("SELECT count(*) FROM maintenance.runs") == 0


def test_after_a_success_a_job_is_on_time_until_the_next_firing_has_had_its_attempts(
    environment: Environment, clock: ManualClock
) -> None:
    clock.set(FIRING)
    environment.run(slot=FIRING)
    assert look(environment)["overdue"] is False
    assert look(environment)["last_success"] == "2026-05-15T00:30:00Z"
    assert look(environment)["since_success_minutes"] == 0
    # Four attempts of half an hour, and three waits of four minutes.
    clock.set(FIRING + timedelta(days=1, hours=2, minutes=11))
    assert look(environment)["overdue"] is False
    assert look(environment)["since_success_minutes"] == 1440 + 131
    clock.set(FIRING + timedelta(days=1, hours=2, minutes=13))
    assert look(environment)["overdue"] is True


@pytest.mark.parametrize("fields", [{"limit": 1}, {"dry_run": True}], ids=["limited", "dry"])
def test_a_limited_or_dry_run_is_no_success(environment: Environment, fields: dict[str, Any]) -> None:
    environment.run(**fields)
    assert look(environment)["last_success"] is None
    assert look(environment)["overdue"] is True


def test_a_run_that_could_not_do_a_single_item_is_no_success(database: TestDatabase, environment: Environment) -> None:
    database.account("ann", "free")
    database.script("ALTER TABLE usage_counters ADD CONSTRAINT not_ann CHECK (user_id <> 'ann')")
    assert environment.run().counts["failed_count"] == 1
    assert look(environment)["last_success"] is None
    database.account("bob", "free")
    assert environment.run().counts["updated_count"] == 1
    assert look(environment)["last_success"] is not None


def test_in_report_mode_a_dry_run_is_what_there_is_to_do(make_environment: MakeEnvironment) -> None:
    report = make_environment({"MAINTENANCE_MODE": "report"})
    report.run()
    assert look(report)["overdue"] is False


def test_a_firing_that_asks_for_a_dry_run_is_no_success_where_runs_are_to_be_real(environment: Environment) -> None:
    """Somebody gave the Cloud Scheduler job a body: nothing would ever be done, and nobody told."""
    environment.run(slot=FIRING, dry_run=True)
    assert look(environment)["last_success"] is None
    assert look(environment)["overdue"] is True


def test_a_run_by_hand_in_report_mode_is_no_success_where_runs_are_to_be_real(
    make_environment: MakeEnvironment,
) -> None:
    make_environment({"MAINTENANCE_MODE": "report"}).run()
    assert look(make_environment())["overdue"] is True


@pytest.mark.parametrize("modes", [("report", "enforce"), ("enforce", "report")])
def test_a_change_of_the_mode_makes_no_job_late_that_was_on_time(
    modes: tuple[str, str], make_environment: MakeEnvironment, clock: ManualClock
) -> None:
    before, after = (make_environment({"MAINTENANCE_MODE": mode}) for mode in modes)
    before.run(slot=FIRING)
    assert look(after)["overdue"] is False
    clock.advance(days=2)
    assert look(after)["overdue"] is True


def test_a_firing_before_the_database_was_bound_here_counts_for_nothing() -> None:
    now = FIRING + timedelta(hours=12)
    assert is_overdue(JOB, now, LONG_AGO, None)
    assert not is_overdue(JOB, now, FIRING + timedelta(hours=1), None)


def test_an_attempt_that_began_minutes_early_by_its_clock_counts() -> None:
    now = FIRING + timedelta(hours=12)
    early = {"started_at": FIRING - timedelta(minutes=4), "slot": None}
    much_earlier = {"started_at": FIRING - timedelta(minutes=6), "slot": None}
    assert not is_overdue(JOB, now, LONG_AGO, early)
    assert is_overdue(JOB, now, LONG_AGO, much_earlier)
    assert not is_overdue(JOB, now, LONG_AGO, {**much_earlier, "slot": FIRING})


def test_more_attempts_mean_more_patience() -> None:
    now = FIRING + timedelta(minutes=45)
    impatient = replace(JOB, retries=0)
    yesterday = {"started_at": FIRING - timedelta(days=1), "slot": FIRING - timedelta(days=1)}
    assert not is_overdue(JOB, now, LONG_AGO, yesterday)
    assert is_overdue(impatient, now, LONG_AGO, yesterday)


def test_redis_down_is_told_and_is_not_the_end(make_environment: MakeEnvironment) -> None:
    report = look(make_environment({"REDIS_URL": "redis://:s3cret@127.0.0.1:1/0"}))
    assert report["success"] is True
    checks = report["checks"]
    assert isinstance(checks, dict)
    assert checks["redis"] == "Redis at 127.0.0.1:1 does not answer."


def test_where_the_login_may_not_look_what_waits_is_unknown(database: TestDatabase, environment: Environment) -> None:
    database.execute("ALTER TABLE billing_accounts RENAME TO elsewhere")
    assert look(environment)["waiting"] is None
    assert look(environment)["next_firing"] == "2026-05-16T00:30:00Z"
