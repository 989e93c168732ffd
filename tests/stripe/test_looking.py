"""Events that must not be sent blindly: when Stripe's sums are asked, and what they decide."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from shared.outcome import Status
from tests.support.clock import NOON
from tests.support.stripe import StripeWorld, at

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def looks(world: StripeWorld) -> int:
    """Reads of sums for evidence: of minutes, or by hours. The audit reads whole days and periods."""
    found = 0
    for each in world.server.requests:
        if "event_summaries" in each.target:
            query = parse_qs(urlsplit(each.target).query)
            seconds = int(query["end_time"][0]) - int(query["start_time"][0])
            found += "value_grouping_window" in query or seconds < 3600
    return found


def sent_by_service(
    world: StripeWorld, customer: str, pages: int, moment: datetime, identifier: str | None = None
) -> None:
    """The service sends seconds after the event, with the time of sending."""
    payload = {"stripe_customer_id": customer, "value": str(pages)}
    world.stripe.receive("pages", payload, identifier, int((moment + timedelta(seconds=20)).timestamp()))


@pytest.mark.parametrize("takeover", [None, at(NOON)], ids=["unset", "later"])
def test_before_the_takeover_an_event_that_the_service_sent_and_did_not_mark_is_not_sent_again(
    world: StripeWorld, takeover: str | None
) -> None:
    customer = world.user("ann")
    moment = NOON - 3 * HOUR - timedelta(seconds=10)  # sent in the next minute
    key = world.usage("ann", 4, at=moment)
    sent_by_service(world, customer, 4, moment)
    outcome = world.run(environment=world.environment({"STRIPE_TAKEOVER_AT": takeover}))
    assert outcome.counts["success_count"] == 1
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4
    assert world.posts() == 0


def test_before_the_takeover_an_event_that_was_lost_is_sent(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4, at=NOON - 3 * HOUR)
    world.run(environment=world.environment({"STRIPE_TAKEOVER_AT": None}))
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4
    assert looks(world) == 1


def test_absence_of_a_young_event_is_not_believed(world: StripeWorld) -> None:
    """The sums lag: it may be there all the same."""
    customer = world.user("ann")
    key = world.usage("ann", 4, at=NOON - timedelta(minutes=50))
    sent_by_service(world, customer, 4, NOON - timedelta(minutes=50))
    world.stripe.summary_lag = HOUR
    environment = world.environment({"STRIPE_TAKEOVER_AT": None})
    world.run(environment=environment)
    assert (world.state(key), world.event(key)) == ("pending", (False, None))
    world.clock.advance(hours=2)
    world.run(environment=environment)
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4


def test_after_the_takeover_a_young_event_is_sent_without_looking(world: StripeWorld) -> None:
    world.user("ann")
    world.usage("ann", at=NOON - timedelta(hours=19))
    assert world.run().counts["success_count"] == 1
    assert looks(world) == 0


def test_an_event_of_which_a_restored_database_knows_nothing_is_looked_for(world: StripeWorld) -> None:
    """Sent, accepted, and forgotten by the restore; Stripe has forgotten the identifier, too."""
    customer = world.user("ann")
    key = world.usage("ann", 4, at=NOON - HOUR)
    world.run()
    world.database.execute("DELETE FROM maintenance.meter_sends")
    world.database.execute("UPDATE usage_events SET stripe_reported = false, stripe_record_id = NULL")
    world.clock.advance(hours=25)
    outcome = world.run()
    assert outcome.counts["success_count"] == 1
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4
    assert world.posts() == 1


def test_a_pending_event_in_a_restored_database_is_looked_for_too(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4, at=NOON - HOUR)
    world.run()
    world.database.execute(
        "UPDATE maintenance.meter_sends SET state = 'pending', first_sent_at = NULL, attempts = 0, event_name = NULL"
    )
    world.database.execute("UPDATE usage_events SET stripe_reported = false, stripe_record_id = NULL")
    world.clock.advance(hours=25)
    world.run()
    assert world.counted(customer) == 4
    assert world.state(key) == "accepted"


def in_doubt(world: StripeWorld, fault: str) -> str:
    """An event that is in doubt, and whose identifier Stripe has forgotten."""
    key = world.usage("ann", 4, at=world.clock.now() - HOUR)
    world.stripe.faults.add(fault, times=None, identifier=key)
    world.run()
    world.stripe.faults.clear()
    assert world.state(key) == "in_doubt"
    world.clock.advance(hours=25)
    return key


def test_in_doubt_and_forgotten_by_stripe_but_counted_is_accepted(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = in_doubt(world, "cut_after")
    posts = world.posts()
    outcome = world.run()
    assert (outcome.counts["success_count"], world.state(key)) == (1, "accepted")
    assert world.event(key) == (True, key)
    assert (world.counted(customer), world.posts()) == (4, posts)


def test_in_doubt_and_not_counted_is_sent_under_another_identifier_after_two_looks_a_day_apart(
    world: StripeWorld,
) -> None:
    customer = world.user("ann")
    key = in_doubt(world, "cut_before")
    for hours in (0, 12, 11):
        world.clock.advance(hours=hours)
        world.run()
        assert world.state(key) == "in_doubt"
        assert world.counted(customer) == 0
    world.clock.advance(hours=1)
    world.run()
    assert world.state(key) == "accepted"
    assert world.event(key) == (True, f"{key}:2")
    assert [each.identifier for each in world.stripe.events] == [f"{key}:2"]


def test_the_third_time_under_a_third_identifier(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = in_doubt(world, "cut_before")
    world.run()
    world.clock.advance(hours=25)
    world.stripe.faults.add("cut_before", times=None)
    world.run()
    assert (world.state(key), world.send(key)["identifier"]) == ("in_doubt", f"{key}:2")
    world.stripe.faults.clear()
    world.clock.advance(hours=25)
    world.run()
    assert world.state(key) == "in_doubt", "what was seen before that attempt says nothing about it"
    world.clock.advance(hours=25)
    world.run()
    assert world.event(key) == (True, f"{key}:3")
    assert world.counted(customer) == 4


def test_a_look_that_fits_neither_begins_the_waiting_anew(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = in_doubt(world, "cut_before")
    world.run()
    assert world.send(key)["absent_since"] is not None
    # Somebody made a meter event by hand, of half its pages, in that minute.
    sent_by_service(world, customer, 2, NOON - HOUR)
    world.clock.advance(hours=25)
    outcome = world.run()
    assert (world.state(key), world.send(key)["absent_since"]) == ("in_doubt", None)
    assert outcome.counts["in_doubt_count"] == 1
    assert '"kind": "in_doubt"' in world.log


def test_pages_that_are_known_to_be_there_are_not_taken_for_those_in_question(world: StripeWorld) -> None:
    """In the same minute: one of ours, one that the service has marked, and the one in question, which is not there."""
    customer = world.user("ann")
    ours = world.usage("ann", 3, at=NOON - HOUR)
    world.run()
    assert world.state(ours) == "accepted"
    world.usage("ann", 5, at=NOON - HOUR, stripe_reported=True, stripe_record_id="theirs")
    sent_by_service(world, customer, 5, NOON - HOUR)
    key = in_doubt(world, "cut_before")
    world.database.execute("UPDATE maintenance.meter_sends SET occurred_at = :t", t=NOON - HOUR)
    world.run()
    assert (world.state(key), world.send(key)["absent_since"] is not None) == ("in_doubt", True)
    assert world.counted(customer) == 8


def test_in_doubt_and_meanwhile_marked_by_the_service_is_not_sent_again(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add("cut_before", times=None)
    world.run()
    world.stripe.faults.clear()
    sent_by_service(world, customer, 4, NOON - HOUR)
    world.database.execute("UPDATE usage_events SET stripe_reported = true, stripe_record_id = 'theirs'")
    for hours in (2, 25, 25, 25):
        world.clock.advance(hours=hours)
        world.run()
        assert world.counted(customer) == 4
    assert world.event(key) == (True, "theirs")


def test_too_old_for_stripe_and_never_there_is_for_a_person(world: StripeWorld) -> None:
    customer = world.user("ann", paying_since=NOON - 90 * DAY)
    old, not_quite = (world.usage("ann", 4, at=NOON - days * DAY) for days in (34.5, 33.5))
    outcome = world.run()
    assert (world.state(old), world.state(not_quite)) == ("expired", "accepted")
    assert world.event(old) == (False, None)
    assert (outcome.counts["expired_count"], outcome.counts["expired_pages"]) == (1, 4)
    assert (outcome.counts["dead_letter_count"], outcome.counts["dead_letter_pages"]) == (1, 4)
    assert world.counted(customer) == 4
    assert f'"customer": "{customer}"' in world.log
    assert world.posts() == 1


def test_too_old_for_stripe_but_there_is_accepted(world: StripeWorld) -> None:
    customer = world.user("ann", paying_since=NOON - 90 * DAY)
    moment = NOON - 40 * DAY
    key = world.usage("ann", 4, at=moment)
    world.clock.set(moment + HOUR)
    sent_by_service(world, customer, 4, moment)
    world.clock.set(NOON)
    world.run()
    assert world.event(key) == (True, key)
    assert world.posts() == 0


def test_one_read_decides_many_events(world: StripeWorld) -> None:
    customer = world.user("ann")
    moments = [NOON - 50 * HOUR + number * timedelta(minutes=67) for number in range(20)]
    keys = [world.usage("ann", 1 + number, at=moment) for number, moment in enumerate(moments)]
    for number, moment in enumerate(moments):
        if number % 2:
            sent_by_service(world, customer, 1 + number, moment)
    world.run()
    assert all(world.event(key) == (True, key) for key in keys)
    assert world.counted(customer) == sum(range(1, 21))
    assert world.posts() == 10
    assert looks(world) <= 4


def test_pages_that_nobody_knows_of_make_hours_worthless(world: StripeWorld) -> None:
    """A restored database has lost an event that is at Stripe: by its hour's sum another could be taken for present."""
    customer = world.user("ann")
    moments = [NOON - 50 * HOUR + number * timedelta(hours=3) for number in range(6)]
    keys = [world.usage("ann", 1, at=moment) for moment in moments]
    sent_by_service(world, customer, 1, moments[2] + timedelta(minutes=30))
    sent_by_service(world, customer, 1, moments[3] + timedelta(hours=2))
    world.run()
    assert all(world.event(key) == (True, key) for key in keys)
    assert world.posts() == 6
    assert world.counted(customer) == 8


