"""The reports of what Stripe refused later: which are read, how, and what is told of them."""

import json
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest

from devstack.stripe_objects import Report
from functions.stripe_reconcile import refusals
from shared.clock import parse_rfc3339
from shared.outcome import Status
from tests.support.clock import NOON
from tests.support.stripe import StripeWorld


def accepted(world: StripeWorld, number: int) -> list[str]:
    """So many events of one user, which Stripe has accepted."""
    world.user("ann")
    keys = [world.usage("ann", 1, at=NOON - timedelta(minutes=20 + minutes)) for minutes in range(number)]
    world.run()
    return keys


def test_all_reports_are_read_however_many_there_are(world: StripeWorld) -> None:
    """What is refused and not known to be stands for another's pages, which are then sent once more."""
    customer, minute = world.user("ann"), NOON - timedelta(hours=3)
    world.user("bob")
    refused, other = world.usage("ann", 5, at=minute), world.usage("bob", 1, at=minute)
    world.run()
    for _ in range(1_001):
        world.stripe.refuse_later(other)
        world.clock.advance(seconds=1)
    world.stripe.refuse_later(refused)
    # The service sent it under a name of its own, and its mark got lost.
    twin = world.usage("ann", 5, at=minute)
    payload = {"stripe_customer_id": customer, "value": "5"}
    world.stripe.receive("pages", payload, "a-name-of-theirs", int(minute.timestamp()))
    world.clock.advance(hours=4)
    world.run(environment=world.environment({"STRIPE_TAKEOVER_AT": None}))
    assert (world.counted(customer), world.state(refused), world.state(twin)) == (5, "rejected", "accepted")


def check_that_slow_reports_are_read_by_several_runs(
    world: StripeWorld, monkeypatch: pytest.MonkeyPatch, *, every: timedelta, one: int, listed: int
) -> None:
    """Of 40 reports, one `every` so often, each takes so many seconds when it is read as `one`, and in a list."""
    keys = accepted(world, 40)
    for key in keys:
        world.clock.advance(seconds=every.total_seconds())
        world.stripe.refuse_later(key)
    ready, told = world.usage("ann", 7), Report.to_json

    def slowly(report: Report, **asked: bool) -> dict[str, object]:
        world.clock.advance(seconds=listed if asked else one)
        return told(report, **asked)

    monkeypatch.setattr(Report, "to_json", slowly)
    first = world.run()
    assert (first.status, "than half a run can read" in first.message) == (Status.UNAVAILABLE, True)
    assert (world.state(ready), world.state(keys[0]), world.state(keys[-1])) == ("accepted", "rejected", "accepted")
    assert Status.COMPLETED in {world.run().status for _ in range(8)}
    assert {world.state(key) for key in keys} == {"rejected"}


