"""How far back counters are kept. Pure arithmetic."""

from datetime import UTC, datetime

_MONTHS_A_YEAR = 12


def first_of_month(now: datetime, months_ago: int) -> datetime:
    """The first moment (UTC) of the calendar month so many months before that of `now`.

    Where that would be before the year 1, the calendar's first moment. Raises ValueError for a time with no timezone.
    """
    if now.tzinfo is None:
        raise ValueError("a month is found for a timezone-aware time only")
    utc = now.astimezone(UTC)
    months = max(utc.year * _MONTHS_A_YEAR + utc.month - 1 - months_ago, _MONTHS_A_YEAR)
    return datetime(months // _MONTHS_A_YEAR, months % _MONTHS_A_YEAR + 1, 1, tzinfo=UTC)
