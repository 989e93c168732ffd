"""How an event travels: what each answer of Stripe's makes of it, and what is never done."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import text

from devstack.stripe_objects import Refused
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


def test_refusals_of_a_meter_that_was_switched_off_in_the_middle_are_no_dead_letters(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann")
    environment = world.environment()
    receive = world.stripe.receive

    def switch_off(*_: object) -> object:
        world.stripe.meter.status = "inactive"
        environment.services.timer.wait(120)
        world.stripe.receive = receive  # type: ignore[method-assign]
        raise Refused(400, "invalid_request_error", None, "Something about a meter.")

    world.stripe.receive = switch_off  # type: ignore[method-assign, assignment]
    outcome = world.run(environment=environment)
    assert (outcome.status, outcome.details["setting"]) == (Status.MISCONFIGURED, "STRIPE_METER_PAGES")
    assert world.state(key) == "pending"


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
