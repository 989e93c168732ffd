"""A calendar month in UTC, in the service's own convention. Pure arithmetic."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Month:
    """A free account's billing period: `start` is the 1st at 00:00:00, `end` the month's last whole second."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{self.start:%Y-%m}"


def month_of(moment: datetime) -> Month:
    """The month (UTC) that contains a timezone-aware moment.

    The end is the last second with no fraction, so the month's last fraction of a second lies past the end and is still
    in the month. Raises ValueError for a moment without a timezone.
    """
    if moment.tzinfo is None:
        raise ValueError("a month is found for a timezone-aware time only")
    start = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    # No month is longer than 31 days, so 32 days on is always in the next one. (December 9999 has no next one.)
    last_day = 31 if start.month == 12 else ((start + timedelta(days=32)).replace(day=1) - timedelta(days=1)).day
    return Month(start, start.replace(day=last_day, hour=23, minute=59, second=59))
