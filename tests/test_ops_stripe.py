"""What an operator sees and does of the usage that is on its way to Stripe."""

import json
import random
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import text

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from ops.commands import stripe as commands
from ops.commands.stripe_audit import period_of
from ops.shell import DOWN, NO, USAGE, WRONG
from tests.conftest import MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.stripe import StripeWorld

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOSTILE = "\x1b[31mred\x07 [bold]not[/bold]"
STATES = ("pending", "sending", "in_doubt", "accepted", "rejected", "expired", "blocked", "waived")
SOME_ID = "0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61"
CHANGING = (["stripe", "retry", SOME_ID, "--reason", "x"], ["stripe", "waive", SOME_ID, "--reason", "x"])
LOOKING = (["stripe", "backlog"], ["stripe", "dead-letters"], ["stripe", "drift"])

Ops = Callable[..., Result]


@pytest.fixture
def ops(environ: dict[str, str]) -> Ops:
    """The command line, on the test's servers; None takes a setting away."""

    def run(*arguments: str, **changes: str | None) -> Result:
        settings = {**environ, **changes}
        return run_command(*arguments, environ={name: value for name, value in settings.items() if value is not None})

    return run


@pytest.fixture
def world(database: TestDatabase, make_environment: MakeEnvironment, clock: ManualClock) -> Iterator[StripeWorld]:
    """A service with usage, and a Stripe account that it is reported to."""
    account = Account(clock)
    with StripeServer(account) as server:
        yield StripeWorld(database, server, account, make_environment, clock)


def add_send(database: TestDatabase, state: str, *, event: bool = True, **columns: Any) -> str:
    """An event of the user `ann` in a state; give its id. With `event`, the service has it too."""
    key = str(uuid.uuid4())
    values = {
        "usage_event_id": key,
        "user_id": "ann",
        "stripe_customer_id": "cus_ann",
        "identifier": key,
        "occurred_at": datetime.now(UTC) - DAY,
        "value": 5,
        "state": state,
        "invoice_closes_at": datetime.now(UTC) + DAY,
        **columns,
    }
    database.execute(
        f"INSERT INTO maintenance.meter_sends ({', '.join(values)}) "
        f"VALUES ({', '.join(f':{name}' for name in values)})",
        **values,
    )
    if event:
        add_event(database, values["occurred_at"], id=key, stripe_reported=state == "accepted")
    return key


def add_event(database: TestDatabase, at: datetime, **columns: object) -> str:
    """A usage event of the user `ann`; give its id."""
    values = {"id": str(uuid.uuid4()), "user_id": "ann", "source": "x", "pages": 5, "occurred_at": at, **columns}
    database.execute(
        f"INSERT INTO usage_events ({', '.join(values)}) VALUES ({', '.join(f':{name}' for name in values)})", **values
    )
    return str(values["id"])


def recorded(database: TestDatabase) -> list[tuple[str, list[dict[str, str]], str]]:
    """What was recorded of operators: the action, the events and the reason."""
    rows = database.rows("SELECT action, arguments, reason FROM maintenance.operator_actions ORDER BY id")
    return [(row["action"], row["arguments"]["events"], row["reason"]) for row in rows]


def state_of(database: TestDatabase, key: str) -> str:
    return str(database.value("SELECT state FROM maintenance.meter_sends WHERE usage_event_id = :k", k=key))


def told(result: Result) -> Any:
    assert result.stderr == ""
    return json.loads(result.stdout)


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


# ---- retry


def refused_event(world: StripeWorld) -> str:
    """An event that Stripe took and refused later, because its customer is gone."""
    world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.delete_customer("cus_ann")
    world.run()
    world.clock.advance(hours=2)
    world.run()
    assert (world.state(key), world.event(key)) == ("rejected", (False, None))
    return key


