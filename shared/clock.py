"""The one clock, and the one form in which times are read and written.

Everything that depends on time takes a `Clock`; nothing else in production reads the time, and SQL never calls
now(). (The pool of connections alone asks the machine how long one was not used.) Tests serve the same functions with a
clock of their own.
"""

import re
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> datetime:
        """The current time, timezone-aware, in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The current time in UTC."""
        return datetime.now(UTC)


class Timer(Protocol):
    """Measures and waits: for pacing and backing off, which must not follow a clock that is set."""

    def seconds(self) -> float:
        """Seconds since a moment that stays the same; only ever rises."""
        ...

    def wait(self, seconds: float) -> None:
        """Come back after so many seconds."""
        ...


class SystemTimer:
    """The machine's own."""

    def seconds(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Come back after so many seconds."""
        time.sleep(seconds)


_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?P<fraction>\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def parse_rfc3339(text: str) -> datetime:
    """Read an RFC 3339 timestamp with its offset; give it in UTC.

    Digits past the microsecond are cut off, so that one instant always gives one value. Raises ValueError
    for anything else, a leap second included.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 timestamp")
    upper = text.upper()
    fraction = match["fraction"]
    if fraction is not None:
        upper = upper.replace(fraction, fraction[:7].ljust(7, "0"), 1)
    try:
        return datetime.fromisoformat(upper).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("outside the years 1 to 9999") from error


def format_rfc3339(moment: datetime) -> str:
    """Write a timezone-aware time as RFC 3339 in UTC with a Z; fractions only where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
