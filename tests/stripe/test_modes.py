"""Dry runs, wrong keys and meters, the key's secrecy, an outage, and the form of every request."""

import importlib.util
import json
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from devstack.serving import REPOSITORY, ask, fire
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from shared.outcome import Status
from shared.settings import parse_settings
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.serving import Functions
from tests.support.stripe import PERIOD_START, StripeWorld

HOUR = timedelta(hours=1)


def everything(world: StripeWorld) -> None:
    """Usage of every kind."""
    world.user("ann", paying_since=PERIOD_START)
    world.user("bob", "free", customer=None)
    world.user("cat", customer=None)
    world.user("dan", "free", customer="cus_dan")
    world.usage("ann", 4)
    world.usage("ann", 5, at=NOON - 30 * HOUR)
    world.usage("ann", 6, at=PERIOD_START - HOUR)
    world.usage("ann", 0)
    for name in ("bob", "cat", "dan"):
        world.usage(name, 7)


def fingerprint(database: TestDatabase) -> str:
    """One value that changes with any change that a run could make."""
    parts = [database.host_checksum()]
    for table in ("meter_sends", "drift", "cursors", "fences"):
        rows = "coalesce(string_agg(CAST(t AS text), '|' ORDER BY CAST(t AS text)), '')"
        parts.append(database.value(f"SELECT {rows} FROM maintenance.{table} AS t"))
    return "|".join(parts)


# ---- dry runs


@pytest.mark.parametrize("how", [{"dry_run": True}, {}], ids=["asked for", "report mode"])
def test_a_dry_run_says_what_it_would_send_and_sends_and_changes_nothing(
    world: StripeWorld, how: dict[str, object]
) -> None:
    everything(world)
    before = fingerprint(world.database)
    environment = world.environment(None if how else {"MAINTENANCE_MODE": "report"})
    outcome = world.run(None, environment, **how)
    assert (outcome.status, outcome.dry_run) == (Status.COMPLETED, True)
    assert outcome.message == (
        "Dry run: stripe reconcile would send 2 events with 9 pages for 1 customers; 1 of them only after Stripe's "
        "sums have shown that they are not there yet"
    )
    counts = outcome.counts
    assert (counts["retry_count"], counts["retry_pages"], counts["success_count"]) == (2, 9, 0)
    assert (counts["not_billable_count"], counts["not_billable_pages"]) == (4, 20)
    assert (counts["free_count"], counts["not_subscribed_count"], counts["zero_pages_count"]) == (1, 2, 1)
    assert world.posts() == 0
    assert fingerprint(world.database) == before
    real = world.run()
    for name in ("retry_count", "retry_pages", "not_billable_count", "not_billable_pages"):
        assert real.counts[name] == counts[name]


def test_a_dry_run_counts_what_is_on_its_way_already(world: StripeWorld) -> None:
    world.user("ann")
    world.usage("ann", 4)
    world.stripe.faults.add("cut_before", times=None)
    world.run()
    world.stripe.faults.clear()
    world.usage("ann", 5)
    before = fingerprint(world.database)
    outcome = world.run(dry_run=True)
    assert (outcome.counts["retry_count"], outcome.counts["retry_pages"]) == (2, 9)
    assert fingerprint(world.database) == before


def test_a_dry_run_of_another_time(world: StripeWorld) -> None:
    world.user("ann")
    world.usage("ann", 4, at=NOON - HOUR)
    assert world.run(dry_run=True, as_of=NOON - 2 * HOUR).counts["retry_count"] == 0
    assert world.run(dry_run=True, as_of=NOON).counts["retry_count"] == 1


# ---- what is wrong


