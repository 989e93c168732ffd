"""period_reset beside the live service: usage, upgrades and downgrades at every point of a run."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text

from devstack.accounts import add_accounts
from functions.period_reset import sweep
from functions.period_reset.sweep import STATEMENTS
from shared.outcome import Status
from shared.postgres import Database, Row
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.wait import until

MAY = datetime(2026, 5, 1, tzinfo=UTC)
MAY_END = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
APRIL_END = datetime(2026, 4, 30, 23, 59, 59, tzinfo=UTC)
PAID_START = NOON
PAID_END = NOON + timedelta(days=30)

UPGRADE = (
    "UPDATE billing_accounts SET plan_code = 'pro', stripe_subscription_id = 'sub_1', "
    "current_period_start = :start, current_period_end = :end WHERE user_id = :user"
)
DOWNGRADE = (
    "UPDATE billing_accounts SET plan_code = 'free', stripe_subscription_id = NULL, "
    "current_period_start = :start, current_period_end = :end WHERE user_id = :user"
)
# What the service does with usage: in one transaction it reads the account's period and adds to that period's counter.
ADD_USAGE = (
    "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) "
    "SELECT user_id, current_period_start, current_period_end, :pages FROM billing_accounts WHERE user_id = :user "
    "ON CONFLICT (user_id, period_start) DO UPDATE SET pages_total = usage_counters.pages_total + excluded.pages_total "
    "RETURNING period_start"
)


@contextmanager
def open_transaction(database: TestDatabase, sql: str, **parameters: object) -> Iterator[Connection]:
    """A transaction of another session that has run a statement and is not over."""
    with database.engine.connect() as connection:
        connection.execute(text(sql), parameters)
        yield connection


@pytest.mark.slow
def test_one_that_is_held_keeps_nobody_far_behind_it_waiting(
    database: TestDatabase, make_environment: MakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its user is held, so it is tried by itself; before the next that is due lie more keys than one look goes over."""
    monkeypatch.setattr(sweep, "_KEYS_A_BATCH", 3)
    monkeypatch.setattr(sweep, "_FIRST_SIZE", 2)
    for number in range(20):
        is_due = number in (0, 19)
        start, end = (APRIL, APRIL_END) if is_due else (MAY, MAY_END)
        database.account(f"user {number:02}", "free", start, end)
    environment = make_environment(virtual=True)
    with open_transaction(database, "SELECT FROM users WHERE id = 'user 00' FOR UPDATE"):
        outcome = environment.run()
    assert (outcome.status, outcome.counts["updated_count"]) == (Status.INCOMPLETE, 1)
    rows = database.rows("SELECT user_id FROM billing_accounts WHERE current_period_start <> :may", may=MAY)
    assert [row["user_id"] for row in rows] == ["user 00"]


def in_background(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_an_upgrade_that_commits_during_the_run_keeps_its_stripe_period(
    database: TestDatabase, environment: Environment
) -> None:
    database.account("ann", "free", APRIL, APRIL_END)
    database.account("bob", "free", APRIL, APRIL_END)
    with open_transaction(database, UPGRADE, user="ann", start=PAID_START, end=PAID_END) as upgrade:
        run = in_background(environment.run)
        until(lambda: database.period("bob") == (MAY, MAY_END), "bob was moved while ann is being upgraded")
        upgrade.commit()
        run.join()
    assert database.period("ann") == (PAID_START, PAID_END)
    assert database.counters("ann") == {}
    assert environment.lines()[-1]["status"] == "completed"


def test_an_upgrade_that_is_rolled_back_is_moved_in_the_end(database: TestDatabase, environment: Environment) -> None:
    database.account("ann", "free", APRIL, APRIL_END)
    database.account("bob", "free", APRIL, APRIL_END)
    with open_transaction(database, UPGRADE, user="ann", start=PAID_START, end=PAID_END) as upgrade:
        run = in_background(environment.run)
        until(lambda: database.period("bob") == (MAY, MAY_END), "bob was moved while ann is being upgraded")
        upgrade.rollback()
        run.join()
    assert database.period("ann") == (MAY, MAY_END)


def test_an_upgrade_that_has_to_wait_for_the_batch_wins_afterwards(
    database: TestDatabase, environment: Environment
) -> None:
    for number in range(3):
        database.account(f"user {number}", "free", APRIL, APRIL_END)
    # The batch takes until the test says so, with all three rows locked.
    database.script(
        """
        CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.user_id = 'user 0' THEN PERFORM set_config('lock_timeout', '20s', true);
            PERFORM pg_advisory_xact_lock(4711); END IF;
            RETURN NEW;
        END $$;
        """
    )
    database.script("CREATE TRIGGER hold BEFORE UPDATE ON billing_accounts FOR EACH ROW EXECUTE FUNCTION hold()")
    with open_transaction(database, "SELECT pg_advisory_lock(4711)") as held:
        run = in_background(environment.run)
        until(lambda: waits_for_advisory_lock(database), "the batch waits inside its UPDATE")
        upgrade = in_background(lambda: database.execute(UPGRADE, user="user 1", start=PAID_START, end=PAID_END))
        until(lambda: waits_for_a_row(database), "the upgrade waits for the row that the batch holds")
        held.execute(text("SELECT pg_advisory_unlock(4711)"))
        run.join()
        upgrade.join()
    assert database.period("user 1") == (PAID_START, PAID_END)
    assert database.period("user 2") == (MAY, MAY_END)


def waits_for_advisory_lock(database: TestDatabase) -> bool:
    return bool(database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))


