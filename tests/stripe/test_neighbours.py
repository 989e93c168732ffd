"""What else may stand in the minutes of an event that is looked for: each case was once told wrongly."""

from datetime import datetime, timedelta

from sqlalchemy import text

from shared.outcome import Status
from tests.support.clock import NOON
from tests.support.stripe import StripeWorld, at

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def sent_by_service(world: StripeWorld, customer: str, pages: int, moment: datetime, event_name: str = "pages") -> str:
    payload = {"stripe_customer_id": customer, "value": str(pages)}
    return world.stripe.receive(event_name, payload, None, int((moment + timedelta(seconds=5)).timestamp())).identifier


def marked(world: StripeWorld, customer: str, pages: int, moment: datetime) -> str:
    """Used, sent by the service and marked."""
    record = sent_by_service(world, customer, pages, moment)
    return world.usage("ann", pages, at=moment, stripe_reported=True, stripe_record_id=record)


def test_among_pages_of_every_minute_a_lost_one_is_found(world: StripeWorld) -> None:
    """Each may stand in its minute or the next, so that no minute has an edge."""
    customer = world.user("ann")
    middle = NOON - 6 * HOUR + timedelta(seconds=30)
    for number in range(-90, 91):
        if number:
            marked(world, customer, 5, middle + number * MINUTE)
    lost = world.usage("ann", 5, at=middle)
    world.run(environment=world.environment({"STRIPE_TAKEOVER_AT": None}))
    there = [each.identifier for each in world.stripe.events]
    assert world.event(lost) != (True, lost) or there.count(lost) == 1, "marked, and not there"
    assert world.counted(customer) == 180 * 5 + 5 * there.count(lost)
    assert world.state(lost) in ("accepted", "in_doubt")


def test_pages_accepted_a_moment_ago_do_not_hide_that_others_are_there(world: StripeWorld) -> None:
    """At the takeover: one before it, sent by the service and not marked; one after it, lost, and sent first."""
    takeover = NOON - 5 * HOUR
    for number in range(60):
        world.user(f"user{number:03}")
        world.usage(f"user{number:03}", 1, at=takeover - HOUR)
    customer = world.user("zed")
    before = world.usage("zed", 5, at=takeover - timedelta(seconds=40))
    sent_by_service(world, customer, 5, takeover - timedelta(seconds=40))
    after = world.usage("zed", 5, at=takeover + timedelta(seconds=5))
    world.stripe.summary_lag = 10 * MINUTE
    world.clock.advance(minutes=11)
    environment = world.environment({"STRIPE_TAKEOVER_AT": at(takeover)})
    outcome = world.run(environment=environment)
    assert world.counted(customer) == 10
    assert (world.state(before), world.state(after)) == ("pending", "accepted")
    assert outcome.counts["in_doubt_count"] == 0, "nothing to worry about: an hour later it is known"
    world.clock.advance(hours=2)
    world.run(environment=environment)
    assert (world.state(before), world.counted(customer)) == ("accepted", 10)


def test_pages_accepted_on_another_meter_are_none_on_this_one(world: StripeWorld) -> None:
    customer = world.user("ann")
    moment = NOON - 5 * HOUR
    world.usage("ann", 5, at=moment)
    assert world.run().counts["success_count"] == 1
    meter = world.stripe.add_meter("leaves")
    world.stripe.meter = meter
    key = world.usage("ann", 5, at=moment + timedelta(seconds=10))
    sent_by_service(world, customer, 5, moment + timedelta(seconds=10), "leaves")
    world.clock.advance(hours=2)
    world.run(environment=world.environment({"STRIPE_METER_PAGES": meter.id, "STRIPE_TAKEOVER_AT": None}))
    assert [each.event_name for each in world.stripe.events] == ["pages", "leaves"]
    assert world.event(key) == (True, key)


