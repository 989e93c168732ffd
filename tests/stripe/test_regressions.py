"""Defects that tests/stripe/test_exactly_once.py, or thinking about it, has found: each as short as it can be."""

from datetime import timedelta

from tests.stripe.test_looking import sent_by_service
from tests.support.clock import NOON
from tests.support.stripe import StripeWorld

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
BEFORE_TAKEOVER = {"STRIPE_TAKEOVER_AT": None}


def test_what_is_too_young_to_be_decided_is_not_taken_for_an_older_event_in_its_hour(world: StripeWorld) -> None:
    """The service sent one eleven minutes ago and died before marking it; older ones in its hour were lost.

    The job leaves the young one to the service, but its pages stand in Stripe's sum of the hour all the same.
    """
    customer = world.user("ann")
    hour = NOON - HOUR
    lost = [world.usage("ann", 4, at=hour - 5 * HOUR), world.usage("ann", 4, at=hour + 5 * MINUTE)]
    young = world.usage("ann", 4, at=hour + 55 * MINUTE)
    sent_by_service(world, customer, 4, hour + 55 * MINUTE)
    world.clock.set(NOON + 6 * MINUTE)
    environment = world.environment(BEFORE_TAKEOVER)
    world.run(environment=environment)
    world.clock.advance(hours=3)
    world.run(environment=environment)
    assert [world.event(key) for key in (*lost, young)] == [(True, key) for key in (*lost, young)]
    assert world.counted(customer) == 12


def test_what_another_meter_has_is_not_known_to_be_on_this_one(world: StripeWorld) -> None:
    """Accepted on the meter of before, in the same minute: this meter's sum cannot have it."""
    customer = world.user("ann")
    moment = NOON - 3 * HOUR
    before = world.usage("ann", 4, at=moment)
    world.run(environment=world.environment())
    assert world.state(before) == "accepted"
    world.stripe.meter = world.stripe.add_meter("leaves")
    after = world.usage("ann", 4, at=moment + timedelta(seconds=10))
    payload = {"stripe_customer_id": customer, "value": "4"}
    world.stripe.receive("leaves", payload, None, int((moment + timedelta(seconds=20)).timestamp()))
    changes = {"STRIPE_METER_PAGES": world.stripe.meter.id, **BEFORE_TAKEOVER}
    world.run(environment=world.environment(changes))
    assert world.event(after) == (True, after)
    assert world.counted(customer) == 8


def test_what_the_service_sent_under_a_customer_that_was_replaced_is_not_taken_for_another(world: StripeWorld) -> None:
    """In doubt under the old customer; in the same minute the service sent and marked another one there."""
    world.user("ann", "free", customer="cus_old")
    world.stripe.add_subscription("cus_old", start=NOON - timedelta(days=60))
    start = NOON - timedelta(days=10)
    world.database.execute("UPDATE billing_accounts SET plan_code = 'pro', current_period_start = :s", s=start)
    key = world.usage("ann", 4, at=NOON - HOUR)
    world.stripe.faults.add("cut_before", times=None)
    world.run()
    world.stripe.faults.clear()
    assert world.state(key) == "in_doubt"
    world.usage("ann", 4, at=NOON - HOUR, stripe_reported=True, stripe_record_id="theirs")
    sent_by_service(world, "cus_old", 4, NOON - HOUR, "theirs")
    world.stripe.add_customer("cus_new")
    world.database.execute("UPDATE billing_accounts SET plan_code = 'free', stripe_customer_id = 'cus_new'")
    for _ in range(3):
        world.clock.advance(hours=25)
        world.run()
    # At Stripe, or still shown as in doubt; never said to be there when it is not.
    assert (world.state(key), world.counted("cus_old")) in (("accepted", 8), ("in_doubt", 4))
