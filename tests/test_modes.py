"""Pauses, dry runs, report mode, and databases that belong elsewhere."""

from datetime import timedelta

import redis

from devstack.accounts import KINDS, add_accounts
from functions.registry import JOBS
from shared.context import Context
from shared.invocation import Invocation
from shared.job import JobResult
from shared.outcome import Status
from shared.sql import Statement
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.jobs import count_one, ordered
from tests.support.running import fire


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
    assert outcome.slot is None
    assert database.value("SELECT count(*) FROM maintenance.runs WHERE slot IS NOT NULL") == 0
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
