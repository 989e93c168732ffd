"""A firing of stripe_reconcile in shards: each customer is one shard's, and nobody is asked about twice."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from functions.registry import JOBS
from shared.invocation import Invocation, parse_task
from shared.outcome import Outcome
from shared.runner import run_job
from tests.conftest import Environment
from tests.support.clock import NOON
from tests.support.stripe import PERIOD_START, StripeWorld
from tests.support.tasks import QUEUE, Taking

SHARDS = 3
HOST = "127.0.0.1:8080"
JOB = replace(JOBS["stripe_reconcile"], shards=SHARDS)


def fire_and_deliver(world: StripeWorld, taking: Taking, slot: datetime = NOON) -> list[Outcome]:
    """The firing, and then each task in the order in which it was queued."""
    environment = world.environment({"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": taking.address})
    opened = run_job(environment.services, JOB, Invocation("schedule", slot, host=HOST))
    return [opened, *(deliver(environment, taking, number, slot) for number in range(SHARDS + 1))]


def deliver(environment: Environment, taking: Taking, number: int, now: datetime) -> Outcome:
    """A task, by its number in the queue."""
    invocation = parse_task(taking.requests[number].task.http_request.body, now, SHARDS)
    return run_job(environment.services, JOB, replace(invocation, host=HOST))


def test_each_customer_is_asked_about_and_sent_for_by_one_shard(world: StripeWorld) -> None:
    old = PERIOD_START - timedelta(days=3)
    for number in range(12):
        # Before the period on record: Stripe must be asked.
        world.user(f"u{number}")
        world.usage(f"u{number}", pages=2, at=old)
    # Of this one Stripe knows nothing, so nobody can tell.
    world.user("gone", customer=" cus_gone\n")
    blocked = world.usage("gone", at=old)
    with Taking() as taking:
        opened, *shards, closed = fire_and_deliver(world, taking)
    assert opened.details["handed_to"] == SHARDS
    sent = [shard.counts["success_count"] for shard in shards]
    assert (sum(sent), all(count < 12 for count in sent)) == (12, True)
    assert (closed.status.value, closed.counts["success_count"], closed.counts["success_pages"]) == (
        "completed",
        12,
        24,
    )
    assert (world.state(blocked), closed.counts["blocked_count"]) == ("blocked", 1)
    asked = Counter(each.target for each in world.server.requests if each.target.startswith("/v1/subscriptions"))
    assert (len(asked), set(asked.values())) == (13, {1})


def test_what_stripe_refused_later_is_noted_before_the_shards_begin(world: StripeWorld) -> None:
    """Beginning together, each would find the reports new, and tell of them."""
    world.user("ann")
    keys = [world.usage("ann", 1, at=NOON - timedelta(minutes=20 + number)) for number in range(3)]
    world.run()
    world.stripe.refuse_later(keys)
    world.clock.advance(hours=2)
    with Taking() as taking:
        opened, *shards, closed = fire_and_deliver(world, taking, world.clock.now())
    assert [each.counts["refused_count"] for each in (opened, *shards, closed)] == [3, 0, 0, 0, 3]


def test_where_reports_cannot_be_read_the_shards_still_send(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann")
    world.stripe.faults.add("500_before", times=None, method="GET", path="/v2/core/events")
    with Taking() as taking:
        environment = world.environment({"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": taking.address})
        opened = run_job(environment.services, JOB, Invocation("schedule", NOON, host=HOST))
        assert opened.details["handed_to"] == SHARDS
        shards = [deliver(environment, taking, number, NOON) for number in range(SHARDS)]
    assert world.state(key) == "accepted"
    assert {each.status.value for each in shards} == {"unavailable"}


def test_what_the_opening_could_not_decide_stands_in_the_firings_result(world: StripeWorld) -> None:
    world.user("ann")
    broken, sound = world.usage("ann"), world.usage("ann")
    world.database.script(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF NEW.usage_event_id = '{broken}' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$"
    )
    world.database.script(
        "CREATE TRIGGER refuse BEFORE INSERT ON maintenance.meter_sends FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with Taking() as taking:
        *_, closed = fire_and_deliver(world, taking)
    assert (world.state(sound), world.state(broken)) == ("accepted", None)
    assert (closed.counts["success_count"], closed.counts["failed_count"]) == (1, 1)
