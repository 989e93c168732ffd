"""usage_counter_cleanup: which counters go, which stay, and how it gets along with the service."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text

from functions.cleanup.months import first_of_month
from functions.registry import JOBS
from shared.outcome import Outcome, Status
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.serving import Functions, request
from tests.support.wait import until

JOB = "usage_counter_cleanup"
MAY = datetime(2026, 5, 1, tzinfo=UTC)
CUTOFF = datetime(2025, 4, 1, tzinfo=UTC)
OLD = datetime(2024, 7, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
# With room for whole ranges, they go by one plain DELETE; with less, row by row.
ROOMY = {"MAX_DELETE_FLOOR": "999999999"}
BOTH_WAYS = pytest.mark.parametrize("changes", [ROOMY, {}], ids=["whole ranges", "row by row"])

ADD_USAGE = (
    "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:user, :start, :start, :pages)"
    " ON CONFLICT (user_id, period_start) DO UPDATE SET pages_total = usage_counters.pages_total + excluded.pages_total"
)


def crowd(database: TestDatabase, users: int, *starts: datetime) -> None:
    """Users who are in this month's period, each with a counter of each of these periods."""
    database.execute(
        "INSERT INTO users (id, email) SELECT 'user ' || n, 'e' || n FROM generate_series(1, :users) n", users=users
    )
    database.execute(
        "INSERT INTO billing_accounts (user_id, plan_code, current_period_start, current_period_end) "
        "SELECT id, 'free', :start, :start FROM users WHERE id LIKE 'user %'",
        start=MAY,
    )
    for start in starts:
        database.execute(
            "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) "
            "SELECT id, :start, :start, 7 FROM users WHERE id LIKE 'user %' ORDER BY length(id), id",
            start=start,
        )


def old_left(database: TestDatabase) -> int:
    """How many counters from before the cutoff there are."""
    return int(database.value("SELECT count(*) FROM usage_counters WHERE period_start < :cutoff", cutoff=CUTOFF))


@contextmanager
def open_transaction(database: TestDatabase, sql: str, **parameters: object) -> Iterator[Connection]:
    """A transaction of another session that has run a statement and is not over."""
    with database.engine.connect() as connection:
        connection.execute(text(sql), parameters)
        yield connection


def in_background(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


# Who goes and who stays


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


# Beside the live service


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


def trigger(database: TestDatabase, body: str) -> None:
    """Let the database do this before each deletion of a counter."""
    database.script(f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN OLD; END $$")
    database.script("CREATE TRIGGER act BEFORE DELETE ON usage_counters FOR EACH ROW EXECUTE FUNCTION act()")


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


# How much may go, and how long it may take


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


@pytest.mark.parametrize("step", [4, 8, 14])
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
