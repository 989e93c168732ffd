"""The guard against deleting too much: exact at its edges, and both numbers in its sentence."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.cleanup.guard import allowed, check
from shared.environ import fraction
from shared.errors import Refused

DIGITS = st.from_regex(r"\A(0(\.[0-9]{1,9})?|1(\.0{1,9})?)\Z")


@given(st.integers(0, 10**9), DIGITS, st.integers(0, 10**9 - 1))
def test_it_is_the_share_as_it_is_written_or_the_floor(total: int, share: str, floor: int) -> None:
    may = allowed(total, fraction({"SHARE": share}, "SHARE", 0.5), floor, None)
    # At most: no more than the share, and one more would be.
    assert may == max(floor, int(Fraction(share) * total))


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_operators_number_stands_for_both(total: int, floor: int, number: int) -> None:
    assert allowed(total, 0.5, floor, number) == number


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_what_is_more_than_may_go_is_refused(would: int, may: int) -> None:
    if would <= may:
        check("period", "runs", would, would, may)
        return
    with pytest.raises(Refused) as refused:
        check("period", "runs", would, would + 1, may)
    assert (refused.value.would_delete, refused.value.allowed) == (would, may)
    assert f"{would} of {would + 1} runs would be deleted, and at most {may} may" in str(refused.value)
    assert "ops run period --allow-deletes" in str(refused.value)


@pytest.mark.parametrize(("share", "total", "may"), [(0.29, 100, 29), (0.57, 100, 57), (0.07, 100, 7), (0.5, 5, 2)])
def test_shares_that_binary_fractions_miss(share: float, total: int, may: int) -> None:
    assert allowed(total, share, 0, None) == may
