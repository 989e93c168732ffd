"""What Stripe's sums prove: the decisions alone, against a Stripe whose truth is known."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from functions.stripe_reconcile.audit import Comparison, compare
from functions.stripe_reconcile.billable import Span, paying_spans
from functions.stripe_reconcile.evidence import Finding, Pages, Question, look
from shared.stripe_calls import Grouping, Subscription

START = datetime(2026, 5, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Sums:
    """Stripe's sums over events at known times."""

    def __init__(self) -> None:
        self.events: list[tuple[datetime, int]] = []
        self.reads = 0

    def add(self, at: datetime, pages: int) -> None:
        self.events.append((at, pages))

    def __call__(self, start: datetime, end: datetime, grouping: Grouping | None) -> Mapping[datetime, float]:
        unit = HOUR if grouping else MINUTE
        for moment in (start, end):
            assert (moment - START) % unit == timedelta(0), "Stripe takes whole minutes, and whole hours by the hour"
        assert start < end
        self.reads += 1
        sums: dict[datetime, float] = {}
        for at, pages in self.events:
            if start <= at < end:
                begun = at.replace(minute=0, second=0, microsecond=0) if grouping else start
                sums[begun] = sums.get(begun, 0) + pages
        return sums


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def ask(sums: Sums, *questions: tuple[float, int], known: list[Pages] | None = None) -> list[str]:
    asked = [Question(str(number), at(minutes), pages) for number, (minutes, pages) in enumerate(questions)]
    found = dict(look(sums, asked, known or []))
    return [found[question.key].name for question in asked]


def test_an_event_in_its_minute_or_the_next_is_there() -> None:
    for seconds in (0, 59, 60, 119):
        sums = Sums()
        sums.add(at(10) + timedelta(seconds=seconds), 3)
        assert ask(sums, (10, 3)) == ["PRESENT"]
    sums = Sums()
    sums.add(at(12), 3)
    assert ask(sums, (10, 3)) == ["ABSENT"]


def test_half_of_the_pages_prove_nothing() -> None:
    sums = Sums()
    sums.add(at(10), 2)
    assert ask(sums, (10, 3)) == ["UNCLEAR"]


def test_pages_that_are_known_do_not_count_for_the_question() -> None:
    sums = Sums()
    sums.add(at(10), 5)
    assert ask(sums, (10, 3), known=[Pages(at(10), 5, exact=True)]) == ["ABSENT"]
    assert ask(sums, (10, 3), known=[Pages(at(9), 5, exact=False)]) == ["ABSENT"]
    sums.add(at(10), 3)
    assert ask(sums, (10, 3), known=[Pages(at(10), 5, exact=True)]) == ["PRESENT"]


def test_events_of_one_minute_are_there_together_or_not_told_apart() -> None:
    sums = Sums()
    sums.add(at(10), 3)
    assert ask(sums, (10, 3), (10.5, 4)) == ["UNCLEAR", "UNCLEAR"]
    sums.add(at(10), 4)
    assert ask(sums, (10, 3), (10.5, 4)) == ["PRESENT", "PRESENT"]


def test_what_is_known_in_a_minute_that_overlaps_belongs_to_the_span() -> None:
    """The service sent one at 9:50, which may stand at 10:00: in the minute of the question."""
    sums = Sums()
    sums.add(at(10), 3)
    assert ask(sums, (10, 3), known=[Pages(at(9), 3, exact=False)]) == ["ABSENT"]


def test_many_events_by_the_hour_are_one_read() -> None:
    sums = Sums()
    questions = [(60.0 * number + 10, 1) for number in range(48)]
    for minutes, pages in questions[::2]:
        sums.add(at(minutes), pages)
    assert ask(sums, *questions) == ["PRESENT", "ABSENT"] * 24
    assert sums.reads == 1


def test_hours_with_both_kinds_are_read_by_the_minute() -> None:
    sums = Sums()
    questions = [(10.0, 1), (20.0, 1), (130.0, 1), (250.0, 1)]
    sums.add(at(10), 1)
    assert ask(sums, *questions) == ["PRESENT", "ABSENT", "ABSENT", "ABSENT"]
    assert sums.reads == 3


def test_in_an_hour_with_known_pages_absence_is_read_by_the_minute() -> None:
    """One of the known may be gone, and the one in question there in its place: the sum would be the same."""
    sums = Sums()
    questions = [(10.0, 1), (130.0, 1), (250.0, 1)]
    sums.add(at(10), 1)  # the one in question; the known one was refused later, of which nobody has heard
    assert ask(sums, *questions, known=[Pages(at(40), 1, exact=True)]) == ["PRESENT", "ABSENT", "ABSENT"]