def test_a_customer_that_cannot_be_read_takes_no_other_along(world: StripeWorld) -> None:
    world.user("ann")
    world.user("bob")
    bad, good = world.usage("ann", at=NOON - 30 * HOUR), world.usage("bob", at=NOON - 30 * HOUR)
    receive = world.stripe.summaries

    def broken(meter: str, customer: str, *arguments: object) -> object:
        if customer == "cus_ann":
            raise ZeroDivisionError
        return receive(meter, customer, *arguments)  # type: ignore[arg-type]

    world.stripe.summaries = broken  # type: ignore[method-assign, assignment]
    outcome = world.run()
    assert outcome.counts["failed_count"] >= 1
    assert world.event(good) == (True, good)
    assert world.event(bad) == (False, None)
    world.stripe.summaries = receive  # type: ignore[method-assign]
    world.run()
    assert world.event(bad) == (True, bad)


def test_nobody_who_used_the_year_one_breaks_it(world: StripeWorld) -> None:
    """Times that no clock shows are left alone, and take nothing else along."""
    world.user("ann")
    world.usage("ann", at=datetime(1, 1, 1, tzinfo=UTC))
    good = world.usage("ann")
    world.run()
    assert world.event(good) == (True, good)


def test_what_was_frozen_for_another_meter_is_not_looked_for_on_this_one(world: StripeWorld) -> None:
    """It may be there: this meter's sums say nothing about it."""
    customer = world.user("ann")
    key = in_doubt(world, "cut_after")
    old = world.stripe.meter
    world.stripe.meter = world.stripe.add_meter("leaves")
    environment = world.environment({"STRIPE_METER_PAGES": world.stripe.meter.id})
    for _ in range(3):
        world.run(environment=environment)
        world.clock.advance(hours=25)
    assert world.state(key) == "in_doubt"
    assert len(world.stripe.events) == 1
    assert world.stripe.summaries(old.id, customer, NOON - 2 * HOUR, NOON)[0].value == 4