@pytest.mark.parametrize("hours", [1, 30])
@pytest.mark.parametrize("customer", ["cus_ann", "cus_new"])
def test_what_stripe_refused_is_decided_anew_and_billed_once_to_the_customer_of_now(
    world: StripeWorld, ops: Ops, hours: int, customer: str
) -> None:
    key = refused_event(world)
    world.stripe.add_customer(customer)
    world.database.execute("UPDATE billing_accounts SET stripe_customer_id = :c", c=customer)
    world.clock.advance(hours=hours)
    done = ops("stripe", "retry", key, "--reason", "mended")
    assert (done.exit_code, done.stdout) == (0, f"{key} is decided anew by the next run.\n")
    assert recorded(world.database) == [
        (
            "stripe retry",
            [{"event": key, "state": "rejected", "identifier": key, "error_code": "meter_event_customer_not_found"}],
            "mended",
        )
    ]
    again = ops("stripe", "retry", key, "--reason", "twice")
    assert (again.exit_code, "each run decides about it anew" in again.stdout) == (0, True)
    assert len(recorded(world.database)) == 1
    for _ in range(3):
        world.run()
        assert (world.state(key), world.event(key)) == ("accepted", (True, f"{key}:2"))
        assert (world.counted(customer), world.send(key)["attempts"]) == (4, 2)
        world.clock.advance(hours=26)


def test_what_is_refused_once_more_is_a_dead_letter_once_more(world: StripeWorld, ops: Ops) -> None:
    key = refused_event(world)
    for number in (2, 3):
        assert ops("stripe", "retry", key, "--reason", "too soon").exit_code == 0
        world.run()
        world.clock.advance(hours=2)
        world.run()
        assert (world.state(key), world.send(key)["identifier"]) == ("rejected", f"{key}:{number}")
    assert world.counted("cus_ann") == 0


def test_a_refusal_at_once_after_a_retry_is_believed(world: StripeWorld, ops: Ops) -> None:
    """The attempts before it had an answer: none of them leaves a doubt behind."""
    key = refused_event(world)
    world.stripe.add_customer("cus_ann")
    assert ops("stripe", "retry", key, "--reason", "mended").exit_code == 0
    body = json.dumps({"error": {"type": "invalid_request_error", "message": "No such thing."}}).encode()
    world.stripe.faults.add("status", status=400, body=body, headers={"content-type": "application/json"})
    world.run()
    assert (world.state(key), world.send(key)["error_message"]) == ("rejected", "No such thing.")


def test_what_one_meter_refused_goes_to_the_one_of_now(world: StripeWorld, ops: Ops) -> None:
    key = refused_event(world)
    world.stripe.add_customer("cus_ann")
    assert ops("stripe", "retry", key, "--reason", "another meter").exit_code == 0
    other = world.environment({"STRIPE_METER_PAGES": world.stripe.add_meter("sheets").id})
    world.run(environment=other)
    assert (world.state(key), world.stripe.events[-1].event_name) == ("accepted", "sheets")


def test_what_the_service_sent_and_stripe_refused_is_decided_anew_too(world: StripeWorld, ops: Ops) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 5, stripe_reported=True, stripe_record_id="a-name: of theirs:x")
    payload = {"stripe_customer_id": customer, "value": "5"}
    world.stripe.receive("pages", payload, "a-name: of theirs:x", int((NOON - HOUR).timestamp()))
    world.stripe.refuse_later("a-name: of theirs:x")
    world.run()
    assert ops("stripe", "retry", key, "--reason", "mended").exit_code == 0
    world.run()
    assert (world.event(key), world.counted(customer)) == ((True, f"{key}:2"), 5)


@pytest.mark.parametrize("seed", range(5))
def test_however_often_it_is_retried_nothing_is_billed_twice(world: StripeWorld, ops: Ops, seed: int) -> None:
    """Answers are lost, refusals come, customers are mended, and somebody retries whatever there is, over and over."""
    chosen = random.Random(seed)  # noqa: S311  no secret
    world.user("ann")
    keys = [world.usage("ann", 1, at=NOON - timedelta(minutes=20 + 7 * number)) for number in range(5)]

    def refuse() -> None:
        known = [each.identifier for each in world.stripe.events if each.refused_code is None]
        if known:
            world.stripe.refuse_later(chosen.choice(known))

    def retry() -> None:
        for key in keys:
            ops("stripe", "retry", key, "--reason", "again")

    acts: list[Callable[[], object]] = [
        world.run,
        world.run,
        retry,
        refuse,
        lambda: world.stripe.faults.add(chosen.choice(("500_after", "cut_after", "500_before")), times=3),
        lambda: world.stripe.delete_customer("cus_ann"),
        lambda: world.stripe.add_customer("cus_ann"),
        lambda: world.clock.advance(hours=2),
        lambda: world.clock.advance(hours=26),
    ]
    for _ in range(25):
        chosen.choice(acts)()
        per_event = [
            sum(each.refused_code is None for each in world.stripe.events if each.identifier.split(":")[0] == key)
            for key in keys
        ]
        assert max(per_event) <= 1
    world.stripe.add_customer("cus_ann")
    for hours in (2, 2, 26, 26, 26):
        world.run()
        retry()
        world.clock.advance(hours=hours)
    world.run()
    assert {world.state(key) for key in keys} == {"accepted"}
    assert world.counted("cus_ann") == len(keys)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("expired", "Stripe takes no event that is older than 35 days. If its 5 pages of cus_ann are to be billed"),
        ("accepted", "is accepted: Stripe has it."),
        ("waived", "is waived: it is never billed."),
    ],
)
def test_what_cannot_be_retried_is_told_and_nothing_is_changed(
    database: TestDatabase, ops: Ops, state: str, sentence: str
) -> None:
    database.account("ann", "pro")
    good, bad = add_send(database, "rejected"), add_send(database, state)
    done = ops("stripe", "retry", good, bad, "--reason", "x")
    assert (done.exit_code, done.stdout) == (WRONG, "")
    assert sentence in done.stderr
    assert (state_of(database, good), state_of(database, bad), recorded(database)) == ("rejected", state, [])


