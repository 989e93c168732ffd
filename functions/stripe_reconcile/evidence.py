"""Does Stripe have an event or not? Decided by what its meter counted, where sending once more could bill twice.

Stripe's event summaries give a sum S of pages for whole minutes or hours ("Meter event summaries", Stripe API
reference). Held against it: D, all pages in question in that stretch of time, and K, the other pages in it. K is a
range where it is not certain that they are in it: they stand at its edge, they were accepted so lately that the sums
may not have them, or nobody has decided about them yet.

- In a window of minutes, S >= K + D says that Stripe has them, by the most that K can be; and S = K that it has none of
  them, by the least.
- In whole hours, where many events are decided by one read, only what leaves no room is believed: S = K + D exactly, or
  nothing at all there (S = 0). And only if every other hour that was read holds what is known: an hour with pages that
  nobody here knows of (a restored database, events made by hand) makes the sums of all of them worthless. What an hour
  holds beside the windows in it that were read may prove that the rest is there. It proves no absence: the reads are of
  different moments, and the sums grow.
- Anything else stays unclear; or open, where what makes it unclear will be known in an hour.

An event's own minute is not the whole of where it may stand at Stripe: the service sends seconds after the event, with
the time of sending. So the next minute belongs to the window. Only what this job has sent itself stands in its own.
"""

import enum
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shared.stripe_calls import Grouping

_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
# So many hours fit on one page of summaries.
HOURS_A_READ = 100
# A window is widened by so much at each side, so that what is known at its edge is in it as a whole.
_WIDENED_BY = 10 * _MINUTE

Read = Callable[[datetime, datetime, Grouping | None], Mapping[datetime, float]]


class Finding(enum.Enum):
    """What the summaries say about an event in question."""

    PRESENT = "Stripe has it"
    ABSENT = "Stripe does not have it"
    UNCLEAR = "the sums fit neither"
    OPEN = "the sums will say more in an hour"


@dataclass(frozen=True)
class Question:
    """An event that Stripe may have or not. `by_minutes` for one that only the narrowest window may decide."""

    key: str
    occurred_at: datetime
    pages: int
    by_minutes: bool = False

    @property
    def start(self) -> datetime:
        """The start of the minutes in which it may stand."""
        return floor(self.occurred_at, _MINUTE)

    @property
    def end(self) -> datetime:
        """The end of them."""
        return self.start + 2 * _MINUTE


@dataclass(frozen=True)
class Pages:
    """Other pages of one minute. `exact`: in that minute; otherwise in that or the next.

    `is_sure` is false where Stripe may have them or not; `is_fresh` where that will be known in an hour.
    """

    minute: datetime
    pages: int
    exact: bool
    is_sure: bool = True
    is_fresh: bool = False

    @property
    def end(self) -> datetime:
        """The end of the time in which they may stand."""
        return self.minute + (_MINUTE if self.exact else 2 * _MINUTE)


@dataclass
class _Stretch:
    """A stretch of time with the questions in it, the least and the most of other pages, and what Stripe counts."""

    start: datetime
    end: datetime
    questions: list[Question] = field(default_factory=list)
    least: int = 0
    most: int = 0
    is_fresh: bool = False
    is_rest: bool = False
    counted: float = 0.0

    @property
    def in_question(self) -> int:
        return sum(question.pages for question in self.questions)

    def by_minutes(self) -> Finding:
        """What a sum of minutes says."""
        if self.counted >= self.most + self.in_question:
            return Finding.PRESENT
        if self.counted == self.least:
            return Finding.ABSENT
        return Finding.OPEN if self.is_fresh else Finding.UNCLEAR

    def by_hours(self) -> Finding:
        """What a sum of hours leaves no doubt about."""
        if self.counted == self.most + self.in_question:
            return Finding.PRESENT
        return Finding.ABSENT if self.counted == self.least == 0 and not self.is_rest else Finding.UNCLEAR

    def without(self, window: "_Stretch") -> "_Stretch | None":
        """What is left of this when a window in it was read; None where pages may stand in either."""
        if self.least != self.most or window.least != window.most:
            return None
        if not self.start <= window.start <= window.end <= self.end:
            return None
        left = [question for question in self.questions if question not in window.questions]
        known = self.most - window.most
        counted = self.counted - window.counted
        return _Stretch(self.start, self.end, left, known, known, self.is_fresh, is_rest=True, counted=counted)


class _Around:
    """All that may stand at Stripe around the questions of one customer, in the order of time."""

    def __init__(self, questions: Sequence[Question], others: Sequence[Pages]) -> None:
        self.questions = sorted(questions, key=lambda question: (question.start, question.key))
        self.others = sorted(others, key=lambda each: each.minute)
        self.bounds = floor(self.questions[0].start, _HOUR), _ceiling(self.questions[-1].end, _HOUR)
        self._starts = [question.start for question in self.questions]
        self._minutes = [each.minute for each in self.others]

    def within(self, start: datetime, end: datetime) -> tuple[list[Question], list[Pages]]:
        """What may stand in a stretch of time. Nothing may stand in more than two minutes."""
        first = start - 2 * _MINUTE
        questions = self.questions[bisect_right(self._starts, first) : bisect_left(self._starts, end)]
        others = self.others[bisect_right(self._minutes, first) : bisect_left(self._minutes, end)]
        return [each for each in questions if each.end > start], [each for each in others if each.end > start]

    def stretch(self, start: datetime, end: datetime) -> _Stretch:
        """A stretch of time with all that stands in it, or may."""
        stretch = _Stretch(start, end)
        questions, others = self.within(start, end)
        for question in questions:
            if start <= question.start and question.end <= end:
                stretch.questions.append(question)
            else:
                stretch.most += question.pages
        for each in others:
            stretch.most += each.pages
            stretch.is_fresh = stretch.is_fresh or each.is_fresh
            if each.is_sure and start <= each.minute and each.end <= end:
                stretch.least += each.pages
        return stretch

    def window(self, start: datetime, end: datetime) -> _Stretch:
        """The same, widened as long as something stands across its edges, within limits."""
        first, last = max(self.bounds[0], start - _WIDENED_BY), min(self.bounds[1], end + _WIDENED_BY)
        while True:
            questions, others = self.within(start, end)
            starts = [start, *(each.start for each in questions), *(each.minute for each in others)]
            ends = [end, *(each.end for each in questions), *(each.end for each in others)]
            wider = max(first, min(starts)), min(last, max(ends))
            if wider == (start, end):
                return self.stretch(start, end)
            start, end = wider


