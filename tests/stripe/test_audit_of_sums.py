"""The audit: what Stripe shows is held against what was accepted."""

from datetime import timedelta

from shared.outcome import Status
from tests.support.clock import NOON
from tests.support.stripe import PERIOD_END, PERIOD_START, StripeWorld

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def test_what_stripe_shows_is_verified_an_hour_later(world: StripeWorld) -> None:
    world.user("ann")
    world.database.use("ann", PERIOD_START, 4)
    world.database.execute("UPDATE usage_counters SET period_end = :e", e=PERIOD_END)
    key = world.usage("ann", 4)
    world.run()
    assert world.send(key)["verified_at"] is None, "the sums lag"
    world.clock.advance(hours=2)
    outcome = world.run()
    assert outcome.counts["verified_count"] == 1
    assert world.send(key)["verified_at"] == NOON + 2 * HOUR
    assert world.database.value("SELECT count(*) FROM maintenance.drift") == 0


def test_a_difference_is_written_down_and_never_corrected(world: StripeWorld) -> None:
    customer = world.user("ann")
    world.database.use("ann", PERIOD_START, 4)
    world.database.execute("UPDATE usage_counters SET period_end = :e", e=PERIOD_END)
    world.usage("ann", 4)
    world.run()
    payload = {"stripe_customer_id": customer, "value": "3"}
    world.stripe.receive("pages", payload, "by hand", int((NOON - DAY).timestamp()))
    world.clock.advance(hours=2)
    posts = world.posts()
    for _ in range(2):
        outcome = world.run()
        assert (outcome.counts["drift_count"], outcome.counts["unresolved_drift_count"]) == (1, 1)
        world.clock.advance(hours=2)
    drift = world.database.row("SELECT * FROM maintenance.drift")
    assert (drift["stripe_customer_id"], drift["period_start"]) == (customer, PERIOD_START)
    assert (drift["ours"], drift["theirs"], drift["reason"]) == (4, 7, "sums_differ")
    assert world.posts() == posts
    world.stripe.refuse_later("by hand")
    outcome = world.run()
    assert outcome.counts["unresolved_drift_count"] == 0
    assert world.database.row("SELECT * FROM maintenance.drift")["resolved_at"] is not None


def test_what_is_under_way_is_no_difference(world: StripeWorld) -> None:
    """In doubt: Stripe may show it or not."""
    world.user("ann")
    world.database.use("ann", PERIOD_START, 4)
    world.database.execute("UPDATE usage_counters SET period_end = :e", e=PERIOD_END)
    sure, doubtful = world.usage("ann", 4), world.usage("ann", 5, at=NOON - 2 * HOUR)
    world.stripe.faults.add("cut_after", times=None, identifier=doubtful)
    world.run()
    world.clock.advance(minutes=90)
    outcome = world.run()
    assert world.state(doubtful) == "in_doubt"
    assert outcome.counts["drift_count"] == 0
    assert world.send(sure)["verified_at"] is None


def test_all_customers_take_their_turn(world: StripeWorld) -> None:
    """Also one for whom only the service itself has reported anything, and marked it although Stripe has nothing."""
    for number in range(60):
        name = f"user{number:02}"
        world.user(name)
        world.database.use(name, PERIOD_START, 4)
    world.database.execute("UPDATE usage_counters SET period_end = :e", e=PERIOD_END)
    world.usage("user57", 4, at=NOON - DAY, stripe_reported=True, stripe_record_id="never-sent")
    assert world.run().counts["drift_count"] == 0
    assert world.run().counts["drift_count"] == 1
    assert world.database.value("SELECT stripe_customer_id FROM maintenance.drift") == "cus_user57"


def test_what_cannot_be_compared_now_does_not_fail_the_run(world: StripeWorld) -> None:
    world.user("ann")
    world.database.use("ann", PERIOD_START, 4)
    world.database.execute("UPDATE usage_counters SET period_end = :e", e=PERIOD_END)
    key = world.usage("ann")
    path = f"/v1/billing/meters/{world.stripe.meter.id}/event_summaries"
    world.stripe.faults.add("500_before", times=None, path=path, method="GET")
    outcome = world.run()
    assert (outcome.status, outcome.counts["success_count"]) == (Status.COMPLETED, 1)
    assert world.event(key) == (True, key)