def waits_for_a_row(database: TestDatabase) -> bool:
    return bool(
        database.value("SELECT count(*) FROM pg_locks WHERE locktype IN ('transactionid', 'tuple') AND NOT granted")
    )


def test_an_account_downgraded_during_the_run_is_left_with_the_month_it_was_given(
    database: TestDatabase, environment: Environment
) -> None:
    database.account("ann", "pro", APRIL, NOON - timedelta(days=1))
    database.account("bob", "free", APRIL, APRIL_END)
    with open_transaction(database, DOWNGRADE, user="ann", start=MAY, end=MAY_END) as downgrade:
        run = in_background(environment.run)
        until(lambda: database.period("bob") == (MAY, MAY_END), "bob was moved meanwhile")
        downgrade.commit()
        run.join()
    assert database.period("ann") == (MAY, MAY_END)
    assert environment.lines()[-1]["status"] == "completed"


def test_usage_that_is_being_added_to_the_new_month_is_kept(database: TestDatabase, environment: Environment) -> None:
    """The counter of the new month is made by the service in a transaction that is still open when the job comes by."""
    database.account("ann", "free", APRIL, APRIL_END)
    add = "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES ('ann', :s, :s, 5)"
    with open_transaction(database, add, s=MAY) as usage:
        run = in_background(environment.run)
        until(lambda: waits_for_a_row(database), "the job meets the counter that is being made")
        usage.commit()
        run.join()
    assert database.counters("ann") == {MAY: 5}
    assert database.period("ann") == (MAY, MAY_END)


