"""RFC 3339, read strictly and written in one form."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import SystemClock, format_rfc3339, parse_rfc3339


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-05-15T12:00:00Z", datetime(2026, 5, 15, 12, tzinfo=UTC)),
        ("2026-05-15t12:00:00z", datetime(2026, 5, 15, 12, tzinfo=UTC)),
        ("2026-05-15T14:00:00+02:00", datetime(2026, 5, 15, 12, tzinfo=UTC)),
        ("2026-05-15T12:00:00.000Z", datetime(2026, 5, 15, 12, tzinfo=UTC)),
        ("2026-05-15T12:00:00.1234567Z", datetime(2026, 5, 15, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2026-05-15T12:00:00.5-00:00", datetime(2026, 5, 15, 12, 0, 0, 500000, tzinfo=UTC)),
    ],
)
def test_what_is_read(text: str, moment: datetime) -> None:
    assert parse_rfc3339(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-05-15", "2026-05-15 12:00:00Z", "2026-05-15T12:00:00", "2026-05-15T12:00Z", "20260515T120000Z",
        "2026-W20-5T12:00:00Z", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-05-15T24:00:00Z",
        "2026-05-15T23:59:60Z", "2026-05-15T12:00:00+25:00", "2026-05-15T12:00:00Zz", "\uff12\uff1026-05-15T12:00:00Z",
        "2026-05-15T12:00:00Z\n", "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00",
    ],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  what it says is the caller's business, who knows what was asked for
        parse_rfc3339(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_written_is_read_back(moment: datetime) -> None:
    text = format_rfc3339(moment)
    assert text.endswith("Z")
    assert parse_rfc3339(text) == moment


def test_the_machines_clock_tells_utc() -> None:
    assert SystemClock().now().tzinfo is UTC
