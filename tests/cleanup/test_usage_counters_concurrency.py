"""usage_counter_cleanup beside the live service, which adds to counters at any moment."""

import random
import threading
from collections import Counter
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from shared.outcome import Status
from tests.cleanup.counters import (
    ADD_USAGE,
    BOTH_WAYS,
    CUTOFF,
    JOB,
    MAY,
    OLD,
    TICK,
    crowd,
    in_background,
    old_left,
    open_transaction,
    trigger,
)
from tests.conftest import MakeEnvironment
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.wait import until


@BOTH_WAYS
def test_a_counter_that_is_being_added_to_is_left_and_all_others_go(
    database: TestDatabase, make_environment: MakeEnvironment, changes: dict[str, str]
) -> None:
    crowd(database, 300, OLD)
    environment = make_environment(changes, virtual=True)
    with open_transaction(database, ADD_USAGE, user="user 150", start=OLD, pages=5) as service:
        stopped = environment.run(JOB, slot=NOON)
        assert database.value("SELECT count(*) FROM usage_counters") == 1
        service.commit()
    assert (stopped.status, stopped.success) == (Status.INCOMPLETE, False)
    assert (stopped.counts["deleted_count"], stopped.counts["due_count"]) == (299, 1)
    assert stopped.message == (
        "Usage counter cleanup stopped after deleting 299 usage counters from before 2025-04: "
        "1 more stayed locked by other sessions"
    )
    assert database.counters("user 150") == {OLD: 12}
    resumed = environment.run(JOB, slot=NOON)
    assert (resumed.status, resumed.counts["deleted_count"]) == (Status.COMPLETED, 300)
    assert resumed.message == "Usage counter cleanup deleted 300 usage counters from before 2025-04"


@BOTH_WAYS
def test_a_counter_that_was_held_and_moved_is_met_in_a_later_pass(
    database: TestDatabase, make_environment: MakeEnvironment, changes: dict[str, str]
) -> None:
    crowd(database, 300, OLD)
    environment = make_environment(changes)
    with open_transaction(database, ADD_USAGE, user="user 1", start=OLD, pages=5) as service:
        run = in_background(lambda: environment.run(JOB))
        until(lambda: database.value("SELECT count(*) FROM usage_counters") == 1, "all but the one that is held went")
        service.commit()
        run.join()
    finish = environment.lines()[-1]
    assert (finish["status"], finish["deleted_count"], finish["due_count"]) == ("completed", 300, 0)
    assert old_left(database) == 0


@BOTH_WAYS
def test_a_table_that_is_locked_leaves_the_run_incomplete(
    database: TestDatabase, make_environment: MakeEnvironment, changes: dict[str, str]
) -> None:
    crowd(database, 3, OLD)
    with open_transaction(database, "LOCK TABLE usage_counters IN SHARE MODE"):
        outcome = make_environment(changes, virtual=True).run(JOB)
    assert (outcome.status, outcome.counts["deleted_count"], outcome.counts["due_count"]) == (Status.INCOMPLETE, 0, 3)


@BOTH_WAYS
def test_other_sessions_rows_are_waited_for_no_longer_than_a_range_takes(
    database: TestDatabase, make_environment: MakeEnvironment, changes: dict[str, str]
) -> None:
    """While the job waits for one row, others wait for all that its range holds already."""
    crowd(database, 2, OLD)
    database.script("CREATE TABLE seen (patience text)")
    trigger(database, "INSERT INTO seen VALUES (current_setting('lock_timeout'))")
    make_environment(changes).run(JOB)
    assert {row["patience"] for row in database.rows("SELECT patience FROM seen")} == {"20ms"}


@BOTH_WAYS
def test_usage_added_to_a_counter_that_is_just_being_deleted_is_kept(
    database: TestDatabase, make_environment: MakeEnvironment, changes: dict[str, str]
) -> None:
    crowd(database, 3, OLD, MAY)
    trigger(
        database,
        "PERFORM set_config('lock_timeout', '20s', true); PERFORM pg_advisory_xact_lock_shared(4711)",
    )
    environment = make_environment(changes)
    with open_transaction(database, "SELECT pg_advisory_lock(4711)") as held:
        run = in_background(lambda: environment.run(JOB))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype"
        until(lambda: database.value(f"{waits} = 'advisory'"), "the range's transaction is in the middle of its work")
        # This month's counters are added to without a wait.
        database.execute(ADD_USAGE, user="user 1", start=MAY, pages=5)
        usage = in_background(lambda: database.execute(ADD_USAGE, user="user 1", start=OLD, pages=5))
        until(lambda: database.value(f"{waits} IN ('transactionid', 'tuple')"), "the service waits for the old counter")
        held.execute(text("SELECT pg_advisory_unlock(4711)"))
        run.join()
        usage.join()
    assert database.counters("user 1") == {MAY: 12, OLD: 5}
    assert environment.lines()[-1]["deleted_count"] == 3


def test_users_who_are_deleted_meanwhile_hold_nothing_up(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    crowd(database, 50, OLD)
    environment = make_environment()
    with open_transaction(database, "DELETE FROM users WHERE id IN ('user 7', 'user 8')") as deletion:
        run = in_background(lambda: environment.run(JOB))
        until(lambda: database.value("SELECT count(*) FROM usage_counters") == 2, "everybody else's went")
        deletion.commit()
        run.join()
    finish = environment.lines()[-1]
    assert (finish["status"], finish["deleted_count"], finish["due_count"]) == ("completed", 48, 0)


@pytest.mark.parametrize("seed", range(2))
@BOTH_WAYS
def test_a_storm_of_usage(
    database: TestDatabase, make_environment: MakeEnvironment, seed: int, changes: dict[str, str]
) -> None:
    """Three writers add usage without a pause, while runs follow on one another: of no kept counter a page is lost."""
    crowd(database, 4_000, OLD, OLD - TICK, CUTOFF, MAY)
    database.account("stale", "pro", OLD, OLD)
    database.use("stale", OLD, 7)
    stop = threading.Event()
    added: list[Counter[tuple[str, datetime]]] = []

    def writer(number: int) -> None:
        chance = random.Random(f"{seed} {number}")  # noqa: S311  repeatable, not secret
        mine: Counter[tuple[str, datetime]] = Counter()
        added.append(mine)
        while not stop.is_set():
            user = chance.choice(("stale", f"user {chance.randrange(1, 4_001)}"))
            start = OLD if user == "stale" else chance.choice((OLD, CUTOFF, MAY))
            database.execute(ADD_USAGE, user=user, start=start, pages=3)
            mine[user, start] += 3

    writers = [in_background(lambda number=number: writer(number)) for number in range(3)]  # type: ignore[misc]
    environment = make_environment({**changes, "MAX_DELETE_FRACTION": "1"}, virtual=True)
    try:
        outcomes = [environment.run(JOB, slot=NOON + timedelta(seconds=number)) for number in range(3)]
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    assert {outcome.status for outcome in outcomes} <= {Status.COMPLETED, Status.INCOMPLETE}
    assert sum(outcome.counts["deleted_count"] for outcome in outcomes) >= 8_000
    final = environment.run(JOB)
    assert (final.status, final.counts["due_count"], old_left(database)) == (Status.COMPLETED, 0, 1)
    total: Counter[tuple[str, datetime]] = sum(added, Counter())
    kept = {(user, start): pages for (user, start), pages in total.items() if start >= CUTOFF or user == "stale"}
    assert kept
    assert {key: database.counters(key[0])[key[1]] for key in kept} == {key: 7 + pages for key, pages in kept.items()}
