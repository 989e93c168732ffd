"""The Cloud Scheduler stand-in fires, retries and skips as Google documents it, over HTTP and on the test's clock."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from devstack.scheduler import Scheduler, StateError
from devstack.scheduler_jobs import Retries, ScheduledJob
from devstack.scheduler_ledger import DEADLINE_EXCEEDED, OK, UNAVAILABLE, Outcome
from shared.clock import format_rfc3339
from tests.support.clock import NOON, ManualClock
from tests.support.scheduler import CUT, Function, make_job
from tests.support.wait import until

ONE = datetime(2026, 5, 16, 1, 0, tzinfo=UTC)
TWO_DAYS = NOON + timedelta(days=2)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
# Real seconds; only for requests that are never answered.
IMPATIENT = 0.2


@pytest.fixture
def function(clock: ManualClock) -> Iterator[Function]:
    with Function(clock) as serving:
        yield serving


def scheduler_of(function: Function, *jobs: ScheduledJob, patience: float = 60) -> Scheduler:
    return Scheduler(jobs, {job.function: function.url for job in jobs}, function.clock, patience=patience)


def claims(authorization: str) -> dict[str, object]:
    kind, _, token = authorization.partition(" ")
    _, payload, signature = token.split(".")
    assert (kind, signature) == ("Bearer", "SIGNATURE_REMOVED_BY_GOOGLE")
    read = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert isinstance(read, dict)
    return read


# --- what is sent


def test_a_firing_carries_the_headers_of_cloud_scheduler(function: Function) -> None:
    job = make_job(account="invoker@test.iam.gserviceaccount.com", audience="https://nightly.test")
    scheduler_of(function, job).run_until(ONE)
    (request,) = function.arrived
    assert (request.method, request.path, request.body) == ("POST", "/", b"")
    assert request.headers["User-Agent"] == "Google-Cloud-Scheduler"
    assert request.headers["X-CloudScheduler"] == "true"
    assert (request.job, request.slot) == ("nightly", "2026-05-16T01:00:00Z")
    assert "Content-Type" not in request.headers
    told = claims(request.headers["Authorization"])
    assert told["aud"] == "https://nightly.test"
    assert told["email"] == told["azp"] == "invoker@test.iam.gserviceaccount.com"
    assert told["iat"] == ONE.timestamp()


def test_a_job_sends_its_own_method_path_body_and_headers(function: Function) -> None:
    headers = {"X-Own": "1", "user-agent": "mine", "x-cloudscheduler-jobname": "mine", "authorization": "mine"}
    headers["X-Google-Own"] = "1"
    job = make_job(method="PUT", path="/a/b?c=d", body=b"{}", headers=headers, account="a@b", audience="c")
    scheduler_of(function, job).run_until(ONE)
    (request,) = function.arrived
    assert (request.method, request.path, request.body) == ("PUT", "/a/b?c=d", b"{}")
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert (request.headers["X-Own"], request.job) == ("1", "nightly")
    names = [name.lower() for name in request.headers]
    assert len(set(names)) == len(names)
    assert "x-google-own" not in names
    assert request.headers["User-Agent"] == "Google-Cloud-Scheduler"
    assert claims(request.headers["Authorization"])["aud"] == "c"


def test_a_body_may_have_its_own_type_and_a_job_no_token(function: Function) -> None:
    scheduler_of(function, make_job(body=b"{}", headers={"content-type": "application/json"})).run_until(ONE)
    (request,) = function.arrived
    assert request.headers["Content-Type"] == "application/json"
    assert "Authorization" not in request.headers


def test_a_function_without_an_address_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="nightly calls nightly, for which there is no address"):
        Scheduler([make_job()], {"other": "http://127.0.0.1:1"}, clock)


# --- when


def test_all_jobs_fire_in_the_order_of_time_and_the_clock_goes_with_them(function: Function) -> None:
    jobs = (make_job("often", "*/30 * * * *"), make_job("daily", "0 13 * * *"), make_job("monthly", "0 0 1 * *"))
    scheduler_of(function, *jobs).run_until(NOON + timedelta(hours=2))
    seen = [(request.job, (request.at - NOON) / timedelta(minutes=1)) for request in function.arrived]
    assert seen == [("often", 30), ("often", 60), ("daily", 60), ("often", 90), ("often", 120)]
    assert all(request.slot == format_rfc3339(request.at) for request in function.arrived)
    assert function.clock.now() == NOON + timedelta(hours=2)


def test_time_may_go_in_steps_and_nothing_is_fired_twice(function: Function) -> None:
    scheduler = scheduler_of(function, make_job(schedule="0 * * * *"))
    for minutes in (59, 60, 60, 61, 180):
        scheduler.run_until(NOON + timedelta(minutes=minutes))
    assert function.moments == [NOON + timedelta(hours=hour) for hour in (1, 2, 3)]


# --- retries


def test_a_failed_attempt_is_made_again_after_the_documented_waits(function: Function) -> None:
    function.answers.extend([500, 503])
    scheduler = scheduler_of(function, make_job())
    scheduler.run_until(ONE + DAY / 2)
    assert [(moment - ONE) / SECOND for moment in function.moments] == [0, 30, 90]
    assert {request.slot for request in function.arrived} == {"2026-05-16T01:00:00Z"}
    (firing,) = scheduler.ledger.of("nightly")
    assert firing.outcome is Outcome.SUCCEEDED
    assert [(each.number, each.status, each.code) for each in firing.attempts] == [
        (1, 500, 13),
        (2, 503, 14),
        (3, 200, OK),
    ]
    assert [delivery.fields for delivery in firing.deliveries] == [{"number": number} for number in (1, 2, 3)]


def test_when_no_retry_is_left_the_firing_has_failed_and_the_next_one_comes(function: Function) -> None:
    function.answers.extend([500] * 3)
    scheduler = scheduler_of(function, make_job())
    scheduler.run_until(TWO_DAYS)
    first, second = scheduler.ledger.slots("nightly").values()
    assert (first.outcome, len(first.attempts)) == (Outcome.FAILED, 3)
    assert (second.outcome, second.slot, len(second.attempts)) == (Outcome.SUCCEEDED, ONE + DAY, 1)


@pytest.mark.parametrize("status", [200, 204, 299])
def test_any_answer_from_200_to_299_is_success(function: Function, status: int) -> None:
    function.answers.append(status)
    scheduler_of(function, make_job()).run_until(TWO_DAYS - DAY)
    assert len(function.arrived) == 1


@pytest.mark.parametrize("status", [302, 400, 404, 409, 429, 500, 599])
def test_any_other_answer_is_retried(function: Function, status: int) -> None:
    function.answers.append(status)
    scheduler_of(function, make_job()).run_until(TWO_DAYS - DAY)
    assert len(function.arrived) == 2


def test_without_retries_one_attempt_is_made(function: Function) -> None:
    function.answers.append(500)
    scheduler = scheduler_of(function, make_job(retries=Retries()))
    scheduler.run_until(TWO_DAYS - DAY)
    assert [firing.outcome for firing in scheduler.ledger.of("nightly")] == [Outcome.FAILED]
    assert len(function.arrived) == 1


def test_a_server_that_is_down_is_tried_again(function: Function) -> None:
    scheduler = scheduler_of(function, make_job())
    function.down()
    scheduler.run_until(ONE + 29 * SECOND)
    (firing,) = scheduler.ledger.of("nightly")
    (attempt,) = firing.attempts
    assert (attempt.status, attempt.code, attempt.deliveries[0].status) == (None, UNAVAILABLE, None)
    assert "refused" in (attempt.deliveries[0].error or "")
    function.up()
    scheduler.run_until(ONE + 30 * SECOND)
    assert firing.outcome is Outcome.SUCCEEDED


def test_a_connection_that_breaks_before_the_answer_is_a_failed_attempt(function: Function) -> None:
    function.answers.append(CUT)
    scheduler = scheduler_of(function, make_job())
    scheduler.run_until(ONE + DAY / 2)
    (firing,) = scheduler.ledger.of("nightly")
    assert [(attempt.status, attempt.code) for attempt in firing.attempts] == [(None, UNAVAILABLE), (200, OK)]
    assert len(function.arrived) == 2


def test_no_answer_by_the_deadline_is_a_failure_and_the_old_attempt_may_go_on(function: Function) -> None:
    scheduler = scheduler_of(function, make_job(deadline=timedelta(seconds=100)), patience=IMPATIENT)
    function.hold()
    scheduler.run_until(ONE + 129 * SECOND)
    (firing,) = scheduler.ledger.of("nightly")
    (attempt,) = firing.attempts
    assert (attempt.status, attempt.code) == (None, DEADLINE_EXCEEDED)
    assert attempt.ended_at == ONE + 100 * SECOND
    assert attempt.deliveries[0].error == f"no answer within {IMPATIENT:g} s"
    assert function.answered == 0
    function.release()
    scheduler.run_until(ONE + 130 * SECOND)
    assert (firing.outcome, function.moments[1]) == (Outcome.SUCCEEDED, ONE + 130 * SECOND)
    until(lambda: function.answered == 2, "the old attempt came to its end")


def test_with_a_duration_retries_go_on_until_both_limits_are_reached(function: Function) -> None:
    function.answers.extend([500] * 100)
    retries = Retries(count=1, duration=timedelta(minutes=5), first_wait=timedelta(minutes=1), doublings=0)
    scheduler_of(function, make_job(retries=retries)).run_until(TWO_DAYS - DAY)
    # Without doublings the waits grow by a minute each: after 1, 3 and 6 minutes, of which the last is past both.
    assert [(moment - ONE) / timedelta(minutes=1) for moment in function.moments] == [0, 1, 3]


# --- what does not fire


def test_a_time_that_comes_due_while_a_firing_is_under_way_is_skipped(function: Function) -> None:
    function.answers.extend([500] * 3)
    waits = Retries(count=2, first_wait=timedelta(minutes=7), longest_wait=timedelta(minutes=7))
    scheduler = scheduler_of(function, make_job(schedule="*/5 13 * * *", retries=waits))
    start = NOON + timedelta(hours=1)
    scheduler.run_until(start + timedelta(minutes=15))
    assert [firing.outcome for firing in scheduler.ledger.of("nightly")] == [
        Outcome.FAILED,
        Outcome.OVERLAPPED,
        Outcome.OVERLAPPED,
        Outcome.SUCCEEDED,
    ]
    assert [(moment - start) / timedelta(minutes=1) for moment in function.moments] == [0, 7, 14, 15]


def test_a_paused_job_does_not_fire_and_what_it_missed_is_not_made_up_for(function: Function) -> None:
    scheduler = scheduler_of(function, make_job(paused=True))
    scheduler.run_until(ONE + timedelta(hours=1))
    scheduler.resume("nightly")
    scheduler.run_until(ONE + DAY + timedelta(hours=1))
    scheduler.pause("nightly")
    scheduler.run_until(ONE + 2 * DAY)
    assert [firing.outcome for firing in scheduler.ledger.slots("nightly").values()] == [
        Outcome.PAUSED,
        Outcome.SUCCEEDED,
        Outcome.PAUSED,
    ]
    assert function.moments == [ONE + DAY]


def test_a_firing_that_is_late_does_not_begin_after_a_pause(function: Function) -> None:
    scheduler = scheduler_of(function, make_job(paused=True))
    scheduler.faults.add("late", seconds=60)
    scheduler.run_until(ONE)
    scheduler.resume("nightly")
    scheduler.run_until(ONE + DAY / 2)
    assert function.arrived == []
    assert [firing.outcome for firing in scheduler.ledger.of("nightly")] == [Outcome.PAUSED]


def test_a_retry_that_comes_due_in_a_pause_is_not_made(function: Function) -> None:
    function.answers.append(500)
    scheduler = scheduler_of(function, make_job())
    scheduler.run_until(ONE)
    scheduler.pause("nightly")
    scheduler.run_until(ONE + timedelta(hours=1))
    assert [firing.outcome for firing in scheduler.ledger.of("nightly")] == [Outcome.FAILED]
    assert len(function.arrived) == 1


def test_only_a_running_job_can_be_paused_and_only_a_paused_one_resumed(function: Function) -> None:
    scheduler = scheduler_of(function, make_job())
    with pytest.raises(StateError, match="must be PAUSED"):
        scheduler.resume("nightly")
    scheduler.pause("nightly")
    with pytest.raises(StateError, match="must be ENABLED"):
        scheduler.pause("nightly")


# --- forced runs


def test_a_forced_run_carries_the_next_time_or_none(function: Function) -> None:
    scheduler = scheduler_of(function, make_job())
    first = scheduler.run("nightly")
    second = scheduler.run("nightly", carries="nothing")
    assert [request.slot for request in function.arrived] == ["2026-05-16T01:00:00Z", None]
    assert function.moments == [NOON, NOON]
    assert scheduler.ledger.of("nightly", forced=True) == [first, second]
    assert first.outcome is second.outcome is Outcome.SUCCEEDED
    # The scheduled firing comes all the same.
    scheduler.run_until(ONE)
    assert [firing.slot for firing in scheduler.ledger.of("nightly")] == [ONE]


def test_a_forced_run_goes_beside_a_firing_under_way_and_in_a_pause_and_is_retried(function: Function) -> None:
    function.answers.extend([500, 500])
    scheduler = scheduler_of(function, make_job())
    scheduler.run_until(ONE)
    scheduler.pause("nightly")
    forced = scheduler.run("nightly")
    assert len(forced.attempts) == 1
    scheduler.run_until(ONE + 30 * SECOND)
    assert (forced.outcome, len(forced.attempts)) == (Outcome.SUCCEEDED, 2)
    assert [request.slot for request in function.arrived] == [
        format_rfc3339(slot) for slot in (ONE, ONE + DAY, ONE + DAY)
    ]


# --- the ledger


def test_the_ledger_accounts_for_every_slot(function: Function) -> None:
    jobs = (make_job("often", "15 */2 * * *"), make_job("weekly", "0 4 * * 6"), make_job("idle", paused=True))
    scheduler = scheduler_of(function, *jobs)
    end = NOON + timedelta(days=14)
    scheduler.run_until(end)
    assert scheduler.ledger.gaps(jobs, NOON, end) == []
    assert [len(scheduler.ledger.slots(job.id)) for job in jobs] == [14 * 12, 2, 14]


def test_the_ledger_tells_what_is_not_in_order(function: Function) -> None:
    function.answers.append(500)
    job = make_job()
    scheduler = scheduler_of(function, job)
    scheduler.run_until(ONE)
    gaps = scheduler.ledger.gaps
    assert gaps([job], NOON, ONE) == ["nightly of 2026-05-16T01:00:00Z is under way."]
    scheduler.run_until(TWO_DAYS)
    firings = scheduler.ledger.firings
    assert gaps([job], NOON, TWO_DAYS) == []
    firings.append(firings[0])
    assert gaps([job], NOON, TWO_DAYS) == ["nightly of 2026-05-16T01:00:00Z is there 2 times."]
    del firings[0], firings[-1]
    assert gaps([job], NOON, TWO_DAYS) == ["nightly of 2026-05-16T01:00:00Z is missing."]
    other = make_job(schedule="0 2 * * *")
    assert gaps([other], NOON, ONE + DAY) == [
        "nightly of 2026-05-16T02:00:00Z is missing.",
        "nightly of 2026-05-17T01:00:00Z is not in the schedule.",
    ]
