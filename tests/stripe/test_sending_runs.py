"""A run that sends: throttled, in which order, and what stops it before it is through."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from devstack.stripe_objects import Refused
from shared.outcome import Status
from tests.conftest import Environment
from tests.support.clock import NOON, ManualClock
from tests.support.stripe import StripeWorld

# ---- throttled


def test_a_throttled_event_is_as_it_was_and_is_sent_later_in_the_run(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add("429", times=3, retry_after=7)
    world.stripe.faults.add("409", times=1)
    outcome = world.run()
    assert outcome.counts["success_count"] == 1
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4
    assert world.send(key)["attempts"] == 1


def test_throttled_to_the_end_an_event_that_never_left_is_as_if_never_tried(world: StripeWorld) -> None:
    for number in range(15):
        world.user(f"user{number}")
        key = world.usage(f"user{number}")
    world.stripe.faults.add("429", times=None, retry_after=60)
    environment = world.environment()
    outcome = world.run(environment=environment)
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "stripe")
    send = world.send(key)
    assert (send["state"], send["first_sent_at"], send["attempts"]) == ("pending", None, 0)
    assert environment.services.timer.seconds() >= 4 * 60, "what Stripe asks for is honoured by every try"
    assert world.posts() <= 2 * 15 + 6


@pytest.mark.parametrize("fault", ["429", "409"])
def test_a_customer_that_is_always_busy_takes_nobody_along(world: StripeWorld, fault: str) -> None:
    """Somebody else sends for this customer all the time."""
    for number in range(12):
        world.user(f"user{number}")
        for minutes in (20, 30, 40):
            key = world.usage(f"user{number}", 1, at=NOON - timedelta(minutes=minutes))
            if number == 5:
                code = "too_many_concurrent_requests"
                world.stripe.faults.add(fault, times=None, identifier=key, code=code)
    outcome = world.run()
    assert (outcome.status, outcome.success, outcome.counts["success_count"]) == (Status.COMPLETED, True, 33)
    assert (outcome.counts["waiting_count"], outcome.counts["in_doubt_count"]) == (3, 0)
    assert world.counted("cus_user5") == 0
    world.stripe.faults.clear()
    assert world.run().counts["success_count"] == 3


def test_a_busy_customer_who_is_the_first_to_be_answered_after_an_outage_holds_up_nobody(world: StripeWorld) -> None:
    for number in range(8):
        world.user(f"user{number}")
        world.usage(f"user{number}")
    # So many failures that nobody is sent any more; then one alone tries whether Stripe is back.
    world.stripe.faults.add("500_before", times=10)
    world.stripe.faults.add("409", times=1)
    world.clock = ManualClock(step=timedelta(milliseconds=100))
    # One thread, so that no other meets a fault.
    outcome = world.run(environment=world.environment({"STRIPE_RATE": "1"}))
    assert (outcome.status, outcome.counts["waiting_count"]) == (Status.COMPLETED, 0)
    assert outcome.counts["success_count"] + outcome.counts["in_doubt_count"] == 8


def test_refusals_of_everybodys_events_are_nobodys(world: StripeWorld) -> None:
    """Something is wrong with all of them: the run stops, and no backlog becomes dead letters."""
    for number in range(60):
        world.user(f"user{number}")
        world.usage(f"user{number}")
    body = {"error": {"type": "invalid_request_error", "code": "parameter_unknown", "message": "Unknown: payload."}}
    world.stripe.faults.add("status", status=400, body=body, times=None)
    outcome = world.run()
    assert (outcome.status, outcome.success) == (Status.MISCONFIGURED, False)
    assert "Unknown: payload." in outcome.message
    states = world.database.rows("SELECT DISTINCT state s, first_sent_at f FROM maintenance.meter_sends")
    assert [(row["s"], row["f"]) for row in states] == [("pending", None)]
    world.stripe.faults.clear()
    assert world.run().counts["success_count"] == 60


def test_many_refusals_of_one_customers_events_are_its_own(world: StripeWorld) -> None:
    world.user("ann")
    keys = [world.usage("ann", 1, at=NOON - timedelta(minutes=20 + number)) for number in range(25)]
    body = {"error": {"type": "invalid_request_error", "message": "No."}}
    world.stripe.faults.add("status", status=400, body=body, times=None)
    assert world.run().counts["rejected_count"] == 25
    assert {world.state(key) for key in keys} == {"rejected"}


def test_one_call_a_customer_at_a_time(world: StripeWorld) -> None:
    """The stand-in answers 429 to a second one; none is ever sent."""
    for name in ("ann", "bob", "cat"):
        world.user(name)
        for number in range(30):
            world.usage(name, 1, at=NOON - timedelta(minutes=30 + number))
    world.server.latency = 0.002
    assert world.run().counts["success_count"] == 90
    assert world.posts() == 90


# ---- the run stops


@pytest.mark.parametrize(("status", "setting"), [(401, "STRIPE_SECRET_KEY"), (403, "STRIPE_SECRET_KEY")])
def test_a_key_that_is_refused_in_the_middle_stops_the_run_and_marks_nothing(
    world: StripeWorld, status: int, setting: str
) -> None:
    for name in ("ann", "bob"):
        world.user(name)
        for number in range(20):
            world.usage(name, at=NOON - timedelta(minutes=30 + number))
    body = {"error": {"type": "invalid_request_error", "message": "No."}}
    world.stripe.faults.add("status", status=status, body=body, times=None)
    outcome = world.run()
    assert (outcome.status, outcome.success, outcome.details["setting"]) == (Status.MISCONFIGURED, False, setting)
    assert world.posts() <= 2
    assert world.database.value("SELECT count(*) FROM usage_events WHERE stripe_reported") == 0
    states = world.database.rows("SELECT DISTINCT state s, first_sent_at f FROM maintenance.meter_sends")
    assert [(row["s"], row["f"]) for row in states] == [("pending", None)]


def refuse_next(world: StripeWorld, environment: Environment, meanwhile: Callable[[], object], *codes: int) -> None:
    """Have Stripe refuse the next events, the last of them two minutes later, when something has happened meanwhile."""
    left, receive = list(codes), world.stripe.receive

    def refuse(*_: object) -> object:
        code = left.pop(0)
        if not left:
            meanwhile()
            environment.services.timer.wait(120)
            world.stripe.receive = receive  # type: ignore[method-assign]
        raise Refused(code, "invalid_request_error", None, "No.")

    world.stripe.receive = refuse  # type: ignore[method-assign, assignment]


def test_refusals_of_a_meter_that_was_switched_off_in_the_middle_are_no_dead_letters(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann")
    environment = world.environment()
    refuse_next(world, environment, lambda: setattr(world.stripe.meter, "status", "inactive"), 400)
    outcome = world.run(environment=environment)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "STRIPE_METER_PAGES")
    assert world.state(key) == "pending"


def test_refusals_with_no_time_left_to_look_at_the_meter_are_left_to_the_next_attempt(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann")
    environment = world.environment()
    refuse_next(world, environment, lambda: world.clock.advance(minutes=40), 400)
    outcome = world.run(environment=environment)
    assert (outcome.status, outcome.counts["failed_count"]) == (Status.INCOMPLETE, 0)
    assert "time ran out" in outcome.message
    assert world.state(key) == "pending"
    assert world.run(environment=environment).counts["success_count"] == 1


def test_a_key_that_is_refused_as_time_runs_out_is_told_all_the_same(world: StripeWorld) -> None:
    """What a refusal before it was about could not be looked at any more; that alone would be nobody's fault."""
    world.user("ann")
    keys = [world.usage("ann", at=NOON - timedelta(hours=2)), world.usage("ann")]
    environment = world.environment()
    refuse_next(world, environment, lambda: world.clock.advance(minutes=40), 400, 401)
    outcome = world.run(environment=environment)
    assert (outcome.status, outcome.details.get("setting")) == (Status.MISCONFIGURED, "STRIPE_SECRET_KEY")
    assert [world.state(key) for key in keys] == ["pending", "pending"]


