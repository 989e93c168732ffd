"""Which events are billed: by what held when they occurred."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from shared.outcome import Status
from tests.support.clock import NOON
from tests.support.stripe import PERIOD_START, StripeWorld

HOUR = timedelta(hours=1)
NOT_BILLED = (True, None)
LEFT = (False, None)


def test_usage_of_the_current_period_is_reported_as_it_occurred(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 7, at=NOON - 3 * HOUR)
    outcome = world.run()
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert (outcome.counts["retry_count"], outcome.counts["retry_pages"]) == (1, 7)
    assert (outcome.counts["success_count"], outcome.counts["success_pages"]) == (1, 7)
    assert outcome.message == "Stripe reconcile completed: Stripe has 1 more event; 1 sent"
    assert world.event(key) == (True, key)
    (sent,) = world.stripe.events
    assert (sent.identifier, sent.customer, sent.value) == (key, customer, 7)
    assert sent.timestamp == NOON - 3 * HOUR


def test_young_events_are_left_to_the_service(world: StripeWorld) -> None:
    world.user("ann")
    young = world.usage("ann", at=NOON - timedelta(minutes=14))
    old = world.usage("ann", at=NOON - timedelta(minutes=16))
    assert world.run().counts["retry_count"] == 1
    assert world.event(old) == (True, old)
    assert world.event(young) == LEFT
    assert world.state(young) is None


def test_what_the_service_has_reported_is_not_sent(world: StripeWorld) -> None:
    world.user("ann")
    world.usage("ann", stripe_reported=True, stripe_record_id="mtr_event_1")
    assert world.run().counts["retry_count"] == 0
    assert world.posts() == 0


def test_nothing_is_billed_for_zero_pages(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", 0)
    outcome = world.run()
    assert world.event(key) == NOT_BILLED
    assert (outcome.counts["zero_pages_count"], outcome.counts["not_billable_count"]) == (1, 1)
    assert world.posts() == 0


def test_a_free_user_without_a_customer_is_not_billed(world: StripeWorld) -> None:
    world.user("ann", "free", customer=None)
    key = world.usage("ann", 4)
    outcome = world.run()
    assert world.event(key) == NOT_BILLED
    assert (outcome.counts["free_count"], outcome.counts["free_pages"]) == (1, 4)
    assert (outcome.counts["not_billable_count"], outcome.counts["not_billable_pages"]) == (1, 4)


def test_who_used_the_free_plan_and_then_upgraded_pays_only_from_then_on(world: StripeWorld) -> None:
    """The period on record reaches back to before the upgrade in no way: Stripe's period begins with it."""
    customer = world.user("ann", paying_since=PERIOD_START)
    free, paid = world.usage("ann", 3, at=PERIOD_START - HOUR), world.usage("ann", 4, at=PERIOD_START)
    outcome = world.run()
    assert world.event(free) == NOT_BILLED
    assert world.event(paid) == (True, paid)
    assert world.counted(customer) == 4
    assert (outcome.counts["not_subscribed_count"], outcome.counts["not_subscribed_pages"]) == (1, 3)


def test_who_paid_and_then_cancelled_pays_for_what_was_used_until_then(world: StripeWorld) -> None:
    customer = world.user("ann", "free", customer="cus_ann")
    ended = NOON - 2 * HOUR
    world.stripe.add_subscription(customer, start=NOON - timedelta(days=40), ended_at=ended, status="canceled")
    paid = world.usage("ann", 3, at=ended - timedelta(seconds=1))
    free = world.usage("ann", 4, at=ended)
    world.run()
    assert world.event(paid) == (True, paid)
    assert world.event(free) == NOT_BILLED
    assert world.counted(customer) == 3


@pytest.mark.parametrize("status", ["incomplete", "incomplete_expired"])
def test_a_subscription_whose_first_payment_never_came_bills_nothing(world: StripeWorld, status: str) -> None:
    customer = world.user("ann", "free", customer="cus_ann")
    world.stripe.add_subscription(customer, start=NOON - timedelta(days=40), status=status)
    key = world.usage("ann")
    world.run()
    assert world.event(key) == NOT_BILLED


@pytest.mark.parametrize("status", ["active", "past_due", "unpaid", "trialing", "paused"])
def test_any_other_subscription_bills(world: StripeWorld, status: str) -> None:
    customer = world.user("ann", "free", customer="cus_ann")
    world.stripe.add_subscription(customer, start=NOON - timedelta(days=40), status=status)
    key = world.usage("ann")
    world.run()
    assert world.event(key) == (True, key)


