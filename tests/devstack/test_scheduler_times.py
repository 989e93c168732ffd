"""The waits before retries and their end are those that Google documents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from devstack.scheduler_jobs import Retries
from devstack.scheduler_times import firings, retry_moment, wait_before
from tests.support.clock import NOON

MINUTE = timedelta(minutes=1)


def seconds(*numbers: int) -> list[timedelta]:
    return [timedelta(seconds=number) for number in numbers]


def waits(retries: Retries, count: int) -> list[timedelta]:
    return [wait_before(retry, retries) for retry in range(1, count + 1)]


def test_waits_double_then_grow_evenly_then_stay() -> None:
    # The example in the reference of RetryConfig.
    ten = timedelta(seconds=10)
    assert waits(Retries(first_wait=ten, longest_wait=30 * ten, doublings=3), 8) == seconds(
        10, 20, 40, 80, 160, 240, 300, 300
    )


def test_the_waits_of_the_defaults() -> None:
    assert waits(Retries(), 7) == seconds(5, 10, 20, 40, 80, 160, 320)


def test_without_doublings_the_waits_grow_by_the_first() -> None:
    assert waits(Retries(first_wait=MINUTE, longest_wait=3 * MINUTE, doublings=0), 4) == seconds(60, 120, 180, 180)


@pytest.mark.parametrize(
    ("count", "duration", "attempts"),
    [
        (0, timedelta(0), 1),  # no retry at all
        (2, timedelta(0), 3),  # no limit of time
        (2, MINUTE, 3),  # the time is over first: the count holds
        (2, 10 * MINUTE, 5),  # the count is over first: the time holds
        (0, 10 * MINUTE, 5),
    ],
)
def test_retries_go_on_until_both_limits_are_reached(count: int, duration: timedelta, attempts: int) -> None:
    retries = Retries(count=count, duration=duration, first_wait=MINUTE, longest_wait=60 * MINUTE, doublings=0)
    made, moment = 0, NOON
    while True:
        made += 1
        following = retry_moment(retries, attempts=made, first=NOON, failed=moment)
        if following is None:
            break
        moment = following
    assert made == attempts


def test_a_wait_of_nothing_is_no_retry_for_ever() -> None:
    assert retry_moment(Retries(first_wait=timedelta(0)), attempts=1, first=NOON, failed=NOON) is None


def test_a_wait_counts_from_the_end_of_the_attempt() -> None:
    failed = NOON + 30 * MINUTE
    retries = Retries(count=1, first_wait=MINUTE)
    assert retry_moment(retries, attempts=1, first=NOON, failed=failed) == failed + MINUTE


def test_the_firings_of_a_schedule_are_after_the_one_moment_and_up_to_the_other() -> None:
    one = datetime(2026, 5, 16, 1, 0, tzinfo=UTC)
    day = timedelta(days=1)
    assert list(firings("0 1 * * *", one, one + 2 * day)) == [one + day, one + 2 * day]


def test_sunday_is_0_and_saturday_6() -> None:
    month = NOON, NOON + timedelta(days=31)
    assert {moment.strftime("%A") for moment in firings("0 2 * * 0", *month)} == {"Sunday"}
    assert {moment.strftime("%A") for moment in firings("0 4 * * 6", *month)} == {"Saturday"}