def test_pages_that_nobody_has_decided_about_may_be_what_is_there(world: StripeWorld) -> None:
    """The service holds the row of an event that is at Stripe; beside it stands one that is lost."""
    customer = world.user("ann")
    moment = NOON - 5 * HOUR
    lost = world.usage("ann", 3, at=moment)
    held = world.usage("ann", 5, at=moment + timedelta(seconds=10))
    sent_by_service(world, customer, 5, moment + timedelta(seconds=10))
    environment = world.environment({"STRIPE_TAKEOVER_AT": None})
    with world.database.engine.connect() as service:
        service.execute(text("SELECT 1 FROM usage_events WHERE id = :k FOR UPDATE"), {"k": held})
        world.run(environment=environment)
    assert world.event(lost) == (False, None)
    world.clock.advance(hours=2)
    world.run(environment=environment)
    # The sum of their minute is that of one of them, and does not say of which: both stay in doubt, and are shown.
    assert {world.state(lost), world.state(held)} == {"in_doubt"}
    assert world.counted(customer) == 5


def test_pages_marked_under_a_customer_that_was_replaced_are_still_known(world: StripeWorld) -> None:
    customer = world.user("ann")
    moment = NOON - 30 * HOUR
    world.clock.set(moment + HOUR)
    ours = world.usage("ann", 5, at=moment)
    marked(world, customer, 5, moment + timedelta(seconds=10))
    world.stripe.faults.add("cut_before", times=None)
    world.run()
    world.stripe.faults.clear()
    assert world.state(ours) == "in_doubt"
    world.stripe.add_customer("cus_new")
    world.database.execute("UPDATE billing_accounts SET stripe_customer_id = 'cus_new'")
    for hours in (22, 25, 25):
        world.clock.advance(hours=hours)
        world.run()
        there = [each.identifier.split(":")[0] for each in world.stripe.events].count(ours)
        assert world.event(ours)[0] is (there == 1), "marked exactly if it is there"
        assert world.counted(customer) == 5 + 5 * there


def test_many_events_of_a_customer_are_done_in_one_run(world: StripeWorld) -> None:
    """Those that were sent a moment ago do not put the others in doubt."""
    customer = world.user("ann")
    for number in range(400):
        world.usage("ann", 1, at=NOON - 5 * HOUR + number * timedelta(seconds=3))
    world.stripe.summary_lag = 10 * MINUTE
    outcome = world.run(environment=world.environment({"STRIPE_TAKEOVER_AT": None}))
    assert outcome.counts["in_doubt_count"] == 0
    world.clock.advance(hours=2)
    outcome = world.run(environment=world.environment({"STRIPE_TAKEOVER_AT": None}))
    assert (outcome.counts["in_doubt_count"], outcome.counts["waiting_count"]) == (0, 0)
    assert world.counted(customer) == 400
    assert len(world.stripe.events) == 400


# ---- what must not take everything else along


def test_rows_that_cannot_be_reckoned_with_take_no_others_along(world: StripeWorld) -> None:
    good = []
    for name in ("ann", "bob", "cat", "dan", "eve"):
        world.user(name)
        good.append(world.usage(name))
    execute = world.database.execute
    execute("UPDATE billing_accounts SET current_period_end = '294276-12-31Z' WHERE user_id = 'ann'")
    execute("UPDATE billing_accounts SET current_period_start = '294276-01-01Z' WHERE user_id = 'bob'")
    execute("UPDATE billing_accounts SET stripe_customer_id = :c WHERE user_id = 'cat'", c="x" * 10_000)
    execute("UPDATE usage_events SET occurred_at = '-infinity' WHERE user_id = 'dan'")
    execute(
        "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) "
        "VALUES ('eve', '4713-01-01 BC', '294276-12-31Z', 1)"
    )
    fine = world.user("fay")
    key = world.usage("fay", 3)
    outcome = world.run()
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True), outcome
    assert world.event(key) == (True, key)
    assert world.counted(fine) == 3
    assert world.send(good[2])["error_code"] == "no_such_customer"
    assert outcome.counts["misdated_count"] == 1
    assert outcome.counts["oldest_waiting_minutes"] < 600