def test_a_subscription_to_something_else_bills_no_pages(world: StripeWorld) -> None:
    customer = world.user("ann", "free", customer="cus_ann")
    other = world.stripe.add_meter("storage")
    world.stripe.add_subscription(customer, start=NOON - timedelta(days=40), meter_id=other.id)
    key = world.usage("ann")
    world.run()
    assert world.event(key) == NOT_BILLED


def test_a_customer_is_asked_about_once_a_run(world: StripeWorld) -> None:
    world.user("ann", "free", customer="cus_ann")
    for minutes in range(20, 60):
        world.usage("ann", at=NOON - timedelta(minutes=minutes))
    world.run()
    asked = [each for each in world.server.requests if each.target.startswith("/v1/subscriptions")]
    assert len(asked) == 1
    assert "status=all" in asked[0].target


def test_a_checkout_that_was_never_paid_bills_nothing(world: StripeWorld) -> None:
    world.user("ann", "free", customer="cus_ann")
    key = world.usage("ann")
    world.run()
    assert world.event(key) == NOT_BILLED


def paid_counter(world: StripeWorld, user: str, start: datetime, end: datetime) -> None:
    world.database.execute(
        "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:u, :s, :e, 9)",
        u=user,
        s=start,
        e=end,
    )


@pytest.mark.parametrize("customer", [None, "cus_new"])
def test_a_user_who_was_paid_under_a_customer_that_was_replaced_is_blocked(
    world: StripeWorld, customer: str | None
) -> None:
    """Stripe shows no subscription of this customer, and the service counted in a period of Stripe's."""
    world.user("ann", "free", customer=customer)
    paid_counter(world, "ann", NOON - timedelta(days=10), NOON + timedelta(days=20))
    key = world.usage("ann", 6)
    outcome = world.run()
    assert world.event(key) == LEFT
    assert (world.state(key), world.send(key)["error_code"]) == ("blocked", "was_paid")
    assert (outcome.counts["blocked_count"], outcome.counts["blocked_pages"]) == (1, 6)
    assert '"kind": "blocked"' in world.log


def test_a_new_subscription_of_the_new_customer_does_not_explain_the_old_period(world: StripeWorld) -> None:
    customer = world.user("ann", "pro", customer="cus_new", paying_since=NOON - timedelta(days=2))
    world.database.execute("UPDATE billing_accounts SET current_period_start = :s", s=NOON - timedelta(days=2))
    paid_counter(world, "ann", NOON - timedelta(days=20), NOON + timedelta(days=10))
    key = world.usage("ann", at=NOON - timedelta(days=5))
    world.run()
    assert world.state(key) == "blocked"
    assert world.counted(customer) == 0


def test_a_subscription_that_ended_in_the_middle_of_its_period_explains_the_period(world: StripeWorld) -> None:
    """Cancelled at once: what is used on the free plan in the rest of that period is not billed, and needs nobody."""
    customer = world.user("ann", "free", customer="cus_ann")
    start = NOON - timedelta(days=10)
    world.stripe.add_subscription(customer, start=start, ended_at=NOON - timedelta(days=3), status="canceled")
    paid_counter(world, "ann", start, NOON + timedelta(days=20))
    key = world.usage("ann", at=NOON - timedelta(days=1))
    world.run()
    assert world.event(key) == NOT_BILLED


def test_a_calendar_month_is_no_sign_of_paying(world: StripeWorld) -> None:
    world.user("ann", "free", customer=None)
    for year, month, last in ((2026, 5, 31), (2024, 2, 29), (2025, 12, 31)):
        start = datetime(year, month, 1, tzinfo=UTC)
        paid_counter(world, "ann", start, start.replace(day=last, hour=23, minute=59, second=59))
    keys = [world.usage("ann", at=at) for at in (NOON - HOUR, datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC))]
    keys.append(world.usage("ann", at=datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)))
    world.run()
    assert [world.event(key) for key in keys] == [NOT_BILLED] * 3


def test_a_paid_account_without_a_customer_is_blocked_until_it_has_one(world: StripeWorld) -> None:
    world.user("ann", customer=None)
    key = world.usage("ann")
    outcome = world.run()
    assert (outcome.status, outcome.counts["blocked_count"]) == (Status.COMPLETED, 1)
    assert (world.state(key), world.send(key)["error_code"]) == ("blocked", "no_customer")
    assert world.event(key) == LEFT
    world.stripe.add_customer("cus_ann")
    world.database.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_ann'")
    assert world.run().counts["blocked_count"] == 0
    assert world.event(key) == (True, key)


