"""How far back counters are kept."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.cleanup.months import first_of_month

ZONES = st.just(UTC) | st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 2, tzinfo=UTC).replace(tzinfo=None),
    max_value=datetime(9999, 12, 30, tzinfo=UTC).replace(tzinfo=None),
    timezones=ZONES,
)
FIRST = datetime(1, 1, 1, tzinfo=UTC)


def month_before(start: datetime) -> datetime:
    """The month before, found by going there; of the calendar's first month, itself."""
    return start if start == FIRST else (start - timedelta(days=1)).replace(day=1)


@given(MOMENTS, st.integers(0, 1_200))
def test_it_is_as_many_months_back_as_a_walk_along_the_calendar_goes(moment: datetime, months: int) -> None:
    start = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(months):
        start = month_before(start)
    assert first_of_month(moment, months) == start


@given(MOMENTS, st.integers(0, 1_199))
def test_a_longer_retention_never_takes_more(moment: datetime, months: int) -> None:
    assert first_of_month(moment, months + 1) <= first_of_month(moment, months) <= moment


@pytest.mark.parametrize(
    ("moment", "months", "start"),
    [
        (datetime(2026, 5, 15, tzinfo=UTC), 13, datetime(2025, 4, 1, tzinfo=UTC)),
        (datetime(2026, 1, 1, tzinfo=UTC), 1, datetime(2025, 12, 1, tzinfo=UTC)),
        (datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC), 13, datetime(2024, 12, 1, tzinfo=UTC)),
        (datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), 12, datetime(2024, 12, 1, tzinfo=UTC)),
        (datetime(2026, 2, 1, tzinfo=UTC), 13, datetime(2025, 1, 1, tzinfo=UTC)),
        # Half past midnight in Berlin on New Year's Day is still the year before in UTC.
        (datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), 13, datetime(2024, 11, 1, tzinfo=UTC)),
        (datetime(2026, 5, 15, tzinfo=UTC), 1_200, datetime(1926, 5, 1, tzinfo=UTC)),
        (datetime(101, 1, 31, tzinfo=UTC), 1_200, FIRST),
        (datetime(100, 12, 31, tzinfo=UTC), 1_200, FIRST),
    ],
)
def test_months_and_years_ends(moment: datetime, months: int, start: datetime) -> None:
    assert first_of_month(moment, months) == start


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        first_of_month(datetime(2026, 5, 1, tzinfo=UTC).replace(tzinfo=None), 13)
