"""How an event travels: what each answer of Stripe's makes of it, and what is never done."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import text

from functions.stripe_reconcile.verdicts import Verdict, judge
from shared.outcome import Status
from shared.stripe_calls import Answer
from tests.support.clock import NOON
from tests.support.stripe import StripeWorld

HOUR = timedelta(hours=1)


def attempts(world: StripeWorld) -> list[tuple[str, str]]:
    """What was posted, in order: identifier and Idempotency-Key."""
    found = []
    for each in world.server.requests:
        if each.method == "POST":
            match = re.search(rb"identifier=([^&]+)", each.body)
            assert match is not None
            headers = {name.lower(): value for name, value in each.headers.items()}
            found.append((match[1].decode(), headers["idempotency-key"]))
    return found


# ---- what an answer means


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200), Verdict.ACCEPTED),
        (Answer(200, readable=False), Verdict.IN_DOUBT),
        (Answer(None), Verdict.IN_DOUBT),
        (Answer(500), Verdict.IN_DOUBT),
        (Answer(503, readable=False), Verdict.IN_DOUBT),
        (Answer(302, readable=False), Verdict.IN_DOUBT),
        (Answer(400, message="An event already exists with identifier X."), Verdict.EXISTS),
        (Answer(400, code="duplicate_meter_event"), Verdict.EXISTS),
        (Answer(400, message="The event timestamp cannot be more than 35 days in past"), Verdict.TOO_OLD),
        (Answer(400, message="No such customer"), Verdict.REJECTED),
        (Answer(402, message="no"), Verdict.REJECTED),
        (Answer(400, readable=False, message="bad gateway of somebody's"), Verdict.IN_DOUBT),
        (Answer(403, readable=False), Verdict.IN_DOUBT),
        (Answer(400, kind="idempotency_error"), Verdict.IN_DOUBT),
        (Answer(409), Verdict.CUSTOMER_BUSY),
        (Answer(429, code="too_many_concurrent_requests"), Verdict.CUSTOMER_BUSY),
        (Answer(408), Verdict.IN_DOUBT),
        (Answer(499), Verdict.IN_DOUBT),
        (Answer(429), Verdict.THROTTLED),
        (Answer(400, code="rate_limit"), Verdict.THROTTLED),
        (Answer(401), Verdict.MISCONFIGURED),
        (Answer(403), Verdict.MISCONFIGURED),
        (Answer(404), Verdict.MISCONFIGURED),
        (Answer(400, code="archived_meter"), Verdict.MISCONFIGURED),
    ],
)
def test_what_an_answer_means(answer: Answer, verdict: Verdict) -> None:
    assert judge(answer) is verdict


# ---- accepted


def test_stripe_that_has_it_already_is_as_good_as_accepted(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.receive("pages", {"stripe_customer_id": customer, "value": "4"}, key, int(NOON.timestamp()) - 3590)
    outcome = world.run()
    assert outcome.counts["success_count"] == 1
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4


def test_an_attempt_is_on_record_before_it_is_made(world: StripeWorld) -> None:
    """Seen from the moment at which Stripe gets it."""
    world.user("ann")
    key = world.usage("ann")
    seen: list[object] = []
    receive = world.stripe.receive

    def look(*arguments: object) -> object:
        seen.append(dict(world.send(key)))
        return receive(*arguments)  # type: ignore[arg-type]

    world.stripe.receive = look  # type: ignore[method-assign, assignment]  # the stand-in is watched, not replaced
    world.run()
    (row,) = seen
    assert isinstance(row, dict)
    assert (row["state"], row["attempts"], row["event_name"], row["first_sent_at"]) == ("sending", 1, "pages", NOON)


def test_a_mark_of_another_kind_found_there_is_drift(world: StripeWorld) -> None:
    """The service marked it under a record of its own, while we sent it: perhaps it is billed twice."""
    customer = world.user("ann")
    key = world.usage("ann", 4)
    receive = world.stripe.receive

    def overtake(*arguments: object) -> object:
        world.database.execute("UPDATE usage_events SET stripe_reported = true, stripe_record_id = 'theirs'")
        return receive(*arguments)  # type: ignore[arg-type]

    world.stripe.receive = overtake  # type: ignore[method-assign, assignment]
    outcome = world.run()
    assert outcome.counts["drift_count"] == 1
    assert world.event(key) == (True, "theirs")
    drift = world.database.row("SELECT * FROM maintenance.drift")
    assert (drift["stripe_customer_id"], drift["reason"]) == (customer, "foreign_record")
    assert (drift["ours"], drift["theirs"], str(drift["usage_event_id"])) == (4, 8, key)


def test_an_event_whose_user_is_gone_meanwhile_still_goes_its_way(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add("cut_before", times=None)
    world.run()
    assert world.state(key) == "in_doubt"
    world.stripe.faults.clear()
    world.database.execute("DELETE FROM users")
    world.clock.advance(hours=2)
    outcome = world.run()
    assert outcome.counts["success_count"] == 1
    assert world.state(key) == "accepted"
    assert world.counted(customer) == 4


def test_an_event_that_is_gone_before_it_was_frozen_is_forgotten(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", at=NOON - HOUR)
    world.run(limit=1)
    key = world.usage("ann", at=NOON - HOUR)
    world.database.execute(
        "INSERT INTO maintenance.meter_sends (usage_event_id, user_id, stripe_customer_id, identifier, occurred_at, "
        "value, state, invoice_closes_at) VALUES (:k, 'ann', 'cus_ann', CAST(:k AS text), :at, 5, 'pending', :at)",
        k=key,
        at=NOON - HOUR,
    )
    world.database.execute("DELETE FROM usage_events WHERE id = :k", k=key)
    assert world.run().counts["retry_count"] == 0
    assert world.state(key) is None


def test_events_already_accepted_and_not_marked_are_marked_by_the_next_run(world: StripeWorld) -> None:
    """The service held its row at the moment of marking."""
    world.user("ann")
    key = world.usage("ann")
    receive = world.stripe.receive
    service = world.database.engine.connect()

    def hold(*arguments: object) -> object:
        service.execute(text("SELECT 1 FROM usage_events FOR UPDATE"))
        return receive(*arguments)  # type: ignore[arg-type]

    world.stripe.receive = hold  # type: ignore[method-assign, assignment]
    outcome = world.run()
    assert (outcome.status, outcome.counts["success_count"]) == (Status.COMPLETED, 1)
    assert (world.state(key), world.event(key)) == ("accepted", (False, None))
    service.close()
    world.stripe.receive = receive  # type: ignore[method-assign]
    outcome = world.run()
    assert world.event(key) == (True, key)
    assert world.posts() == 1


def test_hostile_values_arrive_as_they_are(world: StripeWorld) -> None:
    customer = world.user("o'neil & sons; --\n%s", customer="cus_ü&x=1\r\nX: y#?%")
    key = world.usage("o'neil & sons; --\n%s", 3)
    world.run()
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 3


# ---- in doubt


@pytest.mark.parametrize("fault", ["cut_after", "500_after", "unreadable"])
def test_what_is_in_doubt_and_was_taken_is_sent_again_under_the_same_identifier(world: StripeWorld, fault: str) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add(fault, times=None)
    outcome = world.run()
    # Asked again within the run: with the same Idempotency-Key Stripe repeats its answer, otherwise it has it already.
    assert {identifier for identifier, _ in attempts(world)} == {key}
    assert world.counted(customer) == 4
    world.stripe.faults.clear()
    world.clock.advance(hours=2)
    outcome = world.run()
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4
    assert outcome.counts["in_doubt_count"] == 0


@pytest.mark.parametrize("fault", ["cut_before", "500_before"])
def test_what_is_in_doubt_and_was_not_taken_is_sent_again(world: StripeWorld, fault: str) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add(fault, times=None)
    outcome = world.run()
    assert world.state(key) == "in_doubt"
    assert world.event(key) == (False, None)
    assert (outcome.counts["in_doubt_count"], outcome.counts["in_doubt_pages"]) == (1, 4)
    assert outcome.counts["success_count"] == 0
    world.stripe.faults.clear()
    world.clock.advance(hours=2)
    world.run()
    assert world.counted(customer) == 4
    assert world.state(key) == "accepted"


def test_after_a_lost_connection_the_same_key_and_after_an_answered_error_another(world: StripeWorld) -> None:
    world.user("ann")
    world.usage("ann")
    world.stripe.faults.add("cut_after", times=1)
    world.run()
    (_, first), (_, second) = attempts(world)
    assert first == second
    world.server.requests.clear()
    world.usage("ann")
    world.stripe.faults.add("500_after", times=1)
    world.run()
    (_, first), (_, second) = attempts(world)
    assert first != second


def test_an_answer_that_does_not_come_within_the_timeout_is_no_refusal(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add("cut_after", times=2)
    assert world.run().counts["success_count"] == 1
    assert world.event(key) == (True, key)
    assert world.counted(customer) == 4


def test_a_refusal_explains_nothing_about_an_attempt_before_it(world: StripeWorld) -> None:
    """Accepted, the connection died; then a refusal: still nobody knows, and it is no dead letter."""
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add("cut_after")
    refusal = {"error": {"type": "invalid_request_error", "message": "No."}}
    world.stripe.faults.add("status", status=400, body=refusal, times=None)
    outcome = world.run()
    assert world.state(key) == "in_doubt"
    assert outcome.counts["rejected_count"] == 0
    assert world.counted(customer) == 4


def test_accepted_and_died_then_throttled_then_killed_and_a_day_passes(world: StripeWorld) -> None:
    customer = world.user("ann")
    key = world.usage("ann", 4)
    world.stripe.faults.add("cut_after")
    world.stripe.faults.add("429", times=None)
    world.run()
    assert world.state(key) == "in_doubt"
    # The process that asked died before it had noted anything.
    world.database.execute("UPDATE maintenance.meter_sends SET state = 'sending'")
    world.stripe.faults.clear()
    world.clock.advance(hours=25)
    world.run()
    assert world.counted(customer) == 4
    assert world.event(key) == (True, key)
    assert len(world.stripe.events) == 1


# ---- refused


def refuse(world: StripeWorld, message: str = "No such thing.", **fields: object) -> None:
    body = {"error": {"type": "invalid_request_error", "message": message, **fields}}
    world.stripe.faults.add("status", status=400, body=body)


def test_a_refused_event_is_a_dead_letter_with_stripes_words(world: StripeWorld) -> None:
    world.user("ann")
    world.user("bob")
    bad, good = world.usage("ann", 4), world.usage("bob", 5)
    body = {"error": {"type": "invalid_request_error", "code": "parameter_invalid", "message": "No such thing."}}
    world.stripe.faults.add("status", status=400, body=body, identifier=bad)
    outcome = world.run()
    send = world.send(bad)
    assert (send["state"], send["error_code"], send["error_message"]) == (
        "rejected",
        "parameter_invalid",
        "No such thing.",
    )
    assert world.event(bad) == (False, None)
    assert (outcome.counts["rejected_count"], outcome.counts["rejected_pages"]) == (1, 4)
    assert (outcome.counts["failed_count"], outcome.success) == (1, True)
    assert (outcome.counts["dead_letter_count"], outcome.counts["dead_letter_pages"]) == (1, 4)
    assert world.event(good) == (True, good)
    posts = world.posts()
    world.run()
    assert world.posts() == posts, "a dead letter is not sent again"


def test_a_run_in_which_every_event_is_refused_is_no_success(world: StripeWorld) -> None:
    world.user("ann")
    world.usage("ann")
    refuse(world)
    outcome = world.run()
    assert (outcome.status, outcome.success) == (Status.COMPLETED, False)