def test_a_user_without_a_billing_account_is_blocked(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann")
    world.database.execute("DELETE FROM billing_accounts")
    world.run()
    assert (world.state(key), world.send(key)["error_code"]) == ("blocked", "no_account")


def test_a_customer_that_stripe_does_not_know_is_blocked(world: StripeWorld) -> None:
    world.user("ann", "free", customer="cus_ann")
    world.database.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_gone'")
    key = world.usage("ann")
    world.run()
    assert (world.state(key), world.send(key)["error_code"]) == ("blocked", "unclear")


def test_a_blank_customer_is_none(world: StripeWorld) -> None:
    world.user("ann", customer=None)
    world.database.execute("UPDATE billing_accounts SET stripe_customer_id = '  '")
    key = world.usage("ann")
    world.run()
    assert world.send(key)["error_code"] == "no_customer"


def test_an_event_past_the_end_of_the_period_on_record_belongs_to_the_next(world: StripeWorld) -> None:
    """Stripe's webhook of the new period has not come yet: the event is neither urgent nor late."""
    world.user("ann")
    world.database.execute("UPDATE billing_accounts SET current_period_end = :e", e=NOON - 5 * HOUR)
    key = world.usage("ann", at=NOON - 3 * HOUR)
    assert world.run().counts["late_count"] == 0
    send = world.send(key)
    assert send["state"] == "accepted"
    closes = send["invoice_closes_at"]
    assert isinstance(closes, datetime)
    assert closes > NOON + timedelta(days=5)


def test_reported_at_a_quarter_past_midnight_usage_of_ten_to_counts_in_the_old_period(world: StripeWorld) -> None:
    """A year boundary: the period has rolled over when the run comes."""
    midnight = datetime(2026, 1, 1, tzinfo=UTC)
    world.clock.set(midnight + timedelta(minutes=15))
    customer = world.user("ann", paying_since=midnight - timedelta(days=31))
    world.database.execute(
        "UPDATE billing_accounts SET current_period_start = :s, current_period_end = :e",
        s=midnight,
        e=midnight + timedelta(days=31),
    )
    key = world.usage("ann", 5, at=midnight - timedelta(minutes=10))
    outcome = world.run(slot=midnight + timedelta(minutes=15))
    assert (outcome.status, outcome.counts["late_count"]) == (Status.COMPLETED, 0)
    assert world.event(key) == (True, key)
    december = midnight - timedelta(days=31)
    assert world.stripe.counted(customer, december, midnight) == 5
    assert world.stripe.counted(customer, midnight, midnight + timedelta(days=31)) == 0


def test_what_is_accepted_after_the_invoice_was_closed_is_late(world: StripeWorld) -> None:
    world.user("ann")
    in_time = world.usage("ann", 2, at=NOON - HOUR)
    late = world.usage("ann", 3, at=PERIOD_START - HOUR)
    outcome = world.run()
    assert world.send(in_time)["late"] is False
    assert world.send(late)["late"] is True
    assert (outcome.counts["late_count"], outcome.counts["late_pages"]) == (1, 3)


def test_the_plans_that_are_free_are_a_setting(world: StripeWorld) -> None:
    world.user("ann", "basic", customer=None)
    key = world.usage("ann")
    world.run(environment=world.environment({"FREE_PLAN_CODES": "free,basic"}))
    assert world.event(key) == NOT_BILLED


def test_events_are_decided_in_batches_of_any_size(world: StripeWorld) -> None:
    """More than one batch, many at the same time, and the last batch full to the brim."""
    world.user("ann", "free", customer=None)
    world.user("bob")
    world.database.execute(
        "INSERT INTO usage_events (id, user_id, pages, occurred_at, source) SELECT gen_random_uuid(), "
        "CASE WHEN mod(n, 100) = 0 THEN 'bob' ELSE 'ann' END, 1, "
        "CAST(:at AS timestamptz) - (n / 500) * interval '1 minute', 'x' FROM generate_series(1, 4000) n",
        at=NOON - HOUR,
    )
    outcome = world.run()
    assert (outcome.counts["free_count"], outcome.counts["success_count"]) == (3960, 40)
    assert world.database.value("SELECT count(*) FROM usage_events WHERE NOT stripe_reported") == 0


def test_an_event_that_the_service_holds_is_passed_by(world: StripeWorld) -> None:
    world.user("ann", "free", customer=None)
    held, other = world.usage("ann"), world.usage("ann")
    with world.database.engine.connect() as service:
        service.execute(text("SELECT 1 FROM usage_events WHERE id = :k FOR UPDATE"), {"k": held})
        assert world.run().counts["free_count"] == 1
    assert (world.event(held), world.event(other)) == (LEFT, NOT_BILLED)
    world.run()
    assert world.event(held) == NOT_BILLED