@pytest.mark.parametrize(
    ("changes", "setting", "sentence"),
    [
        ({"STRIPE_SECRET_KEY": None}, "STRIPE_SECRET_KEY", "is not set"),
        ({"STRIPE_METER_PAGES": None}, "STRIPE_METER_PAGES", "is not set"),
        ({"STRIPE_SECRET_KEY": "sk_test_wrong"}, "STRIPE_SECRET_KEY", "refused STRIPE_SECRET_KEY (401)"),
        ({"STRIPE_SECRET_KEY": "pk_test_wrong"}, "STRIPE_SECRET_KEY", "must be a secret or restricted key"),
        ({"STRIPE_SECRET_KEY": "sk_live_x"}, "identity", "bound to Stripe's test mode"),
        ({"STRIPE_METER_PAGES": "mtr_wrong"}, "STRIPE_METER_PAGES", "knows no meter mtr_wrong"),
        ({"STRIPE_METER_PAGES": "pages"}, "STRIPE_METER_PAGES", "must be the id of the meter"),
        ({"STRIPE_METER_EVENT_NAME": "leaves"}, "STRIPE_METER_EVENT_NAME", "counts events named 'pages'"),
        ({"STRIPE_TAKEOVER_AT": "yesterday"}, "STRIPE_TAKEOVER_AT", "RFC 3339"),
        ({"STRIPE_RATE": "0"}, "STRIPE_RATE", "from 1 to"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_marked(
    world: StripeWorld, changes: dict[str, str | None], setting: str, sentence: str
) -> None:
    everything(world)
    before = fingerprint(world.database)
    outcome = world.run(environment=world.environment(changes))
    assert (outcome.status, outcome.success, outcome.details["setting"]) == (Status.MISCONFIGURED, False, setting)
    assert sentence in outcome.message
    assert world.database.host_checksum() in before
    assert world.posts() == 0


@pytest.mark.parametrize(
    ("attribute", "value", "sentence"),
    [
        ("status", "inactive", "is 'inactive' at Stripe"),
        ("formula", "count", "aggregates by 'count'"),
        ("event_time_window", "hour", "one event an hour"),
        ("livemode", True, "not of the mode"),
    ],
)
def test_a_meter_that_is_not_what_it_must_be(world: StripeWorld, attribute: str, value: object, sentence: str) -> None:
    everything(world)
    before = world.database.host_checksum()
    setattr(world.stripe.meter, attribute, value)
    outcome = world.run()
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "STRIPE_METER_PAGES")
    assert sentence in outcome.message
    assert world.database.host_checksum() == before
    assert world.posts() == 0


def test_the_meters_own_words_are_used(world: StripeWorld) -> None:
    world.stripe.meter.event_name = "leaves"
    world.stripe.meter.customer_key = "who"
    world.stripe.meter.value_key = "how_many"
    customer = world.user("ann")
    world.usage("ann", 4)
    world.run(environment=world.environment({"STRIPE_METER_EVENT_NAME": "leaves"}))
    assert world.counted(customer) == 4


def test_a_database_that_is_bound_to_no_mode_yet(world: StripeWorld) -> None:
    world.database.execute("UPDATE maintenance.identity SET livemode = NULL")
    outcome = world.run()
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "identity")
    assert "migrate" in outcome.message


def test_a_restricted_key_that_may_not_read_says_what_it_needs(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann")
    world.stripe.faults.key_refused = 403
    outcome = world.run()
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "STRIPE_SECRET_KEY")
    assert "read meters, their event summaries, subscriptions and events" in outcome.message
    assert world.event(key) == (False, None)


def test_stripe_that_is_down_is_unavailable(world: StripeWorld) -> None:
    world.server.stop()
    outcome = world.run()
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "stripe")


# ---- the key


def test_the_key_is_in_no_log_answer_or_exception(
    database: TestDatabase, functions: Functions, clock: ManualClock
) -> None:
    """Over HTTP, with every kind of answer, also one in which Stripe quotes the key."""
    account = Account(clock)
    with StripeServer(account) as server:
        key = account.secret_key
        settings = {
            "STRIPE_SECRET_KEY": key,
            "STRIPE_METER_PAGES": account.meter.id,
            "STRIPE_API_BASE": server.url,
            "STRIPE_TAKEOVER_AT": "2020-01-01T00:00:00Z",
            "STRIPE_RATE": "1000",
        }
        database.account("ann", "pro", PERIOD_START, NOON + timedelta(days=20), stripe_customer_id="cus_ann")
        account.add_customer("cus_ann")
        for _ in range(3):
            database.execute(
                "INSERT INTO usage_events (user_id, pages, occurred_at, source) VALUES ('ann', 5, :at, 'x')",
                at=NOON - HOUR,
            )
        body = {"error": {"type": "invalid_request_error", "code": "x", "message": f"You said {key}."}}
        account.faults.add("status", status=400, body=body)
        account.faults.add("cut_after")
        account.faults.add("unreadable")
        served = functions.serve(settings, target="stripe_reconcile")
        answers = [fire(served.url, job="stripe_reconcile", slot=NOON), ask(served.url)]
        account.faults.add("status", status=401, body=body, method="GET", path="*", times=None)
        answers.append(fire(served.url, job="stripe_reconcile", slot=None))
        wrong = functions.serve({**settings, "STRIPE_SECRET_KEY": f"{key}x"}, target="stripe_reconcile")
        answers.append(fire(wrong.url, job="stripe_reconcile", slot=None))
    assert [answer.fields["status"] for answer in answers] == ["completed", "healthy", "misconfigured", "misconfigured"]
    told = json.dumps([answer.fields for answer in answers])
    logged = served.log.read_text() + wrong.log.read_text()
    assert key not in told
    assert key not in logged
    assert "[redacted]" in logged
    assert "Traceback" not in logged
    stored = database.rows("SELECT * FROM maintenance.meter_sends")
    assert key not in str(stored)
    assert key not in str(database.rows("SELECT * FROM maintenance.runs"))
    assert key not in repr(settings_of(settings))


