"""usage_counter_cleanup: which counters go, and which stay."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from functions.cleanup.months import first_of_month
from functions.registry import JOBS
from shared.outcome import Status
from tests.cleanup.counters import BOTH_WAYS, CUTOFF, JOB, MAY, OLD, ROOMY, TICK, crowd, old_left
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase


@pytest.mark.parametrize(
    ("start", "goes"),
    [
        (datetime(2020, 1, 1, tzinfo=UTC), True),
        (CUTOFF - timedelta(days=31), True),
        (CUTOFF - TICK, True),
        (CUTOFF, False),
        (CUTOFF + TICK, False),
        (MAY, False),
        (NOON + timedelta(days=400), False),
    ],
)
@BOTH_WAYS
def test_the_boundary_is_the_first_moment_of_the_month_thirteen_months_ago(
    database: TestDatabase, make_environment: MakeEnvironment, start: datetime, goes: bool, changes: dict[str, str]
) -> None:
    crowd(database, 1, start)
    outcome = make_environment(changes).run(JOB)
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert (outcome.counts["deleted_count"], outcome.counts["due_count"]) == (int(goes), 0)
    assert database.counters("user 1") == ({} if goes else {start: 7})


def test_the_boundary_moves_with_the_first_moment_of_a_month(
    database: TestDatabase, environment: Environment, clock: ManualClock
) -> None:
    crowd(database, 1, CUTOFF)
    clock.set(MAY + timedelta(days=31) - TICK)
    assert environment.run(JOB).counts["deleted_count"] == 0
    clock.advance(microseconds=1)
    assert environment.run(JOB).counts["deleted_count"] == 1


@pytest.mark.parametrize(("months", "cutoff"), [("1", datetime(2026, 4, 1, tzinfo=UTC)), ("1200", None)])
def test_the_retention_is_a_setting(
    database: TestDatabase, make_environment: MakeEnvironment, months: str, cutoff: datetime | None
) -> None:
    starts = [MAY.replace(month=month) for month in (2, 3, 4, 5)] + [datetime(1926, 5, 1, tzinfo=UTC)]
    crowd(database, 1, *starts)
    outcome = make_environment({"USAGE_COUNTER_RETENTION_MONTHS": months}).run(JOB)
    assert outcome.status is Status.COMPLETED
    assert set(database.counters("user 1")) == {start for start in starts if cutoff is None or start >= cutoff}


def test_a_retention_that_reaches_behind_the_calendar_deletes_nothing(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    crowd(database, 2, OLD)
    year_one = make_environment(
        {"USAGE_COUNTER_RETENTION_MONTHS": "1200"}, ManualClock(datetime(1970, 1, 1, tzinfo=UTC))
    )
    outcome = year_one.run(JOB, dry_run=True)
    assert (outcome.status, outcome.counts["deleted_count"]) == (Status.COMPLETED, 0)


@pytest.mark.parametrize(("count", "words"), [(0, "0 usage counters"), (1, "1 usage counter"), (2, "2 usage counters")])
def test_the_answer_is_a_sentence(database: TestDatabase, environment: Environment, count: int, words: str) -> None:
    crowd(database, count, OLD)
    outcome = environment.run(JOB)
    assert outcome.counts["deleted_count"] == count
    assert outcome.message == f"Usage counter cleanup deleted {words} from before 2025-04"


@BOTH_WAYS
def test_the_counter_of_an_accounts_current_period_stays_however_old(
    database: TestDatabase, make_environment: MakeEnvironment, changes: dict[str, str]
) -> None:
    odd = OLD + timedelta(days=3, microseconds=123_457)
    database.account("stale", "pro", OLD, OLD + timedelta(days=30))
    database.account("odd", "basic", odd, None, status="canceled")
    database.account("never had one", "free", None, None)
    for user in ("stale", "odd", "never had one"):
        database.use(user, OLD, 3)
        database.use(user, odd, 4)
    outcome = make_environment(changes).run(JOB)
    assert (outcome.counts["deleted_count"], outcome.counts["due_count"]) == (4, 0)
    assert database.counters("stale") == {OLD: 3}
    assert database.counters("odd") == {odd: 4}
    assert database.counters("never had one") == {}


def test_hostile_user_ids_are_told_apart(database: TestDatabase, environment: Environment) -> None:
    names = [
        *(
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
            "null",
        ),
        *("a,b", '","', "%s", "{}"),
    ]
    for name in names:
        database.account(name, "pro", OLD, OLD)
        database.use(name, OLD, 1)
        database.use(name, OLD - TICK, 2)
    assert environment.run(JOB).counts["deleted_count"] == len(names)
    assert [database.counters(name) for name in names] == [{OLD: 1}] * len(names)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_is_what_a_plain_model_says(
    database: TestDatabase, make_environment: MakeEnvironment, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  repeatable, not secret
    retention = chance.choice((1, 2, 13, 24))
    moments = [first_of_month(NOON, number) for number in range(30)]
    moments += [moment + chance.choice((-1, 1)) * TICK for moment in moments]
    counters, current = [], {}
    for number in range(120):
        user = f"user {number}"
        current[user] = chance.choice((*moments, None))
        database.account(user, chance.choice(("free", "pro")), current[user], None)
        counters += [(user, start) for start in chance.sample(moments, chance.randrange(8))]
    database.execute(
        "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) "
        "SELECT u, s, s, 1 FROM unnest(CAST(:users AS text[]), CAST(:starts AS timestamptz[])) AS t (u, s)",
        users=[user for user, _ in counters],
        starts=[start for _, start in counters],
    )
    changes = {**chance.choice((ROOMY, {})), "USAGE_COUNTER_RETENTION_MONTHS": str(retention)}
    outcome = make_environment(changes).run(JOB)
    cutoff = first_of_month(NOON, retention)
    expected = {(user, start) for user, start in counters if start >= cutoff or start == current[user]}
    rows = database.rows("SELECT user_id u, period_start s FROM usage_counters")
    assert {(row["u"], row["s"]) for row in rows} == expected
    assert outcome.counts["deleted_count"] == len(counters) - len(expected)


def test_an_empty_table(environment: Environment) -> None:
    for dry_run in (True, False):
        outcome = environment.run(JOB, dry_run=dry_run)
        assert (outcome.status, outcome.counts["deleted_count"], outcome.counts["due_count"]) == (
            Status.COMPLETED,
            0,
            0,
        )


def test_a_second_run_deletes_nothing_and_a_repeat_is_answered_from_the_ledger(
    database: TestDatabase, environment: Environment
) -> None:
    crowd(database, 5, OLD, MAY)
    assert environment.run(JOB, slot=NOON).counts["deleted_count"] == 5
    before = database.host_checksum()
    repeat, second = environment.run(JOB, slot=NOON), environment.run(JOB)
    assert (repeat.status, repeat.counts["deleted_count"]) == (Status.REPLAYED, 5)
    assert (second.status, second.counts["deleted_count"]) == (Status.COMPLETED, 0)
    assert database.host_checksum() == before


@BOTH_WAYS
def test_many_ranges_of_pages(
    database: TestDatabase, make_environment: MakeEnvironment, changes: dict[str, str]
) -> None:
    """More pages than any range has, with old counters and new ones all over them."""
    crowd(database, 30_000, OLD, MAY, OLD - TICK)
    pages = database.value("SELECT pg_relation_size('usage_counters') / 8192")
    assert pages > 600
    assert make_environment({**changes, "MAX_DELETE_FRACTION": "0.9"}).run(JOB).counts["deleted_count"] == 60_000
    assert old_left(database) == 0
    assert database.value("SELECT count(*) FROM usage_counters") == 30_000


def test_the_health_check_says_how_many_wait(database: TestDatabase, environment: Environment) -> None:
    crowd(database, 3, OLD, CUTOFF)
    database.account("stale", "pro", OLD, OLD)
    database.use("stale", OLD, 1)
    with environment.services.database.transaction(read_only=True) as transaction:
        waiting = JOBS[JOB].load().waiting(transaction, NOON, environment.services.settings)
    assert waiting == {"due_count": 3}
