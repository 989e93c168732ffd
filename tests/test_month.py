"""The calendar month in the service's convention."""

import calendar
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.period_reset.month import month_of

# A day away from either end of time, where another zone's clock would fall off it.
ZONES = st.just(UTC) | st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 2, tzinfo=UTC).replace(tzinfo=None),
    max_value=datetime(9999, 12, 30, tzinfo=UTC).replace(tzinfo=None),
    timezones=ZONES,
)


@given(MOMENTS)
def test_a_month_contains_its_moment_in_utc_and_ends_with_its_last_whole_second(moment: datetime) -> None:
    month = month_of(moment)
    utc = moment.astimezone(UTC)
    assert (month.start.year, month.start.month) == (utc.year, utc.month)
    assert month.start == datetime(utc.year, utc.month, 1, tzinfo=UTC)
    last_day = calendar.monthrange(utc.year, utc.month)[1]
    assert month.end == datetime(utc.year, utc.month, last_day, 23, 59, 59, tzinfo=UTC)
    assert month.start <= utc < month.end + timedelta(seconds=1)


@given(MOMENTS)
def test_months_follow_on_one_another_without_a_gap(moment: datetime) -> None:
    month = month_of(moment)
    if (month.start.year, month.start.month) != (9999, 12):
        following = month_of(month.end + timedelta(seconds=1))
        assert following.start == month.end + timedelta(seconds=1)
    assert month_of(month.start) == month_of(month.end) == month


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC)),
        (datetime(2100, 2, 1, tzinfo=UTC), datetime(2100, 2, 28, 23, 59, 59, tzinfo=UTC)),
        # Half past midnight in Berlin on the 1st is still the month before in UTC.
        (
            datetime(2026, 6, 1, 0, 30, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC),
        ),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_months_ends(moment: datetime, end: datetime) -> None:
    assert month_of(moment).end == end


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        month_of(datetime(2026, 5, 1, tzinfo=UTC).replace(tzinfo=None))