def test_an_event_that_the_database_refuses_is_passed_by(world: StripeWorld) -> None:
    """A trigger of the service's refuses to have one of them marked."""
    world.user("ann", "free", customer=None)
    keys = [world.usage("ann", 1, at=NOON - timedelta(minutes=20 + number)) for number in range(9)]
    world.database.script(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$"
    )
    world.database.script(
        f"CREATE TRIGGER refuse BEFORE UPDATE ON usage_events FOR EACH ROW WHEN (OLD.id = '{keys[4]}') "
        "EXECUTE FUNCTION refuse()"
    )
    outcome = world.run()
    assert (outcome.counts["free_count"], outcome.counts["failed_count"]) == (8, 1)
    assert [world.event(key)[0] for key in keys] == [True] * 4 + [False] + [True] * 4
    assert "not this one" in world.log


def test_words_of_stripes_that_cannot_be_kept_take_no_others_along(world: StripeWorld) -> None:
    world.user("ann")
    world.user("bob")
    bad, good = world.usage("ann"), world.usage("bob")
    body = {"error": {"type": "invalid_request_error", "message": "No\0\ud800!"}}
    world.stripe.faults.add("status", status=400, body=body, identifier=bad)
    world.run()
    assert (world.state(bad), world.send(bad)["error_message"]) == ("rejected", "No??!")
    assert world.event(good) == (True, good)


def test_a_feed_of_refusals_that_fails_holds_nothing_up(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann")
    for status in (404, 500):
        body = {"error": {"type": "invalid_request_error", "message": "No."}}
        world.stripe.faults.add("status", status=status, body=body, method="GET", path="/v2/core/events", times=None)
        outcome = world.run()
        assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "stripe")
        assert world.event(key) == (True, key)
        world.stripe.faults.clear()
        key = world.usage("ann")


def test_a_refused_event_whose_row_the_service_holds_is_unmarked_later(world: StripeWorld) -> None:
    world.user("ann")
    bad = world.usage("ann")
    world.run()
    world.stripe.refuse_later(bad)
    good = world.usage("ann")
    with world.database.engine.connect() as service:
        service.execute(text("SELECT 1 FROM usage_events WHERE id = :k FOR UPDATE"), {"k": bad})
        assert world.run().status is Status.COMPLETED
    assert (world.state(bad), world.event(bad)) == ("rejected", (True, bad))
    assert world.event(good) == (True, good)
    world.run()
    assert world.event(bad) == (False, None)


def test_a_wait_that_stripe_asks_for_ends_with_the_run(world: StripeWorld) -> None:
    world.user("ann", "free", customer="cus_ann")
    world.usage("ann")
    world.stripe.faults.add("429", times=None, method="GET", path="/v1/subscriptions", retry_after=3600)
    environment = world.environment()
    timer = environment.services.timer
    wait = timer.wait

    def and_the_clock_goes_on(seconds: float) -> None:
        wait(seconds)
        world.clock.advance(seconds=seconds)

    timer.wait = and_the_clock_goes_on  # type: ignore[method-assign]
    outcome = world.run(environment=environment)
    assert outcome.status in (Status.INCOMPLETE, Status.UNAVAILABLE)
    assert timer.seconds() < 1710, "it stops before its timeout"


def test_what_was_blocked_and_is_gone_is_forgotten(world: StripeWorld) -> None:
    world.user("ann", customer=None)
    key = world.usage("ann")
    assert world.run().counts["blocked_count"] == 1
    world.database.execute("DELETE FROM users")
    assert world.run().counts["blocked_count"] == 0
    assert world.state(key) is None


def test_a_foreign_record_that_came_while_we_settled_is_seen_by_the_next_run(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", 4)
    world.run()
    world.database.execute("UPDATE usage_events SET stripe_record_id = 'theirs'")
    assert world.run().counts["drift_count"] == 1
    assert world.database.row("SELECT * FROM maintenance.drift")["reason"] == "foreign_record"
    assert world.state(key) == "accepted"