def test_stripe_down_ends_the_run_as_unavailable_and_the_next_one_goes_on(world: StripeWorld) -> None:
    customer = world.user("ann")
    keys = [world.usage("ann", 1, at=NOON - timedelta(minutes=30 + number)) for number in range(30)]
    world.stripe.faults.add("cut_before", times=None)
    outcome = world.run()
    assert (outcome.status, outcome.success, outcome.details["service"]) == (Status.UNAVAILABLE, False, "stripe")
    assert world.counted(customer) == 0
    tried = [key for key in keys if world.state(key) == "in_doubt"]
    assert 1 <= len(tried) <= 10, "most of what waits was not tried"
    world.stripe.faults.clear()
    world.clock.advance(hours=2)
    assert world.run().status is Status.COMPLETED
    assert world.counted(customer) == 30
    assert len(world.stripe.events) == 30


def test_the_soonest_invoice_goes_first_and_those_that_are_closed_go_last(world: StripeWorld) -> None:
    for name, end in (("later", 20), ("soon", 1), ("closing", 10)):
        world.user(name)
        world.database.execute(
            "UPDATE billing_accounts SET current_period_end = :e WHERE user_id = :u",
            e=NOON + timedelta(days=end),
            u=name,
        )
    for name, start in (("open", NOON - timedelta(minutes=50)), ("closed", NOON - timedelta(minutes=70))):
        world.user(name, paying_since=NOON - timedelta(days=90))
        world.database.execute(
            "UPDATE billing_accounts SET current_period_start = :s, current_period_end = :e WHERE user_id = :u",
            s=start,
            e=start + timedelta(days=30),
            u=name,
        )
    for name in ("later", "soon", "closing", "open", "closed"):
        world.usage(name, at=NOON - timedelta(minutes=80))
    # One thread, so that the order in which they are sent is the order in which they are taken.
    world.run(environment=world.environment({"STRIPE_RATE": "1", "STRIPE_READ_RATE": "1000"}))
    order = [each.customer.removeprefix("cus_") for each in world.stripe.events]
    assert order.index("open") < order.index("soon") < order.index("closing") < order.index("later")
    assert order.index("closed") == 4