def look(read: Read, questions: Sequence[Question], others: Sequence[Pages]) -> Iterator[tuple[str, Finding]]:
    """Decide about all questions of one customer, with few reads; give findings by key, as they come.

    `others` are all other pages of the customer from two minutes before the hour of the first question to the end of
    the hour of the last. `read` gives Stripe's sums, by the start of each hour or of the whole; it may raise anything.
    """
    around = _Around(questions, others)
    groups = list(_groups(around.questions))
    hours: list[_Stretch] = []
    if len(groups) > _reads_by_hours(groups, around.bounds) and not any(question.by_minutes for question in questions):
        hours = _read_hours(read, groups, around)
    told: set[str] = set()
    for group in groups:
        if told.issuperset(question.key for question in group.questions):
            continue
        hour = next((each for each in hours if each.start <= group.start < each.end), None)
        decided, finding = group, hour.by_hours() if hour is not None else Finding.UNCLEAR
        if finding is Finding.UNCLEAR:
            decided = around.window(group.start, group.end)
            decided.counted = sum(read(decided.start, decided.end, None).values())
            finding = decided.by_minutes()
            if hour is not None:
                hours.remove(hour)
                rest = hour.without(decided) if finding in (Finding.PRESENT, Finding.ABSENT) else None
                hours += [] if rest is None else [rest]
        if finding in (Finding.PRESENT, Finding.ABSENT):
            told.update(question.key for question in decided.questions)
            yield from ((question.key, finding) for question in decided.questions)
        else:
            yield from _one_by_one(read, group, around)


def floor(moment: datetime, unit: timedelta) -> datetime:
    """The start of the minute or hour that a moment is in."""
    seconds = int(unit.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, moment.tzinfo)


def _one_by_one(read: Read, group: _Stretch, around: _Around) -> Iterator[tuple[str, Finding]]:
    """Decide a group by the two minutes of each question: the narrowest windows that there are."""
    for start in sorted({question.start for question in group.questions}):
        window = around.stretch(start, start + 2 * _MINUTE)
        window.counted = sum(read(window.start, window.end, None).values())
        finding = window.by_minutes()
        yield from ((question.key, finding) for question in window.questions)


def _groups(questions: Sequence[Question]) -> Iterator[_Stretch]:
    """The questions, in the order given, which is that of time; those whose minutes overlap are together."""
    group: _Stretch | None = None
    for question in questions:
        if group is not None and question.start < group.end:
            group.end = max(group.end, question.end)
            group.questions.append(question)
        else:
            if group is not None:
                yield group
            group = _Stretch(question.start, question.end, [question])
    if group is not None:
        yield group


# ---- whole hours


def _read_hours(read: Read, groups: Sequence[_Stretch], around: _Around) -> list[_Stretch]:
    """The hours with questions, and what is counted in each; none where an hour holds what nobody knows of."""
    asked = []
    for cells in _reads(list(_cells(groups, around.bounds))):
        counted = read(cells[0].start, cells[-1].end, "hour")
        for empty in cells:
            cell = around.stretch(empty.start, empty.end)
            cell.counted = sum(pages for hour, pages in counted.items() if cell.start <= hour < cell.end)
            if cell.questions:
                asked.append(cell)
            elif not cell.least <= cell.counted <= cell.most:
                return []
    return asked


def _cells(groups: Sequence[_Stretch], bounds: tuple[datetime, datetime]) -> Iterator[_Stretch]:
    """Every hour within the bounds. Hours with questions across their turn are one."""
    waiting = deque(groups)
    start = bounds[0]
    while start < bounds[1]:
        cell = _Stretch(start, start + _HOUR)
        while waiting and waiting[0].start < cell.end:
            group = waiting.popleft()
            cell.questions += group.questions
            cell.end = max(cell.end, _ceiling(group.end, _HOUR))
        yield cell
        start = cell.end


def _reads(cells: Sequence[_Stretch]) -> Iterator[list[_Stretch]]:
    """The cells, in groups that one read covers: each from one with a question to one with a question."""
    group: list[_Stretch] = []
    for cell in cells:
        if group and cell.end - group[0].start > HOURS_A_READ * _HOUR:
            yield _trimmed(group)
            group = []
        if group or cell.questions:
            group.append(cell)
    if group:
        yield _trimmed(group)


def _trimmed(group: list[_Stretch]) -> list[_Stretch]:
    while not group[-1].questions:
        group.pop()
    return group


def _reads_by_hours(groups: Sequence[_Stretch], bounds: tuple[datetime, datetime]) -> int:
    return sum(1 for _ in _reads(list(_cells(groups, bounds))))


def _ceiling(moment: datetime, unit: timedelta) -> datetime:
    down = floor(moment, unit)
    return down if down == moment else down + unit