def test_more_reports_than_a_run_can_read_are_read_by_the_next_ones_and_hold_up_nothing_that_is_ready(
    world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.stripe.list_data = False
    check_that_slow_reports_are_read_by_several_runs(world, monkeypatch, every=timedelta(minutes=10), one=60, listed=0)


def test_two_reports_of_one_second_are_told_of_once_each(world: StripeWorld) -> None:
    keys = accepted(world, 6)
    world.stripe.sample_limit = 1
    world.stripe.refuse_later(keys[:3])
    world.clock.advance(seconds=0.5)
    world.stripe.refuse_later(keys[3:])
    world.clock.advance(minutes=5)
    for _ in range(3):
        world.run()
    assert world.log.count("more meter events than its report") == 2


def test_reports_of_a_time_with_many_are_listed_by_parts_of_it(
    world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly Stripe lists them: what one run has read is behind the next one."""
    monkeypatch.setattr(refusals, "_AT_ONCE", 4)
    check_that_slow_reports_are_read_by_several_runs(world, monkeypatch, every=timedelta(hours=2), one=10, listed=10)


def test_reports_of_one_moment_are_all_read_however_many_there_are(
    world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_AT_ONCE", 4)
    keys = accepted(world, 9)
    for key in keys:
        world.stripe.refuse_later(key)
    world.clock.advance(hours=2)
    outcome = world.run()
    assert (outcome.status, outcome.counts["refused_count"]) == (Status.COMPLETED, 9)


def test_a_time_of_which_stripe_keeps_nothing_is_not_asked_for(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", 1)
    world.run()
    world.stripe.refuse_later(key)
    world.run()
    world.clock.advance(days=1_000)
    before = len(world.server.requests)
    assert world.run().status is Status.COMPLETED
    asked = [request.target for request in world.server.requests[before:] if "/v2/core/events" in request.target]
    assert len(asked) == 1
    (since,) = [value for name, value in parse_qsl(urlsplit(asked[0]).query) if name == "created[gte]"]
    assert parse_rfc3339(since) == world.clock.now() - timedelta(days=30)


def test_a_report_from_a_clock_that_is_ahead_is_told_of_once(world: StripeWorld) -> None:
    keys = accepted(world, 3)
    world.stripe.sample_limit = 1
    world.stripe.refuse_later(keys).created += timedelta(minutes=5)
    for _ in range(3):
        world.run()
    assert world.log.count("more meter events than its report") == 1


def test_time_that_runs_out_over_reports_is_the_runs_end_and_no_failure_of_stripes(
    world: StripeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.user("ann")
    keys = [world.usage("ann", 1), world.usage("ann", 2)]
    world.run()
    for key in keys:
        world.stripe.refuse_later(key)
    told = Report.to_json

    def too_late(report: Report, **asked: bool) -> dict[str, object]:
        world.clock.advance(minutes=40)
        return told(report, **asked)

    monkeypatch.setattr(Report, "to_json", too_late)
    outcome = world.run()
    assert (outcome.status, outcome.counts["refused_count"]) == (Status.INCOMPLETE, 0)
    assert "time ran out" in outcome.message


def test_a_report_that_is_gone_when_it_is_asked_for_is_over(world: StripeWorld) -> None:
    """Stripe keeps them for 30 days, and one may be listed in the last second of them."""
    world.stripe.list_data = False
    world.user("ann")
    gone, there = world.usage("ann", 1), world.usage("ann", 2)
    world.run()
    report = world.stripe.refuse_later(gone)
    world.stripe.refuse_later(there)
    body = json.dumps({"error": {"type": "invalid_request_error", "message": "No such event"}})
    path = f"/v2/core/events/{report.id}"
    world.stripe.faults.add("status", status=404, body=body, method="GET", path=path, times=None)
    assert world.run().status is Status.COMPLETED
    assert (world.state(gone), world.state(there)) == ("accepted", "rejected")


def test_a_clock_that_is_ahead_for_a_run_hides_no_report(world: StripeWorld) -> None:
    world.user("ann")
    key = world.usage("ann", 1)
    world.run()
    world.clock.advance(days=3)
    world.run()
    world.clock.advance(days=-3)
    world.stripe.refuse_later(key)
    assert (world.run().counts["refused_count"], world.state(key)) == (1, "rejected")


def test_reports_of_many_days_are_read_in_one_run(world: StripeWorld) -> None:
    keys = accepted(world, 5)
    for key in keys:
        world.clock.advance(days=1, hours=7)
        world.stripe.refuse_later(key)
    assert world.run().counts["refused_count"] == 5
    assert {world.state(key) for key in keys} == {"rejected"}


def test_a_report_that_shows_up_late_is_noted(world: StripeWorld) -> None:
    world.user("ann")
    late, soon, unnamed = world.usage("ann", 1), world.usage("ann", 2), world.usage("ann", 3)
    world.run()
    world.stripe.sample_limit = 1
    report = world.stripe.refuse_later([late, unnamed])
    world.clock.advance(minutes=50)
    world.stripe.refuse_later(soon)
    world.stripe._reports.remove(report)
    assert (world.run().counts["refused_count"], world.state(late)) == (1, "accepted")
    world.stripe._reports.insert(0, report)
    world.clock.advance(hours=2)
    assert (world.run().counts["refused_count"], world.state(late)) == (1, "rejected")
    assert world.log.count("refused 1 more meter events than its report") == 1
    world.run()
    assert world.log.count("refused 1 more meter events than its report") == 1, "told once"


def test_a_report_of_a_time_to_come_hides_no_other(world: StripeWorld) -> None:
    world.user("ann")
    keys = [world.usage("ann", 1), world.usage("ann", 2)]
    world.run()
    report = world.stripe.refuse_later(keys[0])
    report.created += timedelta(days=3650)
    assert world.run().counts["refused_count"] == 1
    world.clock.advance(hours=3)
    world.stripe.refuse_later(keys[1])
    world.run()
    assert {world.state(key) for key in keys} == {"rejected"}
