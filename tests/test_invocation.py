"""What a request asks for, and what is refused."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadRequest
from shared.invocation import SCHEDULE_TIME_HEADER, Invocation, parse_invocation
from tests.support.clock import NOON

SLOT = "2026-05-15T12:00:00Z"


def test_an_empty_request_is_a_run_by_hand() -> None:
    for body in (b"", b"  \n", b"{}"):
        assert parse_invocation(None, body, NOON) == Invocation(trigger="manual")


def test_a_firing_has_its_slot() -> None:
    assert parse_invocation(SLOT, b"", NOON) == Invocation(trigger="schedule", slot=NOON)
    assert parse_invocation("2026-05-15T14:00:00.000+02:00", b"{}", NOON).slot == NOON


@pytest.mark.parametrize(
    ("ahead", "is_slot"), [(-86_400 * 30, True), (0, True), (300, True), (301, False), (86_400, False)]
)
def test_a_slot_more_than_300_seconds_ahead_is_the_next_firings(ahead: int, is_slot: bool) -> None:
    invocation = parse_invocation(SLOT, b"", NOON - timedelta(seconds=ahead))
    assert invocation == (Invocation("schedule", NOON) if is_slot else Invocation("manual"))


@pytest.mark.parametrize("body", [b'{"dry_run": true}', b'{"force": true}', b'{"limit": 1}'])
def test_dry_forced_and_limited_runs_have_no_slot(body: bytes) -> None:
    assert parse_invocation(SLOT, body, NOON).slot is None


def test_every_field() -> None:
    body = b'{"dry_run": true, "force": false, "limit": 12, "as_of": "2026-01-01T00:00:00Z"}'
    invocation = parse_invocation(None, body, NOON)
    assert (invocation.dry_run, invocation.force, invocation.limit) == (True, False, 12)
    assert invocation.as_of == NOON.replace(month=1, day=1, hour=0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"not json", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"7", "body"),
        (b'"text"', "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 60_000, "body"),
        (b'{"limit": ' + b"9" * 5_000 + b"}", "body"),
        (b'{"dry_run": true, "dry_run": false}', "body"),
        (b'{"dryrun": true}', "dryrun"),
        (b'{"slot": "2026-05-15T12:00:00Z"}', "slot"),
        (b'{"shard": 0}', "shard"),
        (b'{"": 1}', ""),
        (b'{"dry_run": 1}', "dry_run"),
        (b'{"dry_run": "true"}', "dry_run"),
        (b'{"dry_run": null}', "dry_run"),
        (b'{"force": []}', "force"),
        (b'{"limit": 0}', "limit"),
        (b'{"limit": -1}', "limit"),
        (b'{"limit": 1.0}', "limit"),
        (b'{"limit": true}', "limit"),
        (b'{"limit": "5"}', "limit"),
        (b'{"limit": null}', "limit"),
        (b'{"as_of": "2026-01-01T00:00:00Z"}', "as_of"),
        (b'{"dry_run": false, "as_of": "2026-01-01T00:00:00Z"}', "as_of"),
        (b'{"dry_run": true, "as_of": "yesterday"}', "as_of"),
        (b'{"dry_run": true, "as_of": 7}', "as_of"),
        (b'{"dry_run": true, "as_of": null}', "as_of"),
    ],
)
def test_a_wrong_body_is_refused_by_name(body: bytes, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_invocation(None, body, NOON)
    assert refused.value.field == field
    assert field in str(refused.value)


def test_a_long_unknown_name_is_not_told_whole() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_invocation(None, b'{"' + b"x" * 10_000 + b'": 1}', NOON)
    assert refused.value.field == "x" * 64
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("header", ["", "soon", "2026-05-15", "2026-05-15T12:00:00", SLOT + SLOT, "x" * 10_000])
def test_a_broken_schedule_time_is_refused(header: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_invocation(header, b"", NOON)
    assert refused.value.field == SCHEDULE_TIME_HEADER


@given(st.binary(max_size=200), st.none() | st.text(max_size=80))
def test_whatever_comes_is_understood_or_refused(body: bytes, header: str | None) -> None:
    with suppress(BadRequest):
        assert parse_invocation(header, body, NOON).trigger in ("schedule", "manual")