def test_a_refused_event_that_nobody_can_decide_about_stays_as_it_is(database: TestDatabase, ops: Ops) -> None:
    database.account("ann", "pro")
    gone = add_send(database, "rejected", event=False)
    marked, foreign = add_send(database, "rejected"), add_send(database, "rejected")
    for key, record in ((marked, marked), (foreign, "another")):
        database.execute(
            "UPDATE usage_events SET stripe_reported = true, stripe_record_id = :r WHERE id = :k", k=key, r=record
        )
    for key, sentence in (
        (gone, "is gone"),
        (marked, "The next run takes the mark away"),
        (foreign, "reported by the service"),
    ):
        done = ops("stripe", "retry", key, "--reason", "x")
        assert (done.exit_code, sentence in done.stderr, state_of(database, key)) == (WRONG, True, "rejected")
    assert ops("stripe", "waive", marked, "--reason", "x").exit_code == WRONG
    assert (state_of(database, marked), recorded(database)) == ("rejected", [])


@pytest.mark.parametrize("state", ["pending", "sending", "in_doubt", "blocked"])
def test_what_every_run_tries_anyway_needs_no_retry(database: TestDatabase, ops: Ops, state: str) -> None:
    database.account("ann", "pro")
    key = add_send(database, state, first_sent_at=NOON, known_since=NOON, attempts=2)
    before = database.row("SELECT * FROM maintenance.meter_sends")
    (row,) = told(ops("stripe", "retry", key, "--reason", "x", "--json"))
    assert (row["event"], row["was"], row["changed"]) == (key, state, False)
    assert (database.row("SELECT * FROM maintenance.meter_sends"), recorded(database)) == (before, [])


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


# ---- audit


@pytest.fixture
def billed(world: StripeWorld) -> StripeWorld:
    """Two customers with five pages each that Stripe has since two hours, by the real clock."""
    now = datetime.now(UTC)
    world.clock.set(now - 2 * HOUR)
    start = (now - 10 * DAY).replace(minute=7, second=0, microsecond=0)
    for name in ("ann", "bob"):
        world.user(name)
        world.database.execute(
            "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:u, :s, :e, 5)",
            u=name,
            s=start,
            e=start + 30 * DAY,
        )
        world.usage(name, 5, at=now - 3 * HOUR)
    world.database.execute(
        "UPDATE billing_accounts SET current_period_start = :s, current_period_end = :e", s=start, e=start + 30 * DAY
    )
    assert world.run().counts["success_count"] == 2
    # What the run itself has seen is not to be seen by the audit of the operator's.
    world.database.execute("DELETE FROM maintenance.drift")
    return world


def settings_of(world: StripeWorld) -> dict[str, str | None]:
    return {**world.settings(), "STRIPE_READ_RATE": "20"}


