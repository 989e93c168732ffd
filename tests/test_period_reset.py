"""period_reset: who is moved, to where, and who is left alone."""

from datetime import UTC, datetime, timedelta

import pytest

from devstack.accounts import DUE_KINDS, KINDS, STALE_PAID_KINDS, add_accounts
from shared.outcome import Status
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase

MAY = datetime(2026, 5, 1, tzinfo=UTC)
MAY_END = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
APRIL_END = datetime(2026, 4, 30, 23, 59, 59, tzinfo=UTC)
YEAR_AGO = datetime(2025, 5, 1, tzinfo=UTC)
YEAR_AGO_END = datetime(2025, 5, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end"),
    [(APRIL, APRIL_END), (YEAR_AGO, YEAR_AGO_END), (None, None), (APRIL, None), (None, APRIL_END), (MAY, None)],
    ids=["last month", "a year ago", "never had one", "no end", "no start", "this month with no end"],
)
def test_a_due_account_moves_to_this_month(
    database: TestDatabase, environment: Environment, start: datetime | None, end: datetime | None
) -> None:
    database.account("ann", "free", start, end)
    outcome = environment.run()
    assert (outcome.status, outcome.success, outcome.counts["updated_count"]) == (Status.COMPLETED, True, 1)
    assert outcome.message == "Period reset completed for 1 free user"
    assert database.period("ann") == (MAY, MAY_END)
    assert database.counters("ann") == {MAY: 0}
    counter = database.row("SELECT period_end FROM usage_counters WHERE user_id = 'ann'")
    assert counter["period_end"] == MAY_END
    assert database.value("SELECT updated_at FROM billing_accounts") == NOON


def test_pages_used_already_stay_used(database: TestDatabase, environment: Environment) -> None:
    database.account("ann", "free", APRIL, APRIL_END)
    database.use("ann", APRIL, 9)
    database.use("ann", MAY, 4)
    outcome = environment.run()
    assert (outcome.counts["updated_count"], outcome.counts["counters_created"]) == (1, 0)
    assert database.counters("ann") == {APRIL: 9, MAY: 4}


@pytest.mark.parametrize("status", ["active", "canceled", "past_due", "paused", "unpaid"])
def test_a_free_account_is_moved_whatever_its_status(
    database: TestDatabase, environment: Environment, status: str
) -> None:
    database.account("ann", "free", APRIL, APRIL_END, status=status)
    assert environment.run().counts["updated_count"] == 1


def test_paid_accounts_are_never_written_and_the_stale_ones_are_reported(
    database: TestDatabase, environment: Environment
) -> None:
    database.account("current", "pro", NOON - timedelta(days=10), NOON + timedelta(days=20))
    database.account("just ended", "pro", APRIL, NOON - timedelta(hours=47))
    database.account("stale", "basic", APRIL, NOON - timedelta(hours=49))
    database.account("no period", "basic", None, None)
    before = database.host_checksum()
    outcome = environment.run()
    assert (outcome.counts["updated_count"], outcome.counts["stale_paid_count"]) == (0, 1)
    assert database.host_checksum() == before


def test_an_account_in_its_month_is_not_touched(database: TestDatabase, environment: Environment) -> None:
    database.account("ann", "free", MAY, MAY_END)
    before = database.host_checksum()
    assert environment.run().counts["updated_count"] == 0
    assert database.host_checksum() == before


def test_in_the_last_second_of_a_month_the_period_is_right_though_its_end_is_past(
    database: TestDatabase, environment: Environment, clock: ManualClock
) -> None:
    database.account("ann", "free", MAY, MAY_END)
    database.account("bob", "free", APRIL, APRIL_END)
    clock.set(MAY_END + timedelta(milliseconds=500))
    assert environment.run(dry_run=True).counts["updated_count"] == 1
    outcome = environment.run()
    assert (outcome.counts["updated_count"], outcome.counts["due_count"]) == (1, 0)
    assert database.value("SELECT updated_at FROM billing_accounts WHERE user_id = 'ann'").year == 2020
    assert database.period("bob") == (MAY, MAY_END)


