"""What an operator sees and does of the usage that is on its way to Stripe."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result
from sqlalchemy import text

from ops.commands import stripe as commands
from ops.shell import DOWN, USAGE, WRONG
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.stripe import StripeWorld, add_event, add_send, recorded, state_of, told

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOSTILE = "\x1b[31mred\x07 [bold]not[/bold]"
STATES = ("pending", "sending", "in_doubt", "accepted", "rejected", "expired", "blocked", "waived")
SOME_ID = "0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61"
CHANGING = (["stripe", "retry", SOME_ID, "--reason", "x"], ["stripe", "waive", SOME_ID, "--reason", "x"])
LOOKING = (["stripe", "backlog"], ["stripe", "dead-letters"], ["stripe", "drift"])

Ops = Callable[..., Result]


# ---- looking


def test_where_nothing_waits_that_is_said(ops: Ops) -> None:
    assert [ops(*command).stdout for command in LOOKING] == [
        "Everything is reported: nothing waits.\n",
        "There are no dead letters.\n",
        "Our pages and Stripe's do not differ anywhere that is known.\n",
    ]
    assert [told(ops(*command, "--json")) for command in LOOKING] == [[], [], []]


def test_the_backlog_tells_what_waits_the_oldest_first(database: TestDatabase, ops: Ops) -> None:
    database.account("ann", "pro", stripe_customer_id="cus_ann")
    now = datetime.now(UTC)
    gone = add_send(database, "in_doubt", event=False, occurred_at=now - 5 * DAY)
    waiting = {
        state: add_send(database, state, occurred_at=now - number * DAY, error_code="no_customer")
        for number, state in ((4, "blocked"), (3, "in_doubt"), (2, "pending"))
    }
    undecided = add_event(database, now - 26 * HOUR)
    add_event(database, now - timedelta(minutes=5))
    add_event(database, now - DAY, stripe_reported=True)
    for state in ("accepted", "rejected", "expired", "waived"):
        add_send(database, state)
    rows = told(ops("stripe", "backlog", "--json"))
    assert [(row["event"], row["state"], row["customer"]) for row in rows] == [
        (gone, "in_doubt", "cus_ann"),
        *((key, state, "cus_ann") for state, key in waiting.items()),
        (undecided, "undecided", "cus_ann"),
    ]
    assert 26 * 60 <= rows[-1]["age_minutes"] < 26 * 60 + 5
    heading, *lines, footer = ops("stripe", "backlog", COLUMNS="200").stdout.splitlines()
    assert heading.split()[:3] == ["EVENT", "STATE", "AGE,"]
    assert lines[1] == (
        f"{waiting['blocked']}  blocked    4 d 0 h old, 5 pages of cus_ann: no customer: "
        "give the account its customer, or waive it"
    )
    assert lines[-1] == f"{undecided}  undecided  1 d 2 h old, 5 pages of cus_ann"
    assert footer == "undecided: no run has decided yet whether to bill it; the next one does."
    shown = ops("stripe", "backlog", "--limit", "4", COLUMNS="200").stdout.splitlines()
    assert shown == [heading, *lines[:4], "There are more than these 4. --limit shows more."]
    narrow = ops("stripe", "backlog", COLUMNS="80").stdout.splitlines()
    assert max(map(len, narrow)) <= 80
    assert [line[:36] for line in narrow[1:-1] if line[:1] != " "] == [gone, *waiting.values(), undecided]
    assert narrow[2].endswith("  blocked    4 d 0 h old, 5 pages of")
    assert narrow[3] == "    cus_ann: no customer: give the account its customer, or waive it"
    tiny = ops("stripe", "backlog", COLUMNS="48").stdout.splitlines()
    assert tiny[1:3] == [f"{gone}  in doubt", "    5 d 0 h old, 5 pages of cus_ann"]
    assert len(told(ops("stripe", "backlog", "--limit", "4", "--json"))) == 4
    assert len(told(ops("stripe", "backlog", "--json", STRIPE_MIN_AGE_MINUTES="1"))) == 6


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("no_customer", "no customer: give the account its customer"),
        ("no_account", "no account: give the user an account"),
        ("no_such_customer", "no such customer: correct the account's customer"),
        ("was_paid", "was paid: bill it by hand"),
        ("unclear", "unclear: see the customer's subscriptions at Stripe"),
        ("retry", "retry: the next run decides anew"),
        ("something_new", "something new: see `python -m ops stripe waive --help`"),
    ],
)
def test_a_blocked_event_says_what_lets_it_go_on(database: TestDatabase, ops: Ops, code: str, sentence: str) -> None:
    database.account("ann", "pro")
    add_send(database, "blocked", error_code=code)
    assert f"5 pages of cus_ann: {sentence}" in ops("stripe", "backlog", COLUMNS="200").stdout


def test_dead_letters_are_shown_with_why_and_are_harmless_to_a_terminal(database: TestDatabase, ops: Ops) -> None:
    database.account("ann", "pro")
    rejected = add_send(database, "rejected", value=1, error_code="resource_missing", error_message=HOSTILE)
    expired = add_send(database, "expired", occurred_at=datetime.now(UTC) - 40 * DAY)
    for state in set(STATES) - {"rejected", "expired"}:
        add_send(database, state)
    shown = ops("stripe", "dead-letters", COLUMNS="200").stdout
    visible = r"\x1b[31mred\x07 [bold]not[/bold]"
    assert shown.splitlines()[1:] == [
        f"{expired}  expired    40 d 0 h old, 5 pages of cus_ann",
        f"{rejected}  rejected   1 d 0 h old, 1 page of cus_ann: resource missing: {visible}",
    ]
    rows = told(ops("stripe", "dead-letters", "--json"))
    assert [(row["event"], row["error_message"]) for row in rows] == [(expired, None), (rejected, HOSTILE)]
    assert "@" not in shown + ops("stripe", "dead-letters", "--json").stdout


def test_drift_is_shown_as_long_as_it_lasts_and_all_of_it_if_asked_for(database: TestDatabase, ops: Ops) -> None:
    for customer, reason, resolved in (("cus_a", "sums_differ", None), ("cus_b", "foreign_record", NOON)):
        database.execute(
            "INSERT INTO maintenance.drift (stripe_customer_id, period_start, period_end, ours, theirs, reason, "
            "seen_at, resolved_at) VALUES (:c, :s, :e, 10, 12, :w, :n, :r)",
            c=customer,
            s=NOON - 30 * DAY,
            e=NOON,
            w=reason,
            n=NOON,
            r=resolved,
        )
    (row,) = told(ops("stripe", "drift", "--json"))
    assert (row["customer"], row["ours"], row["theirs"], row["seen_at"]) == ("cus_a", 10, 12, "2026-05-15T12:00:00Z")
    heading, line = ops("stripe", "drift", COLUMNS="200").stdout.splitlines()
    assert heading.split() == ["CUSTOMER", "PERIOD", "OUR", "PAGES", "STRIPE'S", "PAGES", "SINCE", "WHY"]
    assert " ".join(line.split()) == "cus_a 2026-04-15 to 2026-05-15 10 12 2026-05-15 sums differ"
    assert {row["customer"] for row in told(ops("stripe", "drift", "--all", "--json"))} == {"cus_a", "cus_b"}
    assert "resolved" in ops("stripe", "drift", "--all").stdout


# ---- waive


def test_what_is_waived_is_never_billed_and_alarms_nobody(world: StripeWorld, ops: Ops) -> None:
    world.user("ann")
    world.database.account("bob", "pro", NOON - 10 * DAY, NOON + 20 * DAY)
    sent = NOON - 22 * HOUR
    sends = [
        add_send(world.database, state, occurred_at=sent, first_sent_at=sent, known_since=sent, last_sent_at=sent)
        for state in ("rejected", "expired", "in_doubt")
    ]
    keys = [*sends, world.usage("bob")]
    gauges = world.run(limit=1).counts
    assert world.state(keys[-1]) == "blocked"
    assert (gauges["dead_letter_count"], gauges["blocked_count"]) == (2, 1)
    done = ops("stripe", "waive", *keys, keys[0], "--reason", "billed by hand")
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 4)
    ((action, events, reason),) = recorded(world.database)
    assert (action, reason) == ("stripe waive", "billed by hand")
    assert {each["event"] for each in events} == set(keys)
    world.database.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_ann' WHERE user_id = 'bob'")
    for _ in range(3):
        counts = world.run().counts
        assert {world.state(key) for key in keys} == {"waived"}
        names = ("waiting_count", "in_doubt_count", "blocked_count", "dead_letter_count")
        assert [counts[name] for name in names] == [0, 0, 0, 0]
        world.clock.advance(hours=26)
    assert world.posts() == 0
    assert told(ops("stripe", "backlog", "--json")) == []
    again = ops("stripe", "waive", *keys, "--reason", "twice")
    assert (again.exit_code, again.stdout.count("is waived already")) == (0, 4)
    assert len(recorded(world.database)) == 1


@pytest.mark.parametrize("state", ["pending", "sending", "accepted"])
def test_what_is_on_its_way_or_there_cannot_be_waived(database: TestDatabase, ops: Ops, state: str) -> None:
    database.account("ann", "pro")
    good, bad = add_send(database, "rejected"), add_send(database, state)
    done = ops("stripe", "waive", good, bad, "--reason", "x")
    assert (done.exit_code, done.stdout) == (WRONG, "")
    assert f"{bad} is {state}: " in done.stderr
    assert (state_of(database, good), state_of(database, bad), recorded(database)) == ("rejected", state, [])


@pytest.mark.parametrize("action", ["retry", "waive"])
def test_while_a_batch_of_a_run_is_under_way_nothing_is_changed(
    database: TestDatabase, ops: Ops, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """It may be about to send what is waived, or to mark what is retried."""
    monkeypatch.setattr(commands, "_PATIENCE_MS", 100)
    database.account("ann", "pro")
    key = add_send(database, "rejected")
    database.execute("INSERT INTO maintenance.fences (job, shard, run_id) VALUES ('stripe_reconcile', 0, 1)")
    with database.engine.begin() as batch:
        batch.execute(text("SELECT 1 FROM maintenance.fences FOR SHARE"))
        done = ops("stripe", action, key, "--reason", "x")
    assert (done.exit_code, done.stdout) == (DOWN, "")
    assert "A run of stripe_reconcile is writing just now" in done.stderr
    assert (state_of(database, key), recorded(database)) == ("rejected", [])
    assert ops("stripe", action, key, "--reason", "x").exit_code == 0


# ---- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["retry", SOME_ID, "--reason", "x"], WRONG, f"There is no event {SOME_ID} on its way to Stripe"),
        (["waive", SOME_ID, "--reason", "x"], WRONG, f"There is no event {SOME_ID} on its way to Stripe"),
        (["retry", "4711", "--reason", "x"], USAGE, "'4711' is not a valid UUID"),
        (["retry", SOME_ID], USAGE, "--reason"),
        (["waive", "--reason", "x"], USAGE, "ID"),
        (["backlog", "--limit", "0"], USAGE, "0 is not in the range"),
        (["audit", "--month", "May"], USAGE, "'May' does not match"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(ops: Ops, arguments: list[str], code: int, sentence: str) -> None:
    done = ops("stripe", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr


def test_a_database_that_is_down_or_not_named_is_told(ops: Ops) -> None:
    for command in (*LOOKING, *CHANGING, ["stripe", "audit"]):
        down = ops(*command, DATABASE_URL="postgresql://ann:s3cret@127.0.0.1:1/byte")
        assert (down.exit_code, down.stdout, "s3cret" in down.stderr) == (DOWN, "", False)
        assert "accepts no connection" in down.stderr
        unset = ops(*command, DATABASE_URL=None)
        assert (unset.exit_code, "DATABASE_URL is not set" in unset.stderr) == (WRONG, True)


def test_a_schema_that_is_not_there_is_told(database: TestDatabase, ops: Ops) -> None:
    database.script("DROP SCHEMA maintenance CASCADE")
    for command in (*LOOKING, *CHANGING, ["stripe", "audit"]):
        done = ops(*command)
        assert (done.exit_code, "python -m ops migrate" in done.stderr) == (WRONG, True)


def test_in_a_copy_of_the_database_nothing_is_changed(database: TestDatabase, ops: Ops) -> None:
    database.account("ann", "pro")
    key = add_send(database, "rejected")
    database.execute("UPDATE maintenance.identity SET instance = 'production'")
    for action in ("retry", "waive"):
        done = ops("stripe", action, key, "--reason", "x")
        assert (done.exit_code, "belongs to another environment" in done.stderr) == (WRONG, True)
    assert (state_of(database, key), recorded(database)) == ("rejected", [])


@pytest.mark.parametrize("command", CHANGING, ids=["retry", "waive"])
def test_a_reason_must_say_something(command: list[str], ops: Ops, database: TestDatabase) -> None:
    """It is all that whoever looks at it later has."""
    done = ops(*command[:-1], " ")
    assert (done.exit_code, "must not be empty" in done.stderr) == (USAGE, True)
    assert database.value("SELECT count(*) FROM maintenance.operator_actions") == 0