def test_what_is_ready_does_not_wait_for_what_cannot_be_looked_for(world: StripeWorld) -> None:
    for number in range(8):
        world.user(f"user{number}")
        world.usage(f"user{number}", at=NOON - 30 * HOUR)
    world.user("ann")
    ready = world.usage("ann")
    path = f"/v1/billing/meters/{world.stripe.meter.id}/event_summaries"
    world.stripe.faults.add("500_before", times=None, path=path, method="GET")
    outcome = world.run()
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "stripe")
    assert outcome.counts["success_count"] == 1
    assert world.event(ready) == (True, ready)


def test_a_limit_holds_for_what_is_looked_for_too(world: StripeWorld) -> None:
    customer = world.user("ann")
    for number in range(6):
        moment = NOON - 30 * HOUR + number * HOUR
        world.usage("ann", at=moment)
        sent_by_service(world, customer, 5, moment)
    outcome = world.run(limit=2)
    assert outcome.counts["success_count"] == 2
    assert world.database.value("SELECT count(*) FROM usage_events WHERE stripe_reported") == 2


def test_never_sent_by_us_and_unclear_is_in_doubt_until_it_is_clear(world: StripeWorld) -> None:
    """Half of its pages stand there, made by hand: it is shown, and once they are gone it is sent."""
    customer = world.user("ann")
    key = world.usage("ann", 4, at=NOON - 3 * HOUR)
    sent_by_service(world, customer, 2, NOON - 3 * HOUR, "by hand")
    environment = world.environment({"STRIPE_TAKEOVER_AT": None})
    outcome = world.run(environment=environment)
    assert (world.state(key), outcome.counts["in_doubt_count"]) == ("in_doubt", 1)
    world.stripe.refuse_later("by hand")
    world.clock.advance(hours=2)
    world.run(environment=environment)
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4


def test_an_attempt_of_ours_does_not_make_stripe_remember_what_the_service_sent_before(world: StripeWorld) -> None:
    """Sent by the service at once, under the event's id, and not marked; by us ten hours later, and nobody heard."""
    customer = world.user("ann")
    key = world.usage("ann", 4, at=NOON)
    sent_by_service(world, customer, 4, NOON, key)
    world.clock.advance(hours=10)
    world.stripe.faults.add("cut_before", times=None)
    world.run()
    assert world.state(key) == "in_doubt"
    world.stripe.faults.clear()
    world.clock.advance(hours=17)
    posts = world.posts()
    world.run()
    assert world.counted(customer) == 4
    assert (world.event(key), world.posts()) == ((True, key), posts)