def test_an_unknown_page_in_any_hour_makes_all_hours_worthless() -> None:
    sums = Sums()
    questions = [(10.0, 1), (130.0, 1), (250.0, 1)]
    sums.add(at(40), 1)  # in the hour of the first: its sum is right, and its event is not there
    sums.add(at(90), 1)  # in an hour in which nothing is known and nothing asked
    assert ask(sums, *questions) == ["ABSENT", "ABSENT", "ABSENT"]
    assert sums.reads == 4


def test_an_event_of_which_the_services_row_is_gone_is_looked_for_by_the_minute() -> None:
    sums = Sums()
    questions = [Question(str(number), at(60 * number), 1, by_minutes=number == 3) for number in range(6)]
    assert len(dict(look(sums, questions, []))) == 6
    assert sums.reads == 6


def test_a_minute_at_the_turn_of_an_hour_binds_both_hours_together() -> None:
    sums = Sums()
    sums.add(at(60), 1)
    assert ask(sums, (59.9, 1), (130.0, 1), (250.0, 1)) == ["PRESENT", "ABSENT", "ABSENT"]
    assert sums.reads == 1


PLACES = st.integers(0, 60 * 24 * 4)


@given(
    questions=st.lists(
        st.tuples(PLACES, st.integers(1, 3), st.booleans(), st.integers(0, 59)), min_size=1, max_size=25
    ),
    known=st.lists(st.tuples(PLACES, st.integers(1, 3), st.booleans(), st.integers(0, 59)), max_size=25),
)
def test_where_all_is_known_nothing_is_ever_told_wrongly(
    questions: list[tuple[int, int, bool, int]], known: list[tuple[int, int, bool, int]]
) -> None:
    """Stripe has exactly the known pages, and some of those in question. Whatever is told is true.

    No sum of pages looks like another here: all in question are there, or none of them, or it stays unclear.
    """
    sums = Sums()
    for minutes, pages, is_exact, seconds in known:
        sums.add(at(minutes) + timedelta(seconds=0 if is_exact else seconds + 30), pages)
    asked = []
    for number, (minutes, pages, is_there, seconds) in enumerate(questions):
        asked.append(Question(str(number), at(minutes) + timedelta(seconds=seconds), pages))
        if is_there:
            sums.add(at(minutes) + timedelta(seconds=min(seconds + 30, 119)), pages)
    found = dict(look(sums, asked, [Pages(at(minutes), pages, exact) for minutes, pages, exact, _ in known]))
    for question, (_, _, is_there, _) in zip(asked, questions, strict=True):
        assert found[question.key] in (Finding.PRESENT if is_there else Finding.ABSENT, Finding.UNCLEAR)


@given(
    questions=st.lists(st.tuples(PLACES, st.booleans()), min_size=1, max_size=40, unique_by=lambda each: each[0] // 2)
)
def test_events_that_stand_apart_are_all_told(questions: list[tuple[int, bool]]) -> None:
    sums = Sums()
    apart = [(2 * minutes, is_there) for minutes, is_there in questions]
    for minutes, is_there in apart:
        if is_there:
            sums.add(at(minutes), 1)
    told = ask(sums, *((minutes, 1) for minutes, _ in apart))
    assert told == ["PRESENT" if is_there else "ABSENT" for _, is_there in apart]


# ---- the others


def subscription(status: str = "active", *, meters: set[str] | None = None, all_shown: bool = True) -> Subscription:
    return Subscription("sub_1", status, START, None, frozenset(meters or {"mtr_1"}), all_shown)


def test_when_a_customer_was_paying() -> None:
    assert paying_spans([subscription()], "mtr_1") == [Span(START, None)]
    assert paying_spans([subscription("incomplete"), subscription("incomplete_expired")], "mtr_1") == []
    assert paying_spans([subscription(meters={"mtr_2"})], "mtr_1") == []
    assert paying_spans([subscription(meters={"mtr_2"}, all_shown=False)], "mtr_1") is None
    assert paying_spans([subscription(all_shown=False)], "mtr_1") == [Span(START, None)]


def test_what_a_sum_says_about_our_pages() -> None:
    assert compare(5, 5, 0) is Comparison.EQUAL
    assert compare(4, 5, 0) is Comparison.DIFFERENT
    assert compare(6, 5, 0) is Comparison.DIFFERENT
    assert compare(5, 5, 2) is Comparison.OPEN
    assert compare(7, 5, 2) is Comparison.OPEN
    assert compare(8, 5, 2) is Comparison.DIFFERENT
    assert compare(4, 5, 2) is Comparison.DIFFERENT