def test_the_deadline_ends_it_cleanly_and_the_next_attempt_of_the_slot_goes_on(world: StripeWorld) -> None:
    customer = world.user("ann")
    for number in range(40):
        world.usage("ann", 1, at=NOON - timedelta(minutes=30 + number))
    environment = world.environment()
    receive = world.stripe.receive

    def slow(*arguments: object) -> object:
        world.clock.advance(minutes=3)
        return receive(*arguments)  # type: ignore[arg-type]

    world.stripe.receive = slow  # type: ignore[method-assign, assignment]
    first = world.run(slot=NOON, environment=environment)
    assert (first.status, first.success) == (Status.INCOMPLETE, False)
    assert 0 < first.counts["success_count"] < 40
    assert "time ran out" in first.message
    assert world.database.value("SELECT count(*) FROM maintenance.meter_sends WHERE state = 'sending'") == 0
    world.stripe.receive = receive  # type: ignore[method-assign]
    second = world.run(slot=NOON, environment=environment)
    assert (second.status, second.counts["success_count"]) == (Status.COMPLETED, 40)
    assert world.counted(customer) == 40


def test_a_limit_is_kept(world: StripeWorld) -> None:
    world.user("ann")
    for number in range(10):
        world.usage("ann", at=NOON - timedelta(minutes=30 + number))
    outcome = world.run(limit=3)
    assert (outcome.status, outcome.counts["retry_count"]) == (Status.COMPLETED, 3)
    assert "limit reached" in outcome.message
    assert world.posts() == 3
    world.user("bob", "free", customer=None)
    for number in range(10):
        world.usage("bob", at=NOON - timedelta(minutes=90 + number))
    outcome = world.run(limit=4)
    assert outcome.counts["not_billable_count"] == 4
