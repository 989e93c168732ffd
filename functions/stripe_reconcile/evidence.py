"""Does Stripe have an event or not? Decided by what its meter counted, where sending once more could bill twice.

Stripe's event summaries give a sum of pages for whole minutes or hours ("Meter event summaries", Stripe API reference).
Held against it: K, the pages known to be accepted in that span, and D, all pages in question in it.

- In a span of minutes, S >= K + D says that Stripe has them, and S = K that it has none of them.
- In whole hours, where many events are decided by one read, only what leaves no room is believed: S = K + D exactly, or
  nothing at all there (S = K = 0). And only if every other hour that was read holds exactly what is known: an hour with
  pages that nobody here knows of (a restored database, events made by hand) makes the sums of all of them worthless.
- Anything else stays unclear.

An event's own minute is not the whole of where it may stand at Stripe: the service sends seconds after the event, with
the time of sending. So the next minute belongs to the span, for all but events that this job itself has sent.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.stripe_calls import Grouping

_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
# So many hours fit on one page of summaries.
_HOURS_A_READ = 100

Read = Callable[[datetime, datetime, Grouping | None], Mapping[datetime, float]]


class Finding(enum.Enum):
    """What the summaries say about an event in question."""

    PRESENT = "Stripe has it"
    ABSENT = "Stripe does not have it"
    UNCLEAR = "the sums fit neither"


@dataclass(frozen=True)
class Question:
    """An event that Stripe may have or not. `by_minutes` for one that only the narrowest span may decide."""

    key: str
    occurred_at: datetime
    pages: int
    by_minutes: bool = False


@dataclass(frozen=True)
class Known:
    """Pages accepted at Stripe in one minute; `exact` where their time there is the event's own."""

    minute: datetime
    pages: int
    exact: bool


@dataclass
class _Span:
    """A stretch of time with what is known and asked in it."""

    start: datetime
    end: datetime
    known: int = 0
    asked: list[Question] | None = None

    @property
    def questions(self) -> list[Question]:
        return self.asked or []

    @property
    def in_question(self) -> int:
        return sum(question.pages for question in self.questions)


def look(read: Read, questions: Sequence[Question], known: Sequence[Known]) -> dict[str, Finding]:
    """Decide about all questions of one customer, with as few reads as that takes; give findings by key.

    `read` gives Stripe's sums for a span, by the start of each hour or of the whole. It may raise what it likes.
    """
    windows = [span for span in _joined(_pieces(questions, known, _MINUTE)) if span.questions]
    found: dict[str, Finding] = {}
    if len(windows) > _reads_by_hours(windows) and not any(question.by_minutes for question in questions):
        cells = _joined([*_hours(windows), *_pieces(questions, known, _HOUR)])
        found = _by_hours(read, cells)
    for window in windows:
        if any(question.key not in found for question in window.questions):
            counted = sum(read(window.start, window.end, None).values())
            finding = _by_minutes(counted, window)
            found.update((question.key, finding) for question in window.questions)
    return found


def _by_minutes(counted: float, span: _Span) -> Finding:
    if counted >= span.known + span.in_question:
        return Finding.PRESENT
    return Finding.ABSENT if counted == span.known else Finding.UNCLEAR


def _by_hours(read: Read, cells: Sequence[_Span]) -> dict[str, Finding]:
    """Findings that whole hours leave no doubt about; nothing for the other questions."""
    found: dict[str, Finding] = {}
    for group in _reads(cells):
        counted = read(group[0].start, group[-1].end, "hour")
        for cell in group:
            here = sum(pages for hour, pages in counted.items() if cell.start <= hour < cell.end)
            if not cell.questions:
                if here != cell.known:
                    return {}
            elif here == cell.known + cell.in_question:
                found.update((question.key, Finding.PRESENT) for question in cell.questions)
            elif here == cell.known == 0:
                found.update((question.key, Finding.ABSENT) for question in cell.questions)
    return found


def _reads(cells: Sequence[_Span]) -> Iterator[list[_Span]]:
    """The cells, in groups that one read covers: from one with a question to one with a question."""
    group: list[_Span] = []
    for cell in cells:
        if group and cell.end - group[0].start > _HOURS_A_READ * _HOUR:
            yield _trimmed(group)
            group = []
        if group or cell.questions:
            group.append(cell)
    if group:
        yield _trimmed(group)


def _trimmed(group: list[_Span]) -> list[_Span]:
    while not group[-1].questions:
        group.pop()
    return group


def _reads_by_hours(windows: Sequence[_Span]) -> int:
    return sum(1 for _ in _reads([_rounded(window.start, window.end, _HOUR, window.questions) for window in windows]))


def _hours(windows: Sequence[_Span]) -> Iterator[_Span]:
    """Every hour from the first question to the last, empty as yet."""
    hour = _floor(windows[0].start, _HOUR)
    while hour < windows[-1].end:
        yield _Span(hour, hour + _HOUR)
        hour += _HOUR


def _pieces(questions: Iterable[Question], known: Iterable[Known], unit: timedelta) -> Iterator[_Span]:
    """The span in which each event may stand at Stripe, in whole units of time."""
    for question in questions:
        minute = _floor(question.occurred_at, _MINUTE)
        yield _rounded(minute, minute + 2 * _MINUTE, unit, [question])
    for each in known:
        end = each.minute + (_MINUTE if each.exact else 2 * _MINUTE)
        span = _rounded(each.minute, end, unit, [])
        span.known = each.pages
        yield span


def _joined(spans: Iterable[_Span]) -> list[_Span]:
    """The spans in their order; those that overlap become one."""
    joined: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if joined and span.start < joined[-1].end:
            last = joined[-1]
            last.end = max(last.end, span.end)
            last.known += span.known
            last.asked = [*last.questions, *span.questions]
        else:
            joined.append(_Span(span.start, span.end, span.known, span.questions))
    return joined


def _rounded(start: datetime, end: datetime, unit: timedelta, questions: list[Question]) -> _Span:
    floor = _floor(end, unit)
    return _Span(_floor(start, unit), floor if floor == end else floor + unit, asked=questions)


def _floor(moment: datetime, unit: timedelta) -> datetime:
    seconds = int(moment.timestamp()) // int(unit.total_seconds()) * int(unit.total_seconds())
    return datetime.fromtimestamp(seconds, moment.tzinfo)
