"""On a clock that goes by itself, jobs fire when their time has come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from devstack.scheduler import Scheduler
from devstack.scheduler_keeper import Keeper
from devstack.scheduler_ledger import DEADLINE_EXCEEDED, Outcome
from tests.support.clock import NOON
from tests.support.scheduler import Function, make_job
from tests.support.wait import until

MINUTE = timedelta(minutes=1)


class GoingClock:
    """A clock that nobody can set, as the machine's; the test makes it go."""

    def __init__(self) -> None:
        self.moment = NOON

    def now(self) -> datetime:
        return self.moment


@pytest.fixture
def going() -> GoingClock:
    return GoingClock()


@pytest.fixture
def function(going: GoingClock) -> Iterator[Function]:
    with Function(going) as serving:
        yield serving


def test_jobs_fire_beside_each_other_and_are_retried(going: GoingClock, function: Function) -> None:
    jobs = [make_job("one", "1 12 * * *"), make_job("two", "1 12 * * *")]
    scheduler = Scheduler(jobs, {"one": function.url, "two": function.url}, going)
    function.answers.extend([500, 200])
    function.hold()
    with Keeper(scheduler):
        going.moment += MINUTE
        until(lambda: len(function.arrived) == 2, "the second was sent before the first was answered")
        function.release()
        until(
            lambda: sum(firing.outcome is Outcome.SUCCEEDED for firing in scheduler.ledger.firings) == 1, "one is done"
        )
        until(lambda: scheduler.next_moment() == NOON + MINUTE + MINUTE / 2, "the other waits for its retry")
        going.moment += MINUTE / 2
        until(lambda: scheduler.ledger.gaps(jobs, NOON, going.moment) == [], "the retry succeeded")
    assert len(function.arrived) == 3
    assert all(firing.outcome is Outcome.SUCCEEDED for firing in scheduler.ledger.firings)


def test_the_true_deadline_holds(going: GoingClock, function: Function) -> None:
    job = make_job(schedule="* * * * *", deadline=timedelta(seconds=0.2))
    scheduler = Scheduler([job], {"nightly": function.url}, going)
    function.hold()
    with Keeper(scheduler):
        going.moment += MINUTE
        until(lambda: scheduler.show("nightly").code == DEADLINE_EXCEEDED, "the attempt was given up")
    function.release()
    (firing,) = scheduler.ledger.of("nightly")
    assert firing.attempts[0].ended_at == going.moment
    assert firing.attempts[0].deliveries[0].error == "no answer within 0.2 s"


def test_nobody_keeps_the_time_after_the_end(going: GoingClock, function: Function) -> None:
    scheduler = Scheduler([make_job(schedule="* * * * *")], {"nightly": function.url}, going)
    with Keeper(scheduler):
        going.moment += MINUTE
        until(lambda: len(function.arrived) == 1, "the first firing")
    scheduler.settle()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scheduler")]