def settings_of(environ: dict[str, str]) -> object:
    return parse_settings({**environ, "DATABASE_URL": "postgresql://a@b/c"})


# ---- an outage


@pytest.mark.parametrize("waiting", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_three_hours_of_outage_with_many_events_waiting(world: StripeWorld, waiting: int) -> None:
    """Each run ends cleanly inside its deadline; then it is caught up with, each event once."""
    for number in range(100):
        world.user(f"user{number}")
    world.database.execute(
        "INSERT INTO usage_events (user_id, pages, occurred_at, source) "
        "SELECT 'user' || mod(n, 100), 1, CAST(:at AS timestamptz) - n * interval '0.1 seconds', 'x' "
        "FROM generate_series(1, CAST(:waiting AS integer)) n",
        at=NOON - HOUR,
        waiting=waiting,
    )
    world.stripe.faults.down = True
    environment = world.environment()
    for _ in range(3):
        outcome = world.run(environment=environment)
        assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "stripe")
        world.clock.advance(hours=1)
    # It comes back, and goes away again in the middle.
    world.stripe.faults.down = False
    receive = world.stripe.receive
    calls = iter(range(100_000))

    def fade(*arguments: object) -> object:
        world.stripe.faults.down = next(calls) >= 500
        return receive(*arguments)  # type: ignore[arg-type]

    world.stripe.receive = fade  # type: ignore[method-assign, assignment]
    outcome = world.run(environment=environment)
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "stripe")
    faded = outcome.counts["success_count"]
    assert 500 <= faded < 700
    in_doubt = "SELECT count(*) FROM maintenance.meter_sends WHERE state = 'in_doubt'"
    assert world.database.value(in_doubt) < 200, "most of what waits was not tried"
    assert world.database.value("SELECT count(*) FROM maintenance.meter_sends WHERE state = 'sending'") == 0
    world.stripe.receive = receive  # type: ignore[method-assign]
    world.stripe.faults.down = False
    world.clock.advance(hours=1)
    outcome = world.run(environment=environment, limit=3_000)
    assert (outcome.status, outcome.counts["success_count"]) == (Status.COMPLETED, 3_000)
    # benchmarks/ catches up with all of them, at full speed.
    assert len(world.stripe.events) == len({each.identifier for each in world.stripe.events}) >= faded + 3_000
    assert world.database.value("SELECT count(*) FROM usage_events WHERE stripe_reported") == faded + 3_000


# ---- the form of what is said to Stripe


def test_every_request_is_of_the_form_that_stripe_publishes(world: StripeWorld) -> None:
    check = checker()
    everything(world)
    world.database.use("ann", PERIOD_START, 4)
    world.run(environment=world.environment({"STRIPE_TAKEOVER_AT": None}))
    world.clock.advance(hours=2)
    world.run()
    kinds = {each.target.split("?")[0] for each in world.server.requests}
    assert len(kinds) == 5, kinds
    for each in world.server.requests:
        assert check.problems(each.method, each.target, each.headers, each.body) == []


def checker() -> ModuleType:
    """Stripe's published API description, which stands beside the repository and not in it."""
    file = Path(REPOSITORY).parent / "shared" / "stripe-api" / "check_request.py"
    if not file.exists():
        pytest.skip("Stripe's published description is not beside this repository")
    spec = importlib.util.spec_from_file_location("check_request", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
