"""What Stripe refuses after it has accepted it becomes a dead letter, also where that is read late."""

import json
from collections.abc import Sequence
from datetime import timedelta

import pytest

from functions.stripe_reconcile import job, sending
from functions.stripe_reconcile.classify import decide_by_asking
from functions.stripe_reconcile.run_state import RunState
from shared.outcome import Status
from shared.postgres import Row, Transaction
from shared.sql import Statement
from tests.support.clock import NOON
from tests.support.stripe import StripeWorld

HOUR = timedelta(hours=1)
NO_CUSTOMER = json.dumps({"error": {"type": "invalid_request_error", "message": "No such customer"}})


def lose_the_reports(world: StripeWorld) -> None:
    """Let Stripe fail each time that it is asked for its reports."""
    world.stripe.faults.add("500_before", times=None, method="GET", path="/v2/core/events")


def test_what_stripe_refuses_later_is_a_dead_letter_and_not_reported_any_more(world: StripeWorld) -> None:
    customer = world.user("ann")
    bad, good = world.usage("ann", 4), world.usage("ann", 5, at=NOON - 2 * HOUR)
    world.run()
    world.stripe.refuse_later(bad, "meter_event_invalid_value", "The value is no value.")
    world.clock.advance(hours=2)
    outcome = world.run()
    send = world.send(bad)
    assert (send["state"], send["error_code"], send["error_message"]) == (
        "rejected",
        "meter_event_invalid_value",
        "The value is no value.",
    )
    assert world.event(bad) == (False, None)
    assert world.event(good) == (True, good)
    assert (outcome.counts["refused_count"], outcome.counts["refused_pages"]) == (1, 4)
    posts = world.posts()
    for hours in (2, 30, 30):
        world.clock.advance(hours=hours)
        assert world.run().counts["refused_count"] == 0
    assert world.posts() == posts, "a dead letter is not sent again"
    assert world.counted(customer) == 5


def test_a_list_without_the_reports_themselves_is_read_one_by_one(world: StripeWorld) -> None:
    world.stripe.list_data = False
    world.user("ann")
    key = world.usage("ann", 4)
    world.run()
    world.stripe.refuse_later(key)
    assert world.run().counts["refused_count"] == 1


