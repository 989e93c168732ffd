"""Pacing: never more than the rate, slower when told, and back again."""

from functions.stripe_reconcile.breaker import Breaker, backoff
from shared.pace import Pace
from tests.support.clock import VirtualTimer


def turns(pace: Pace, timer: VirtualTimer, seconds: float) -> int:
    """How many turns there are in so many seconds."""
    end = timer.seconds() + seconds
    count = 0
    while timer.seconds() < end:
        wait = pace.delay()
        if wait:
            timer.wait(wait)
        else:
            count += 1
    return count


def test_the_rate_is_kept_and_used() -> None:
    timer = VirtualTimer()
    pace = Pace(50, timer)
    assert 490 <= turns(pace, timer, 10) <= 502


def test_a_pause_of_the_caller_gives_no_burst() -> None:
    timer = VirtualTimer()
    pace = Pace(100, timer)
    timer.wait(3600)
    assert turns(pace, timer, 1) <= 151


def test_told_to_slow_down_it_halves_once_a_second_and_pauses() -> None:
    timer = VirtualTimer()
    pace = Pace(100, timer)
    for _ in range(10):
        pace.slow_down(2)
    assert pace.rate == 50
    assert turns(pace, timer, 2) == 0
    timer.wait(0.01)
    pace.slow_down(0)
    assert 24 <= pace.rate <= 26


def test_it_never_stops_for_good_and_finds_its_way_back() -> None:
    timer = VirtualTimer()
    pace = Pace(100, timer)
    for _ in range(20):
        pace.slow_down(1)
        timer.wait(1.5)
    assert pace.rate >= 1
    timer.wait(60)
    assert pace.rate == 100


def test_a_low_rate_is_not_raised() -> None:
    timer = VirtualTimer()
    pace = Pace(0.5, timer)
    pace.slow_down(0)
    assert turns(pace, timer, 20) <= 10


# ---- the breaker


def test_single_failures_do_not_open_it() -> None:
    breaker = Breaker()
    for _ in range(9):
        breaker.failed(0, was_try=False)
    assert breaker.is_closed
    breaker.succeeded()
    for _ in range(9):
        breaker.failed(0, was_try=False)
    assert breaker.is_closed


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(100, was_try=False)
    assert not breaker.is_closed
    return breaker


def test_open_nobody_calls_for_a_while_and_then_one_alone() -> None:
    breaker = opened()
    assert breaker.seconds_to_try(100) > 0
    assert breaker.seconds_to_try(131) == 0
    assert breaker.seconds_to_try(131) > 0, "one alone"
    breaker.failed(131, was_try=True)
    assert breaker.seconds_to_try(131) > 0
    assert breaker.seconds_to_try(162) == 0
    breaker.succeeded()
    assert breaker.is_closed


def test_calls_that_had_left_before_it_opened_count_no_more() -> None:
    breaker = opened()
    for _ in range(200):
        breaker.failed(100, was_try=False)
    assert not breaker.has_given_up


def test_it_gives_up_after_some_tries() -> None:
    breaker = opened()
    now, tries = 100.0, 0
    while not breaker.has_given_up:
        now += 31
        assert breaker.seconds_to_try(now) == 0
        breaker.failed(now, was_try=True)
        tries += 1
    assert tries == 5


def test_backing_off_takes_longer_each_time_and_has_an_end() -> None:
    for attempt in range(20):
        longest = min(0.5 * 2**attempt, 30)
        assert longest / 2 <= backoff(attempt) <= longest
