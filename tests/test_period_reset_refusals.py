"""Accounts that the database refuses: each is isolated, counted and told of, and nobody else pays for it."""

import pytest

from functions.period_reset import sweep
from shared.outcome import Status
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase

MAY = NOON.replace(day=1, hour=0)


def refuse(database: TestDatabase, condition: str, action: str = "RAISE EXCEPTION 'not this one'") -> None:
    """Let the database refuse the counter of the users for whom the condition on `who` holds."""
    database.script(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE who text := NEW.user_id;
        BEGIN IF {condition} THEN {action}; END IF; RETURN NEW; END $$
        """
    )
    database.script("CREATE TRIGGER refuse BEFORE INSERT ON usage_counters FOR EACH ROW EXECUTE FUNCTION refuse()")


def accounts(database: TestDatabase, *names: str) -> None:
    database.execute(
        "INSERT INTO users (id, email) SELECT n, n FROM unnest(CAST(:names AS text[])) n", names=list(names)
    )
    database.execute(
        "INSERT INTO billing_accounts (user_id, plan_code) SELECT n, 'free' FROM unnest(CAST(:names AS text[])) n",
        names=list(names),
    )


def moved(database: TestDatabase) -> set[str]:
    rows = database.rows("SELECT user_id FROM billing_accounts WHERE current_period_start = :m", m=MAY)
    return {row["user_id"] for row in rows}


def told(environment: Environment) -> list[str]:
    return [line["item"] for line in environment.lines() if line["event"] == "item"]


def test_one_refused_account_takes_no_other_along(database: TestDatabase, environment: Environment) -> None:
    names = [f"user {number:02}" for number in range(20)]
    accounts(database, *names)
    refuse(database, "who = 'user 07'")
    outcome = environment.run()
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert (outcome.counts["updated_count"], outcome.counts["failed_count"], outcome.counts["due_count"]) == (19, 1, 1)
    assert moved(database) == set(names) - {"user 07"}
    assert told(environment) == ["user 07"]
    assert "not this one" in next(line for line in environment.lines() if line["event"] == "item")["message"]


@pytest.mark.parametrize("refused", [None, "user 041"])
def test_where_few_of_many_are_due_no_batch_looks_at_all_keys(
    database: TestDatabase, environment: Environment, monkeypatch: pytest.MonkeyPatch, refused: str | None
) -> None:
    monkeypatch.setattr(sweep, "_KEYS_A_BATCH", 7)
    names = [f"user {number:03}" for number in range(100)]
    accounts(database, *names)
    due = {"user 000", "user 006", "user 007", "user 040", "user 041", "user 099"}
    database.execute(
        "UPDATE billing_accounts SET current_period_start = :start, current_period_end = :end "
        "WHERE user_id <> ALL (CAST(:due AS text[]))",
        start=MAY, end=MAY.replace(day=31, hour=23, minute=59, second=59), due=list(due),
    )  # fmt: skip
    database.note_updates("billing_accounts")
    # After a refusal one account is tried after the other: those steps go over the keys in stretches, too.
    refuse(database, f"who = '{refused}'")
    outcome = environment.run()
    assert outcome.status is Status.COMPLETED
    assert outcome.counts["updated_count"] == len(due) - (refused is not None)
    assert moved(database) == set(names) - {refused}
    if refused is None:
        assert database.noted_updates() >= len(names) // 7
        # Four stretches have those that were due, and each is a transaction of its own.
        sql = "SELECT count(DISTINCT xmin::text) FROM billing_accounts WHERE user_id = ANY (CAST(:due AS text[]))"
        assert database.value(sql, due=list(due)) == 4


def test_an_error_code_of_the_services_own_is_one_accounts_matter_too(
    database: TestDatabase, environment: Environment
) -> None:
    accounts(database, "a", "b", "c")
    refuse(database, "who = 'b'", "RAISE EXCEPTION 'no' USING ERRCODE = 'BR001'")
    outcome = environment.run()
    assert (outcome.status, outcome.counts["failed_count"]) == (Status.COMPLETED, 1)
    assert moved(database) == {"a", "c"}


def test_a_locked_account_is_not_blamed_for_its_neighbour(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    accounts(database, "a", "b", "c")
    refuse(database, "who = 'b'")
    environment = make_environment(virtual=True)
    with database.engine.connect() as other:
        other.exec_driver_sql("SELECT 1 FROM billing_accounts WHERE user_id = 'a' FOR UPDATE")
        outcome = environment.run(slot=NOON)
    assert told(environment) == ["b"]
    assert (outcome.status, outcome.counts["failed_count"]) == (Status.INCOMPLETE, 1)
    again = environment.run(slot=NOON)
    # A sum over the attempts would count b twice.
    assert (again.status, again.counts["updated_count"], again.counts["failed_count"]) == (Status.COMPLETED, 2, 1)
    assert moved(database) == {"a", "c"}


def test_a_refused_account_that_is_gone_does_not_stand_for_one_that_is_locked(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    """One is refused and then deleted, another is locked all the time: the run must not take one for the other."""
    environment = make_environment(virtual=True)
    accounts(database, "b", "z")
    refuse(database, "who = 'b'", "PERFORM pg_notify('refused', who); RAISE EXCEPTION 'not this one'")
    with database.engine.connect() as other:
        other.exec_driver_sql("SELECT 1 FROM billing_accounts WHERE user_id = 'z' FOR UPDATE")
        log = environment.services.log
        write = log.write

        def write_and_delete(severity: str, message: str, **fields: object) -> None:
            write(severity, message, **fields)
            if fields.get("event") == "item":
                database.execute("DELETE FROM users WHERE id = 'b'")

        log.write = write_and_delete  # type: ignore[method-assign]  # the moment at which b has just been refused
        outcome = environment.run()
    assert (outcome.status, outcome.counts["due_count"]) == (Status.INCOMPLETE, 1)
    assert "1 more stayed locked" in outcome.message


def test_many_refused_accounts_do_not_keep_those_behind_them_waiting(
    database: TestDatabase, environment: Environment
) -> None:
    bad, good = [f"a {number:03}" for number in range(300)], [f"z {number:02}" for number in range(40)]
    accounts(database, *bad, *good)
    refuse(database, "who LIKE 'a%'")
    outcome = environment.run()
    assert (outcome.status, outcome.counts["updated_count"], outcome.counts["failed_count"]) == (
        Status.COMPLETED,
        40,
        300,
    )
    assert moved(database) == set(good)
    assert sorted(told(environment)) == bad


def test_when_the_database_refuses_account_after_account_the_run_stops(
    database: TestDatabase, environment: Environment
) -> None:
    accounts(database, *(f"user {number:04}" for number in range(1_050)))
    refuse(database, "true")
    outcome = environment.run()
    assert (outcome.status, outcome.success) == (Status.INCOMPLETE, False)
    assert outcome.counts["failed_count"] == 1_000
    assert "refused 1000 accounts" in outcome.message


def test_when_every_account_is_refused_the_run_is_no_success(database: TestDatabase, environment: Environment) -> None:
    accounts(database, "ann")
    refuse(database, "true")
    outcome = environment.run()
    assert (outcome.status, outcome.success, outcome.counts["failed_count"]) == (Status.COMPLETED, False, 1)
    assert environment.lines()[-1]["severity"] == "ERROR"
    replay = environment.run(slot=NOON), environment.run(slot=NOON)
    assert [each.success for each in replay] == [False, False]


@pytest.mark.parametrize("limit", [None, 1, 3])
def test_a_trigger_that_swallows_the_update_does_not_keep_the_run_going(
    database: TestDatabase, make_environment: MakeEnvironment, clock: ManualClock, limit: int | None
) -> None:
    accounts(database, "a", "b", "c")
    database.script("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    database.script("CREATE TRIGGER swallow BEFORE UPDATE ON billing_accounts FOR EACH ROW EXECUTE FUNCTION swallow()")
    before = clock.now()
    outcome = make_environment(virtual=True).run(limit=limit)
    assert clock.now() == before  # it ended by itself: on this clock no deadline ever comes
    assert (outcome.counts["updated_count"], outcome.counts["due_count"]) == (0, 3)


def test_a_plan_that_the_service_does_not_have_is_misconfigured(
    database: TestDatabase, make_environment: MakeEnvironment
) -> None:
    accounts(database, "ann")
    outcome = make_environment({"FREE_PLAN_CODES": "fre"}).run()
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "FREE_PLAN_CODES")
    assert "'fre'" in outcome.message
    assert "basic, free, pro" in outcome.message


def test_a_service_with_no_plans_at_all_has_nothing_to_reset(database: TestDatabase, environment: Environment) -> None:
    database.execute("DELETE FROM subscription_plans")
    assert environment.run().status is Status.COMPLETED
