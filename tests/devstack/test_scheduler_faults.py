"""The faults that the Cloud Scheduler stand-in plays reach the function, and the ledger, as they are described."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from devstack.scheduler import Scheduler
from devstack.scheduler_jobs import Retries, ScheduledJob
from devstack.scheduler_ledger import DEADLINE_EXCEEDED, OK, UNAVAILABLE, Firing, Outcome
from tests.support.clock import NOON, ManualClock
from tests.support.scheduler import Function, make_job
from tests.support.wait import until

ONE = datetime(2026, 5, 16, 1, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
# 180 s, Google's default.
DEADLINE_S = 180


@pytest.fixture
def function(clock: ManualClock) -> Iterator[Function]:
    with Function(clock) as serving:
        yield serving


def scheduler_of(function: Function, *jobs: ScheduledJob) -> Scheduler:
    return Scheduler(jobs, {job.function: function.url for job in jobs}, function.clock)


@pytest.fixture
def scheduler(function: Function) -> Scheduler:
    return scheduler_of(function, make_job())


def only(scheduler: Scheduler) -> Firing:
    (firing,) = scheduler.ledger.of("nightly")
    return firing


def seen(firing: Firing) -> list[tuple[str | None, int | None, int | None, int]]:
    """Of each attempt: the fault, the status and code that counted, and how often it was delivered."""
    return [(each.fault, each.status, each.code, len(each.deliveries)) for each in firing.attempts]


def seconds(function: Function) -> list[float]:
    return [(moment - ONE) / SECOND for moment in function.moments]


# --- attempts that do not arrive


@pytest.mark.parametrize(
    ("kind", "status", "code"), [("refused", None, UNAVAILABLE), ("503", 503, UNAVAILABLE), ("429", 429, 8)]
)
def test_an_attempt_that_does_not_arrive_is_retried(
    scheduler: Scheduler, function: Function, kind: str, status: int | None, code: int
) -> None:
    scheduler.faults.add(kind)
    scheduler.run_until(ONE + HOUR)
    assert seen(only(scheduler)) == [(kind, status, code, 0), (None, 200, OK, 1)]
    assert seconds(function) == [30]


# --- answers that are lost


def test_an_answer_that_is_cut_off_was_processed_and_is_retried(scheduler: Scheduler, function: Function) -> None:
    scheduler.faults.add("cut")
    scheduler.run_until(ONE + HOUR)
    firing = only(scheduler)
    assert seen(firing) == [("cut", None, UNAVAILABLE, 1), (None, 200, OK, 1)]
    # The ledger has what the function answered, although Cloud Scheduler did not hear it.
    assert [delivery.status for delivery in firing.deliveries] == [200, 200]
    assert seconds(function) == [0, 30]
    assert len({request.slot for request in function.arrived}) == 1


def test_an_answer_after_the_deadline_counts_as_none(scheduler: Scheduler, function: Function) -> None:
    scheduler.faults.add("slow")
    scheduler.run_until(ONE + HOUR)
    firing = only(scheduler)
    assert seen(firing) == [("slow", None, DEADLINE_EXCEEDED, 1), (None, 200, OK, 1)]
    assert firing.attempts[0].ended_at == ONE + DEADLINE_S * SECOND
    assert seconds(function) == [0, DEADLINE_S + 30]


def test_a_slow_answer_counts_when_it_comes(scheduler: Scheduler, function: Function) -> None:
    function.answers.append(500)
    scheduler.faults.add("slow", seconds=DEADLINE_S - 1)
    scheduler.run_until(ONE + HOUR)
    assert seen(only(scheduler)) == [("slow", 500, 13, 1), (None, 200, OK, 1)]
    assert seconds(function) == [0, DEADLINE_S - 1 + 30]


def test_an_attempt_that_overruns_its_deadline_still_runs_beside_the_next(
    scheduler: Scheduler, function: Function
) -> None:
    scheduler.faults.add("overrun")
    function.hold()
    scheduler.run_until(ONE)
    until(lambda: len(function.arrived) == 1, "the attempt arrived")
    function.hold_no_more()
    scheduler.run_until(ONE + HOUR)
    firing = only(scheduler)
    assert seen(firing) == [("overrun", None, DEADLINE_EXCEEDED, 0), (None, 200, OK, 1)]
    assert seconds(function) == [0, DEADLINE_S + 30]
    assert function.answered == 1
    function.release()
    scheduler.settle()
    assert [delivery.status for delivery in firing.deliveries] == [200, 200]


class WatchedClock(ManualClock):
    """A clock that has something looked at before each time it moves."""

    def __init__(self, look: Callable[[], int]) -> None:
        super().__init__()
        self.seen: list[int] = []
        self._look = look

    def set(self, now: datetime) -> None:
        self.seen.append(self._look())
        super().set(now)


def test_an_overrunning_attempt_is_sent_before_the_clock_moves_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as accepted:
        listening.setblocking(False)
        count = 0

        def connections() -> int:
            nonlocal count
            with contextlib.suppress(BlockingIOError):
                while True:
                    accepted.enter_context(listening.accept()[0])
                    count += 1
            return count

        clock = WatchedClock(connections)
        job = make_job(schedule="* * * * *", retries=Retries(), deadline=15 * SECOND)
        scheduler = Scheduler([job], {"nightly": f"http://127.0.0.1:{listening.getsockname()[1]}"}, clock)
        scheduler.faults.add("overrun", times=None)
        scheduler.run_until(NOON + timedelta(minutes=30))
        connections()
    scheduler.settle()
    # Looked at when a firing is due and, 15 s later, when its attempt has overrun.
    assert clock.seen == [0, *(number for number in range(1, 30) for _ in range(2))]


def test_settle_waits_for_what_still_runs(scheduler: Scheduler, function: Function) -> None:
    scheduler.faults.add("overrun")
    scheduler.run_until(ONE)
    scheduler.settle()
    assert function.answered == 1
    assert [delivery.status for delivery in only(scheduler).deliveries] == [200]


# --- duplicates


def test_an_attempt_may_be_delivered_twice_one_after_the_other(scheduler: Scheduler, function: Function) -> None:
    function.answers.extend([200, 500])
    scheduler.faults.add("twice")
    scheduler.run_until(ONE + HOUR)
    firing = only(scheduler)
    # The first answer counts.
    assert seen(firing) == [("twice", 200, OK, 2)]
    assert [delivery.status for delivery in firing.deliveries] == [200, 500]
    first, second = function.arrived
    assert (first.at, first.headers, first.body) == (second.at, second.headers, second.body)


def test_a_second_delivery_may_come_long_after_the_first(scheduler: Scheduler, function: Function) -> None:
    scheduler.faults.add("twice", seconds=900)
    scheduler.run_until(ONE + HOUR)
    assert seconds(function) == [0, 900]
    assert seen(only(scheduler)) == [("twice", 200, OK, 2)]


def test_an_attempt_may_be_delivered_twice_at_the_same_time(scheduler: Scheduler, function: Function) -> None:
    function.hold()
    scheduler.faults.add("twin")
    scheduler.run(job="nightly", wait=False)
    until(lambda: len(function.arrived) == 2, "both arrived before one was answered")
    assert function.answered == 0
    function.release()
    scheduler.settle()
    (firing,) = scheduler.ledger.of("nightly", forced=True)
    assert seen(firing) == [("twin", 200, OK, 2)]


def test_both_deliveries_have_ended_before_the_clock_moves_on() -> None:
    clock = WatchedClock(lambda: serving.answered)
    with Function(clock) as serving:
        scheduler = scheduler_of(serving, make_job(schedule="* * * * *"))
        scheduler.faults.add("twin", times=None)
        scheduler.run_until(NOON + timedelta(minutes=100))
    assert clock.seen == [2 * number for number in range(100)]


# --- late firings


def test_a_late_firing_carries_the_time_it_was_to_begin_at(scheduler: Scheduler, function: Function) -> None:
    scheduler.faults.add("late", seconds=150)
    function.answers.append(500)
    scheduler.run_until(ONE + HOUR)
    assert seconds(function) == [150, 180]
    assert {request.slot for request in function.arrived} == {"2026-05-16T01:00:00Z"}
    assert only(scheduler).outcome is Outcome.SUCCEEDED


def test_a_firing_later_than_the_next_one_takes_its_place(function: Function) -> None:
    scheduler = scheduler_of(function, make_job(schedule="*/5 1 * * *"))
    scheduler.faults.add("late", seconds=330)
    scheduler.run_until(ONE + 600 * SECOND)
    assert [firing.outcome for firing in scheduler.ledger.of("nightly")] == [
        Outcome.SUCCEEDED,
        Outcome.OVERLAPPED,
        Outcome.SUCCEEDED,
    ]
    assert seconds(function) == [330, 600]


# --- which ones


def test_a_fault_is_for_the_job_slot_and_attempt_that_it_names(function: Function) -> None:
    scheduler = scheduler_of(function, make_job("one"), make_job("two"))
    day = timedelta(days=1)
    scheduler.faults.add("503", job="two", slot=ONE + day, attempt=2)
    scheduler.faults.add("429", job="t*", slot=ONE + day, times=None)
    scheduler.run_until(ONE + 2 * day)
    assert [[each.fault for each in firing.attempts] for firing in scheduler.ledger.of("one")] == [[None]] * 3
    assert [[each.fault for each in firing.attempts] for firing in scheduler.ledger.of("two")] == [
        [None],
        ["429", "503", "429"],
        [None],
    ]


def test_a_fault_is_played_as_often_as_it_is_planned(scheduler: Scheduler, function: Function) -> None:
    planned = scheduler.faults.add("503", times=2)
    scheduler.run_until(ONE + HOUR)
    assert [each.fault for each in only(scheduler).attempts] == ["503", "503", None]
    assert planned.times == 0
    assert seconds(function) == [90]


def drawn(seed: int, clock: ManualClock, *schedules: str) -> dict[tuple[str, datetime | None], list[str | None]]:
    """The faults that a seed gives for two weeks."""
    with Function(clock) as function:
        jobs = [make_job(f"job-{number}", schedule) for number, schedule in enumerate(schedules)]
        scheduler = scheduler_of(function, *jobs)
        scheduler.faults.random(seed, {"refused": 0.2, "cut": 0.2, "twice": 0.1, "late": 0.3})
        # Until the last ones, which may be late and repeated, have ended.
        scheduler.run_until(NOON + timedelta(days=14, minutes=15))
        assert scheduler.ledger.gaps(jobs, NOON, NOON + timedelta(days=14)) == []
        return {
            (firing.job, firing.slot): [*map(str, [firing.attempts[0].at]), *(each.fault for each in firing.attempts)]
            for firing in scheduler.ledger.firings
        }


def test_a_seed_gives_the_same_faults_whatever_else_happens() -> None:
    alone = drawn(7, ManualClock(), "0 * * * *")
    among_others = drawn(7, ManualClock(), "0 * * * *", "*/20 * * * *")
    assert {key: value for key, value in among_others.items() if key[0] == "job-0"} == alone
    assert drawn(8, ManualClock(), "0 * * * *") != alone
    faults = [fault for _, *played in alone.values() for fault in played]
    assert set(faults) == {"refused", "cut", "twice", None}
    late = {(datetime.fromisoformat(value[0] or "") - key[1]) / SECOND for key, value in alone.items() if key[1]}
    assert len(late) > 20
    assert min(late) == 0
    assert max(late) <= 240


def test_faults_are_drawn_for_the_jobs_that_they_are_for(function: Function) -> None:
    scheduler = scheduler_of(function, make_job("one"), make_job("two"))
    scheduler.faults.random(1, {"503": 1.0}, job="two")
    scheduler.run_until(ONE + HOUR)
    assert [[each.fault for each in firing.attempts] for firing in scheduler.ledger.firings] == [[None], ["503"] * 3]


def test_no_fault_is_played_after_a_clear(scheduler: Scheduler) -> None:
    scheduler.faults.add("503", times=None)
    scheduler.faults.random(1, {"refused": 1.0})
    scheduler.faults.clear()
    scheduler.run_until(ONE)
    assert seen(only(scheduler)) == [(None, 200, OK, 1)]


def test_a_fault_that_there_is_not_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(ValueError, match="There is no fault '404'"):
        scheduler.faults.add("404")
    with pytest.raises(ValueError, match="There is no fault 'lost'"):
        scheduler.faults.random(1, {"lost": 0.1})
    with pytest.raises(ValueError, match="Probabilities"):
        scheduler.faults.random(1, {"cut": 0.6, "twice": 0.5})
