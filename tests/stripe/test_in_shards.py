"""A firing of stripe_reconcile in shards: each customer is one shard's, and nobody is asked about twice."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from functions.registry import JOBS
from shared.invocation import Invocation, parse_task
from shared.outcome import Outcome
from shared.runner import run_job
from tests.support.clock import NOON
from tests.support.stripe import PERIOD_START, StripeWorld
from tests.support.tasks import QUEUE, Taking

SHARDS = 3
HOST = "127.0.0.1:8080"
JOB = replace(JOBS["stripe_reconcile"], shards=SHARDS)


def fire_and_deliver(world: StripeWorld, taking: Taking) -> list[Outcome]:
    """The firing, and then each task in the order in which it was queued."""
    environment = world.environment({"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": taking.address})
    outcomes = [run_job(environment.services, JOB, Invocation("schedule", NOON, host=HOST))]
    for number in range(SHARDS + 1):
        body = taking.requests[number].task.http_request.body
        invocation = replace(parse_task(body, NOON, SHARDS), host=HOST)
        outcomes.append(run_job(environment.services, JOB, invocation))
    return outcomes


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