def test_accounts_that_stay_locked_leave_the_run_incomplete_and_the_rest_done(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    environment = make_environment(virtual=True)
    for number in range(5):
        database.account(f"user {number}", "free", APRIL, APRIL_END)
    with open_transaction(database, "SELECT 1 FROM billing_accounts WHERE user_id = 'user 3' FOR UPDATE"):
        outcome = environment.run(slot=NOON)
    assert (outcome.status, outcome.success) == (Status.INCOMPLETE, False)
    assert (outcome.counts["updated_count"], outcome.counts["due_count"]) == (4, 1)
    assert "1 more stayed locked" in outcome.message
    again = environment.run(slot=NOON)
    assert (again.status, again.counts["updated_count"]) == (Status.COMPLETED, 5)
    assert again.message == "Period reset completed for 5 free users"


def test_a_user_who_is_being_deleted_holds_nobody_up(database: TestDatabase, environment: Environment) -> None:
    """The counter's foreign key needs the user's row, which the deletion holds: the batch shrinks around that user."""
    for number in range(40):
        database.account(f"user {number:02}", "free", APRIL, APRIL_END)
    with open_transaction(database, "SELECT 1 FROM users WHERE id = 'user 17' FOR UPDATE") as deletion:
        run = in_background(environment.run)
        until(
            lambda: (
                database.value("SELECT count(*) FROM billing_accounts WHERE current_period_start = :m", m=MAY) == 39
            ),
            "everybody else was moved",
        )
        deletion.execute(text("DELETE FROM users WHERE id = 'user 17'"))
        deletion.commit()
        run.join()
    assert environment.lines()[-1]["status"] == "completed"
    assert environment.lines()[-1]["updated_count"] == 39


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_storm_of_usage_upgrades_and_downgrades(
    database: TestDatabase, make_environment: MakeEnvironment, seed: int
) -> None:
    """Three writers do what the service does, without a pause, while runs follow on one another."""
    count = 3_000
    with database.engine.begin() as connection:
        add_accounts(connection, "free and due", count, NOON)
        add_accounts(connection, "free, no period yet", count, NOON)
    users = [row["user_id"] for row in database.rows("SELECT user_id FROM billing_accounts ORDER BY 1")]
    pages_before = database.value("SELECT sum(pages_total) FROM usage_counters")
    stop = threading.Event()
    added: list[Counter[str]] = []
    paid: list[dict[str, tuple[datetime, datetime] | None]] = []

    def writer(number: int) -> None:
        chance = random.Random(f"{seed} {number}")  # noqa: S311  repeatable, not secret
        mine = users[number::3]
        pages: Counter[str] = Counter()
        last: dict[str, tuple[datetime, datetime] | None] = {}
        added.append(pages)
        paid.append(last)
        while not stop.is_set():
            user = chance.choice(mine)
            what = chance.random()
            if what < 0.2:
                start, end = NOON - timedelta(days=chance.randrange(20)), NOON + timedelta(days=10)
                last[user] = (start, end)
                database.execute(UPGRADE, user=user, start=start, end=end)
            elif what < 0.3:
                last[user] = None
                database.execute(DOWNGRADE, user=user, start=MAY, end=MAY_END)
            else:
                with database.engine.begin() as connection:
                    rows = connection.execute(
                        text(
                            ADD_USAGE.replace(
                                "WHERE user_id = :user", "WHERE user_id = :user AND current_period_start IS NOT NULL"
                            )
                        ),
                        {"user": user, "pages": 3},
                    ).all()
                pages["added"] += 3 * len(rows)

    writers = [in_background(lambda number=number: writer(number)) for number in range(3)]  # type: ignore[misc]
    environment = make_environment()
    try:
        outcomes = [environment.run(slot=NOON + timedelta(seconds=number)) for number in range(3)]
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    final = environment.run()
    assert all(outcome.status in (Status.COMPLETED, Status.INCOMPLETE) for outcome in outcomes)
    assert final.status is Status.COMPLETED
    assert final.counts["failed_count"] == 0
    total = database.value("SELECT sum(pages_total) FROM usage_counters")
    assert total == pages_before + sum(pages["added"] for pages in added)
    upgraded = {user: period for part in paid for user, period in part.items() if period}
    assert upgraded
    assert {user: database.period(user) for user in upgraded} == upgraded
    wrong = database.value(
        "SELECT count(*) FROM billing_accounts WHERE plan_code = 'free' AND current_period_start <> :m", m=MAY
    )
    assert wrong == 0


def batch_parameters() -> dict[str, object]:
    return {
        "from_start": True, "after": "", "only": None, "refused": [], "free_plans": ["free"], "now": NOON,
        "month_start": MAY, "month_end": MAY_END, "size": 10, "keys": 100,
    }  # fmt: skip


def test_a_batch_skips_what_others_hold_and_does_not_wait(database: TestDatabase) -> None:
    for number in range(3):
        database.account(f"user {number}", "free", APRIL, APRIL_END)
    client = Database(database.target)
    with (
        open_transaction(database, "SELECT 1 FROM billing_accounts WHERE user_id = 'user 1' FOR UPDATE"),
        client.transaction() as transaction,
    ):
        # To wait would be to lose the lock: every session of a job gives up after half a second.
        row = transaction.row(STATEMENTS["reset_batch"], **batch_parameters())
    client.dispose()
    assert row is not None
    # Found it was, and is passed by.
    assert (row["found"], row["moved"], row["last_key"]) == (3, 2, "user 2")


def test_the_write_repeats_the_condition(database: TestDatabase, environment: Environment) -> None:
    """Were the rows not locked first, an upgrade could commit between the choice and the write: the write sees it."""
    for number in range(3):
        database.account(f"user {number}", "free", APRIL, APRIL_END)
    database.script(
        """
        CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM set_config('lock_timeout', '20s', true);
            PERFORM pg_advisory_xact_lock_shared(4711);
            RETURN NEW;
        END $$
        """
    )
    database.script(
        "CREATE TRIGGER hold BEFORE UPDATE ON billing_accounts FOR EACH ROW "
        "WHEN (NEW.plan_code = 'free') EXECUTE FUNCTION hold()"
    )
    statement = STATEMENTS["reset_batch"]
    without_locks = replace(statement, text=statement.text.replace("FOR UPDATE SKIP LOCKED", ""))
    client = environment.services.database
    rows: list[Row | None] = []

    def write() -> None:
        with client.transaction() as transaction:
            rows.append(transaction.row(without_locks, **batch_parameters()))

    with open_transaction(database, "SELECT pg_advisory_lock(4711)") as held:
        batch = in_background(write)
        until(lambda: waits_for_advisory_lock(database), "the write has reached its first row")
        # The row that is being written is locked; the two others are upgraded.
        upgraded = database.execute(
            UPGRADE.replace("= :user", "IN (SELECT user_id FROM billing_accounts FOR UPDATE SKIP LOCKED)"),
            start=PAID_START,
            end=PAID_END,
        )
        held.execute(text("SELECT pg_advisory_unlock(4711)"))
        batch.join()
    assert upgraded == 2
    assert rows[0] is not None
    assert rows[0]["moved"] == 1
    paid = database.rows("SELECT current_period_start s FROM billing_accounts WHERE plan_code = 'pro'")
    assert [row["s"] for row in paid] == [PAID_START, PAID_START]
