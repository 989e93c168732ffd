"""usage_counter_cleanup: how much may go, dry runs, deadlines, settings."""

from datetime import timedelta

import pytest

from functions.registry import JOBS
from shared.outcome import Outcome, Status
from tests.cleanup.counters import ADD_USAGE, BOTH_WAYS, JOB, MAY, OLD, TICK, crowd, old_left, open_transaction, trigger
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.serving import Functions, request


def test_more_than_half_of_the_table_is_refused_and_nothing_goes(database: TestDatabase, functions: Functions) -> None:
    crowd(database, 10, OLD, MAY)
    database.use("user 1", OLD - TICK, 1)
    before = database.host_checksum()
    answer = request(functions.serve({"MAX_DELETE_FLOOR": "10"}, target=JOB), "POST")
    assert (answer.status, answer.fields["status"], answer.fields["success"]) == (500, "refused", False)
    assert (answer.fields["would_delete"], answer.fields["allowed"]) == (11, 10)
    assert "11 of 21 usage counters would be deleted, and at most 10" in answer.fields["message"]
    assert answer.fields["deleted_count"] == 0
    assert database.host_checksum() == before


@pytest.mark.parametrize(
    ("fraction", "floor", "allowed"),
    [("0.5", "0", True), ("0.49", "0", False), ("0.49", "9", False), ("0.49", "10", True), ("0", "0", False)],
)
def test_the_share_and_the_floor(
    database: TestDatabase, make_environment: MakeEnvironment, fraction: str, floor: str, allowed: bool
) -> None:
    crowd(database, 10, OLD, MAY)
    outcome = make_environment({"MAX_DELETE_FRACTION": fraction, "MAX_DELETE_FLOOR": floor}).run(JOB)
    assert outcome.status is (Status.COMPLETED if allowed else Status.REFUSED)
    assert old_left(database) == (0 if allowed else 10)


def test_an_operator_lets_so_many_go_and_no_more(database: TestDatabase, make_environment: MakeEnvironment) -> None:
    crowd(database, 10, OLD)
    environment = make_environment({"MAX_DELETE_FLOOR": "0"})
    refused = environment.run(JOB, allow_deletes=9)
    assert (refused.status, refused.details["allowed"], old_left(database)) == (Status.REFUSED, 9, 10)
    assert environment.run(JOB, allow_deletes=10).counts["deleted_count"] == 10