def test_an_event_of_a_customer_that_stripe_does_not_have_is_refused_later(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.delete_customer("cus_ann")
    world.run()
    assert world.state(key) == "accepted"
    world.clock.advance(hours=2)
    world.run()
    assert (world.state(key), world.send(key)["error_code"]) == ("rejected", "meter_event_customer_not_found")


def test_what_the_service_itself_sent_and_stripe_refused_later_is_a_dead_letter_too(world: StripeWorld) -> None:
    """Under the event's id, as after the takeover, and under other names, as before: one looks like an id itself."""
    customer = world.user("ann")
    payload = {"stripe_customer_id": customer, "value": "5"}
    ours = world.usage("ann", 5)
    world.database.execute("UPDATE usage_events SET stripe_reported = true, stripe_record_id = CAST(id AS text)")
    theirs = world.usage("ann", 5, stripe_reported=True, stripe_record_id="a-name-of-theirs")
    made = "0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61"
    alike = world.usage("ann", 5, stripe_reported=True, stripe_record_id=made)
    for identifier in (ours, "a-name-of-theirs", made):
        world.stripe.receive("pages", payload, identifier, int((NOON - HOUR).timestamp()))
    world.stripe.refuse_later([ours, "a-name-of-theirs", made])
    outcome = world.run()
    assert (outcome.counts["refused_count"], outcome.counts["refused_pages"]) == (3, 15)
    for key in (ours, theirs, alike):
        assert (world.state(key), world.event(key)) == ("rejected", (False, None))
    assert world.posts() == 0


def test_what_the_service_sent_and_did_not_mark_and_stripe_refused_later_is_not_taken_for_there(
    world: StripeWorld,
) -> None:
    """Stripe still knows the identifier: sent again, it would answer that it has it."""
    customer = world.user("ann")
    key = world.usage("ann", 5)
    payload = {"stripe_customer_id": customer, "value": "5"}
    world.stripe.receive("pages", payload, key, int((NOON - HOUR).timestamp()))
    world.stripe.refuse_later(key)
    world.run()
    assert (world.state(key), world.event(key)) == ("rejected", (False, None))
    assert world.posts() == 0


def test_an_old_report_says_nothing_about_what_was_sent_after_it(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 5)
    world.run()
    world.stripe.refuse_later(key)
    world.run()
    # As an operator would, once the reason is mended and the identifier is forgotten.
    world.database.execute(
        "UPDATE maintenance.meter_sends SET state = 'in_doubt', last_sent_at = :t", t=NOON + 25 * HOUR
    )
    world.clock.advance(hours=25)
    world.stripe.receive("pages", {"stripe_customer_id": customer, "value": "5"}, key, int((NOON - HOUR).timestamp()))
    world.run()
    assert world.state(key) == "accepted"
    assert world.event(key) == (True, key)


def test_refusals_that_a_report_does_not_name_are_told(world: StripeWorld) -> None:
    world.user("ann")
    keys = [world.usage("ann", 1, at=NOON - timedelta(minutes=20 + number)) for number in range(6)]
    world.run()
    world.stripe.sample_limit = 2
    world.stripe.refuse_later(keys)
    world.clock.advance(hours=2)
    outcome = world.run()
    assert outcome.counts["refused_count"] == 2
    assert "refused 4 more meter events than its report" in world.log
    # The audit finds their pages.
    assert outcome.counts["drift_count"] == 1
    world.clock.advance(hours=2)
    world.run()
    assert world.log.count("more meter events than its report") == 1, "told once"


def test_refusals_of_another_meter_are_none_of_ours(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.run()
    other = world.stripe.add_meter("storage")
    names = ["another", "and one that is not named"]
    for name in names:
        world.stripe.receive(other.event_name, {"stripe_customer_id": customer, "value": "1"}, name, None)
    world.stripe.sample_limit = 1
    world.stripe.refuse_later(names)
    assert world.run().counts["refused_count"] == 0
    assert world.state(key) == "accepted"
    assert "more meter events than its report" not in world.log


def test_a_run_that_died_between_reading_and_noting_reads_the_reports_again(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", 4)
    world.run()
    world.stripe.refuse_later(key)
    world.database.execute("ALTER TABLE maintenance.cursors RENAME TO away")
    assert world.run().status is not Status.COMPLETED
    world.database.execute("ALTER TABLE maintenance.away RENAME TO cursors")
    world.run()
    assert world.state(key) == "rejected"


def test_an_identifier_that_no_table_can_keep_stands_in_nobodys_way(world: StripeWorld) -> None:
    """Whatever else of the account's sends to the meter may name its events as it likes."""
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.run()
    for strange in ("with\0zero", "half a \ud800 character"):
        world.stripe.receive("pages", {"stripe_customer_id": customer, "value": "1"}, strange, int(NOON.timestamp()))
        world.stripe.refuse_later(strange)
    world.stripe.refuse_later(key)
    assert (world.run().status, world.state(key)) == (Status.COMPLETED, "rejected")


def test_nothing_is_proved_while_reports_cannot_be_read(world: StripeWorld) -> None:
    """The pages of what was refused, and is not known to be, would be those of another's event."""
    customer, minute = world.user("ann"), NOON - 3 * HOUR
    refused = world.usage("ann", 5, at=minute)
    world.run()
    world.stripe.refuse_later(refused)
    # The service sent it under a name of its own, and its mark got lost.
    twin = world.usage("ann", 5, at=minute)
    payload = {"stripe_customer_id": customer, "value": "5"}
    world.stripe.receive("pages", payload, "a-name-of-theirs", int(minute.timestamp()))
    world.clock.advance(hours=4)
    environment = world.environment({"STRIPE_TAKEOVER_AT": None})
    lose_the_reports(world)
    outcome = world.run(environment=environment)
    assert (outcome.status, outcome.details["service"]) == (Status.UNAVAILABLE, "stripe")
    assert (world.counted(customer), world.state(twin)) == (5, "pending")
    world.stripe.faults.clear()
    assert world.run(environment=environment).status is Status.COMPLETED
    assert (world.counted(customer), world.state(refused), world.state(twin)) == (5, "rejected", "accepted")


def test_what_only_needs_asking_is_asked_about_while_reports_cannot_be_read(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", 4, at=NOON - 3 * HOUR)
    world.database.execute("UPDATE billing_accounts SET current_period_start = :s", s=NOON - 2 * HOUR)
    lose_the_reports(world)
    assert world.run().status is Status.UNAVAILABLE
    assert world.state(key) == "accepted"


@pytest.mark.parametrize(
    "sender",
    ["we, without an answer", "we, a day late", "the service", "the service, and Stripe must be asked"],
)
def test_what_was_repeated_before_its_report_could_be_read_is_refused_all_the_same(
    world: StripeWorld, sender: str
) -> None:
    """Stripe dropped the repetition. Taken for there, its pages would be those of another's event."""
    customer, minute = world.user("ann"), NOON - (30 if sender.endswith("late") else 3) * HOUR
    key = world.usage("ann", 5, at=minute)
    payload = {"stripe_customer_id": customer, "value": "5"}
    environment = world.environment({"STRIPE_TAKEOVER_AT": None})
    if sender.startswith("we"):
        world.stripe.faults.add("cut_after", times=30, method="POST", path="/v1/billing/meter_events")
        world.run(environment=environment if sender.endswith("late") else None)
        world.stripe.faults.clear()
    else:
        world.stripe.receive("pages", payload, key, int(minute.timestamp()))
    if sender.endswith("asked"):
        world.database.execute("UPDATE billing_accounts SET current_period_start = :s", s=NOON - 2 * HOUR)
    world.stripe.refuse_later(key)
    world.clock.advance(minutes=50)
    lose_the_reports(world)
    assert (world.run().status, world.state(key)) == (Status.UNAVAILABLE, "accepted")
    world.stripe.faults.clear()
    twin = world.usage("ann", 5, at=minute)
    world.stripe.receive("pages", payload, "a-name-of-theirs", int(minute.timestamp()))
    for hours in (4, 25):
        world.clock.advance(hours=hours)
        world.run(environment=environment)
    assert (world.counted(customer), world.state(key), world.state(twin)) == (5, "rejected", "accepted")


@pytest.mark.parametrize(("hours", "counted", "state"), [(2, 0, "rejected"), (30, 5, "accepted")])
def test_a_late_report_speaks_of_what_was_looked_for_in_vain_and_sent_after_it_only_where_stripe_dropped_that(
    world: StripeWorld, hours: int, counted: int, state: str
) -> None:
    customer, minute = world.user("ann"), NOON - 3 * HOUR
    key = world.usage("ann", 5, at=minute)
    world.stripe.receive("pages", {"stripe_customer_id": customer, "value": "5"}, key, int(minute.timestamp()))
    report = world.stripe.refuse_later(key)
    world.stripe._reports.remove(report)
    world.clock.advance(hours=hours)
    environment = world.environment({"STRIPE_TAKEOVER_AT": None})
    world.run(environment=environment)
    assert (world.counted(customer), world.state(key)) == (counted, "accepted")
    world.stripe._reports.append(report)
    world.clock.advance(hours=2)
    world.run(environment=environment)
    assert (world.counted(customer), world.state(key)) == (counted, state)


def test_what_is_refused_in_the_middle_of_a_run_does_not_stand_for_others_in_it(
    world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer, minute = world.user("ann"), NOON - 3 * HOUR
    refused = world.usage("ann", 5, at=minute)
    world.run()
    world.clock.advance(hours=4)
    twin = world.usage("ann", 5, at=minute)
    payload = {"stripe_customer_id": customer, "value": "5"}
    world.stripe.receive("pages", payload, "a-name-of-theirs", int(minute.timestamp()))
    environment = world.environment({"STRIPE_TAKEOVER_AT": None})

    def refuse_meanwhile(state: RunState) -> bool:
        monkeypatch.setattr(job, "decide_by_asking", decide_by_asking)
        world.stripe.refuse_later(refused)
        # As long as asking about many customers may take.
        environment.services.timer.wait(300)
        return decide_by_asking(state)

    monkeypatch.setattr(job, "decide_by_asking", refuse_meanwhile)
    world.run(environment=environment)
    assert (world.counted(customer), world.state(refused), world.state(twin)) == (5, "rejected", "accepted")


def test_what_another_shard_finds_refused_while_this_one_chooses_it_is_not_sent(
    world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.user("ann")
    key = world.usage("ann", 5)
    rows = Transaction.rows

    def refuse_meanwhile(transaction: Transaction, statement: Statement, **parameters: object) -> Sequence[Row]:
        if statement is sending._STATEMENTS["intend"]:
            world.database.execute("UPDATE maintenance.meter_sends SET state = 'rejected'")
        return rows(transaction, statement, **parameters)

    monkeypatch.setattr(Transaction, "rows", refuse_meanwhile)
    world.run()
    assert (world.posts(), world.state(key)) == (0, "rejected")


def test_an_event_that_is_blocked_when_its_report_comes_is_refused(world: StripeWorld) -> None:
    customer, minute = world.user("ann"), NOON - 3 * HOUR
    key = world.usage("ann", 4, at=minute)
    payload = {"stripe_customer_id": customer, "value": "4"}
    world.stripe.receive("pages", payload, key, int(minute.timestamp()))
    world.database.execute("UPDATE billing_accounts SET current_period_start = :s", s=NOON - 2 * HOUR)
    world.stripe.faults.add("status", status=404, body=NO_CUSTOMER, times=None, method="GET", path="/v1/subscriptions")
    world.run()
    assert world.state(key) == "blocked"
    world.stripe.faults.clear()
    world.stripe.refuse_later(key)
    world.clock.advance(hours=1)
    assert (world.run().counts["refused_count"], world.state(key)) == (1, "rejected")
    assert world.counted(customer) == 0
