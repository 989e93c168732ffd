"""`ops stripe retry`: what Stripe refused is decided anew, and billed once."""

import json
import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from click.testing import Result

from ops.shell import WRONG
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.stripe import StripeWorld, add_send, recorded, state_of, told

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

Ops = Callable[..., Result]


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


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
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