def test_the_audit_holds_our_pages_against_stripes_sums_and_writes_nothing(billed: StripeWorld, ops: Ops) -> None:
    settings = settings_of(billed)
    ours = (
        "SELECT (SELECT count(*) FROM maintenance.drift) AS drift, (SELECT count(*) FROM maintenance.runs) AS runs, "
        "(SELECT string_agg(CAST(s AS text), ' ') FROM maintenance.meter_sends AS s) AS sends"
    )
    before = billed.database.row(ours)
    assert ops("stripe", "audit", **settings).stdout == "2 customers are equal, in 2 periods. --all shows them.\n"
    done = ops("stripe", "audit", "--json", **settings)
    assert done.exit_code == 0
    assert [(row["customer"], row["ours"], row["open"], row["theirs"], row["says"]) for row in told(done)] == [
        ("cus_ann", 5, 0, 5, "equal"),
        ("cus_bob", 5, 0, 5, "equal"),
    ]
    payload = {"stripe_customer_id": "cus_bob", "value": "2"}
    billed.stripe.receive("pages", payload, None, int(billed.clock.now().timestamp()) - 60)
    different = ops("stripe", "audit", **settings, COLUMNS="200")
    assert different.exit_code == NO
    heading, *lines, equal = different.stdout.splitlines()
    assert heading.split()[2:-1] == ["OUR", "PAGES", "OPEN", "PAGES", "STRIPE'S", "PAGES"]
    assert [line.split()[-4:] for line in lines] == [["5", "0", "7", "differs"]]
    assert equal == "1 customer is equal, in 1 period. --all shows them."
    assert len(told(ops("stripe", "audit", "--json", **settings))) == 2
    everything = ops("stripe", "audit", "--all", **settings, COLUMNS="200").stdout.splitlines()[1:]
    assert [line.split()[-4:] for line in everything] == [["5", "0", "5", "equal"], ["5", "0", "7", "differs"]]
    one = ops("stripe", "audit", "--customer", "cus_ann", **settings)
    assert (one.exit_code, one.stdout.splitlines()[-1].split()[-1]) == (0, "equal")
    assert len(told(ops("stripe", "audit", "--limit", "1", "--json", **settings))) == 1
    assert billed.database.row(ours) == before


@pytest.mark.parametrize(
    ("start", "hours", "said"),
    [
        (NOON, 2, "2026-05-15 12:00 to 14:00"),
        (NOON, 13, "2026-05-15 12:00 to 2026-05-16 01:00"),
        (NOON, 24, "2026-05-15 to 2026-05-16"),
    ],
)
def test_a_period_has_its_end(start: datetime, hours: int, said: str) -> None:
    assert period_of(start, start + hours * HOUR) == said


def test_the_audit_takes_the_periods_that_touch_a_month(billed: StripeWorld, ops: Ops) -> None:
    settings = settings_of(billed)
    now = datetime.now(UTC)
    this, long_ago = f"{now - 10 * DAY:%Y-%m}", f"{now - 400 * DAY:%Y-%m}"
    assert len(told(ops("stripe", "audit", "--month", this, "--json", **settings))) == 2
    none = ops("stripe", "audit", "--month", long_ago, **settings)
    assert (none.exit_code, none.stdout) == (0, "There is nothing to hold against Stripe's sums.\n")
    then = now - 400 * DAY
    add_send(billed.database, "accepted", occurred_at=then, accepted_at=then, event=False)
    lost = json.loads(ops("stripe", "audit", "--month", long_ago, "--json", **settings).stdout)
    assert [(row["ours"], row["theirs"], row["says"]) for row in lost] == [(5, 0, "differs")]
    assert len(told(ops("stripe", "audit", "--month", this, "--json", **settings))) == 2
    assert len(told(ops("stripe", "audit", "--json", **settings))) == 3
    future = ops("stripe", "audit", "--month", "9999-12", **settings)
    assert (future.exit_code, future.stderr) == (WRONG, "The month 9999-12 has not begun.\n")


def test_what_the_audit_cannot_read_is_told(billed: StripeWorld, ops: Ops) -> None:
    settings = settings_of(billed)
    billed.database.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_none' WHERE user_id = 'bob'")
    unknown = ops("stripe", "audit", "--customer", "cus_none", "--json", **settings)
    ((row,), code) = json.loads(unknown.stdout), unknown.exit_code
    assert (row["theirs"], "No such customer" in row["says"], code) == (None, True, NO)
    nobody = ops("stripe", "audit", "--customer", "cus_other", **settings)
    assert (nobody.exit_code, "No account has the customer cus_other" in nobody.stderr) == (WRONG, True)
    meter = ops("stripe", "audit", **{**settings, "STRIPE_METER_PAGES": "mtr_none"})
    assert (meter.exit_code, "Stripe knows no meter mtr_none" in meter.stderr) == (WRONG, True)
    unset = ops("stripe", "audit")
    assert (unset.exit_code, "STRIPE_SECRET_KEY is not set" in unset.stderr) == (WRONG, True)


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