def test_what_comes_due_during_the_run_is_under_the_guard_too(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    crowd(database, 20, OLD)
    # Counters from long ago come back as they go, and one that is held keeps the run going over them.
    trigger(database, "INSERT INTO usage_counters VALUES (OLD.user_id, OLD.period_start - interval '1 day', now(), 0)")
    with open_transaction(database, ADD_USAGE, user="user 20", start=OLD, pages=1):
        outcome = make_environment({"MAX_DELETE_FLOOR": "0"}, virtual=True).run(JOB, allow_deletes=25)
    assert (outcome.status, outcome.counts["deleted_count"]) == (Status.INCOMPLETE, 25)
    assert outcome.message.endswith(": 20 more came due meanwhile, and wait")
    assert old_left(database) == outcome.counts["due_count"] == 20


def test_no_request_lifts_the_guard(database: TestDatabase, functions: Functions) -> None:
    crowd(database, 2, OLD)
    before = database.host_checksum()
    answer = request(functions.serve(target=JOB), "POST", body=b'{"allow_deletes": 5}')
    assert answer.status == 400
    assert "allow_deletes" in answer.fields["message"]
    assert database.host_checksum() == before


def add_our_own(database: TestDatabase) -> None:
    """A row in each of our tables that is to be pruned."""
    long_ago = NOON - timedelta(days=500)
    database.execute(
        "INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, deadline_at) "
        "VALUES ('period_reset', 'manual', 'failed', false, :at, :at)",
        at=long_ago,
    )
    database.execute(
        "INSERT INTO maintenance.meter_sends (usage_event_id, user_id, stripe_customer_id, identifier, occurred_at, "
        "value, state, invoice_closes_at, verified_at) "
        "VALUES (gen_random_uuid(), 'a', 'cus_a', 'i', :at, 1, 'accepted', :at, :at)",
        at=long_ago,
    )
    database.execute(
        "INSERT INTO maintenance.object_deletions (bucket, object_name, kind, run_id, state, next_attempt_at, "
        "requested_at, done_at) VALUES ('b', 'n', 'source', 1, 'deleted', :at, :at, :at)",
        at=long_ago,
    )


def ours(database: TestDatabase) -> list[object]:
    """All that is in our own tables, but for the ledger's newest runs."""
    tables = ("meter_sends", "object_deletions", "erasures", "fences", "cursors")
    rows = [database.rows(f"SELECT * FROM maintenance.{table} ORDER BY 1") for table in tables]
    return [*rows, database.rows("SELECT * FROM maintenance.runs WHERE started_at < :now", now=NOON)]


@pytest.mark.parametrize("limit", [None, 1, 3, 7, 8])
@BOTH_WAYS
def test_a_dry_run_counts_what_the_run_then_deletes_and_touches_nothing(
    database: TestDatabase, make_environment: MakeEnvironment, limit: int | None, changes: dict[str, str]
) -> None:
    crowd(database, 7, OLD, MAY)
    database.account("stale", "pro", OLD, OLD)
    database.use("stale", OLD, 1)
    add_our_own(database)
    environment = make_environment(changes)
    before = database.host_checksum(), ours(database)
    dry = environment.run(JOB, dry_run=True, limit=limit)
    assert (dry.status, dry.dry_run, dry.counts["due_count"]) == (Status.COMPLETED, True, 7)
    assert dry.message.startswith("Dry run: would delete ")
    assert (database.host_checksum(), ours(database)) == before
    real = environment.run(JOB, limit=limit)
    names = JOBS[JOB].counts
    assert {name: real.counts[name] for name in names} == {name: dry.counts[name] for name in names}
    assert real.counts["deleted_count"] == 7 - old_left(database) + 1 == min(7, limit or 7)
    assert real.counts["due_count"] == old_left(database) - 1
    assert real.counts["runs_pruned"] == (1 if limit is None else 0)
    assert ("limit reached" in real.message) == (limit in (1, 3))


def test_a_dry_run_at_another_time(database: TestDatabase, environment: Environment) -> None:
    crowd(database, 2, OLD, MAY)
    later, earlier = NOON + timedelta(days=1_000), OLD
    assert environment.run(JOB, dry_run=True, as_of=later).counts["deleted_count"] == 2
    assert environment.run(JOB, dry_run=True, as_of=earlier).counts["deleted_count"] == 0


def test_a_dry_run_says_that_a_run_would_refuse(database: TestDatabase, make_environment: MakeEnvironment) -> None:
    crowd(database, 9, OLD)
    dry = make_environment({"MAX_DELETE_FLOOR": "3"}).run(JOB, dry_run=True)
    assert dry.counts["deleted_count"] == 9
    assert dry.message == (
        "Dry run: would delete 9 usage counters from before 2025-04; a run would refuse that, because at most 4 may go "
        "in one"
    )


def test_in_report_mode_nothing_goes(database: TestDatabase, make_environment: MakeEnvironment) -> None:
    crowd(database, 9, OLD)
    outcome = make_environment({"MAINTENANCE_MODE": "report"}).run(JOB, slot=NOON)
    assert (outcome.dry_run, outcome.counts["deleted_count"], old_left(database)) == (True, 9, 9)


@pytest.mark.parametrize("step", [*(pytest.param(step, marks=pytest.mark.slow) for step in (4, 8)), 14])
@BOTH_WAYS
def test_a_run_that_runs_out_of_time_stops_and_the_next_attempt_goes_on(
    database: TestDatabase, make_environment: MakeEnvironment, step: int, changes: dict[str, str]
) -> None:
    crowd(database, 30_000, OLD, MAY, OLD - TICK)
    changes = {**changes, "JOB_TIMEOUT_SECONDS": "120", "MAX_DELETE_FRACTION": "1"}
    environment = make_environment(changes, ManualClock(NOON, step=timedelta(seconds=step)))
    outcomes: list[Outcome] = []
    while len(outcomes) < 40 and (not outcomes or outcomes[-1].status is Status.INCOMPLETE):
        outcomes.append(environment.run(JOB, slot=NOON))
        left = old_left(database)
        assert (outcomes[-1].counts["deleted_count"], outcomes[-1].counts["due_count"]) == (60_000 - left, left)
    assert len(outcomes) > (2 if step == 14 else 0)
    for stopped in outcomes[:-1]:
        assert not stopped.success
        assert stopped.message.endswith(f": time ran out, and {stopped.counts['due_count']} more wait")
    assert outcomes[-1].status is Status.COMPLETED
    assert outcomes[-1].message == "Usage counter cleanup deleted 60000 usage counters from before 2025-04"


@pytest.mark.parametrize("value", ["0", "-1", "x", "1201", "99999999", "1.5", "١٣"])
def test_a_retention_that_makes_no_sense_is_misconfigured_and_nothing_goes(
    database: TestDatabase, make_environment: MakeEnvironment, value: str
) -> None:
    crowd(database, 2, OLD, MAY)
    before = database.host_checksum()
    outcome = make_environment({"USAGE_COUNTER_RETENTION_MONTHS": value}).run(JOB)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "USAGE_COUNTER_RETENTION_MONTHS")
    assert "from 1 to 1200" in outcome.message
    assert database.host_checksum() == before