def test_from_december_to_january(database: TestDatabase, environment: Environment, clock: ManualClock) -> None:
    december = datetime(2026, 12, 1, tzinfo=UTC)
    database.account("ann", "free", december, datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    clock.set(datetime(2027, 1, 1, 0, 30, tzinfo=UTC))
    environment.run()
    january = datetime(2027, 1, 1, tzinfo=UTC)
    assert database.period("ann") == (january, datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC))
    assert database.counters("ann") == {january: 0}


def test_leap_february(database: TestDatabase, environment: Environment, clock: ManualClock) -> None:
    database.account("ann", "free", None, None)
    clock.set(datetime(2028, 2, 29, 23, 59, 59, 999999, tzinfo=UTC))
    environment.run()
    assert database.period("ann") == (
        datetime(2028, 2, 1, tzinfo=UTC),
        datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
    )


def test_every_kind_of_account_in_more_than_one_batch(database: TestDatabase, environment: Environment) -> None:
    count = 1500
    with database.engine.begin() as connection:
        for kind in KINDS:
            add_accounts(connection, kind, count, NOON)
    paid = "SELECT md5(string_agg(a::text, '|' ORDER BY user_id)) v FROM billing_accounts a WHERE plan_code <> 'free'"
    old_counters = (
        "SELECT md5(string_agg(c::text, '|' ORDER BY user_id, period_start)) v FROM usage_counters c "
        "WHERE pages_total = 7"
    )
    before = database.value(paid), database.value(old_counters)
    outcome = environment.run()
    due = count * len(DUE_KINDS)
    assert outcome.counts == {
        "updated_count": due,
        "counters_created": due,
        "failed_count": 0,
        "due_count": 0,
        "stale_paid_count": count * len(STALE_PAID_KINDS),
    }
    assert (database.value(paid), database.value(old_counters)) == before
    not_right = database.value(
        "SELECT count(*) FROM billing_accounts a WHERE plan_code = 'free' AND NOT (current_period_start = :s AND "
        "current_period_end = :e AND EXISTS (SELECT FROM usage_counters c WHERE c.user_id = a.user_id AND "
        "c.period_start = :s))",
        s=MAY,
        e=MAY_END,
    )
    assert not_right == 0


def test_a_second_run_changes_nothing(database: TestDatabase, environment: Environment) -> None:
    database.account("ann", "free", APRIL, APRIL_END)
    environment.run()
    before = database.host_checksum()
    assert environment.run().counts["updated_count"] == 0
    assert database.host_checksum() == before


def test_accounts_are_not_walked_again_once_none_is_due(database: TestDatabase, environment: Environment) -> None:
    database.note_updates("billing_accounts")
    assert environment.run().counts["updated_count"] == 0
    assert database.noted_updates() == 0
    database.account("ann", "free", APRIL, APRIL_END)
    assert environment.run().counts["updated_count"] == 1
    assert database.noted_updates() == 1


def test_plans_that_count_as_free_are_a_setting(database: TestDatabase, make_environment: MakeEnvironment) -> None:
    database.account("ann", "free", APRIL, APRIL_END)
    database.account("bob", "basic", APRIL, APRIL_END)
    database.account("eve", "pro", APRIL, APRIL_END)
    outcome = make_environment({"FREE_PLAN_CODES": "free, basic"}).run()
    assert outcome.counts["updated_count"] == 2
    assert database.period("eve") == (APRIL, APRIL_END)


def test_a_limit_is_kept_and_says_what_is_left(database: TestDatabase, environment: Environment) -> None:
    for number in range(7):
        database.account(f"user {number}", "free", APRIL, APRIL_END)
    outcome = environment.run(limit=3)
    assert (outcome.status, outcome.counts["updated_count"], outcome.counts["due_count"]) == (Status.COMPLETED, 3, 4)
    assert database.value("SELECT count(*) FROM billing_accounts WHERE current_period_start = :m", m=MAY) == 3


def test_hostile_user_ids(database: TestDatabase, environment: Environment) -> None:
    names = [
        "",
        " ",
        "'; DROP TABLE users; --",
        "\U0001f600",
        "a\nb",
        "{x,y}",
        '"',
        "\\",
        "é" * 64,
        ":name",
        "NULL",
        "%s",
    ]
    for name in names:
        database.account(name, "free", APRIL, APRIL_END)
    assert environment.run().counts["updated_count"] == len(names)
    assert all(database.period(name) == (MAY, MAY_END) for name in names)
