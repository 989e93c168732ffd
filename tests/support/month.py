"""A month of the service's work: what users upload, leave, submit and opt out of, and what must become of each.

Days count from noon of 15 May 2026, when it begins. What comes of a thing is decided when it is made, by the age that
it has on the last days. Nothing is made whose age would be at a limit then, so a firing that failed changes nothing.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON
from tests.support.database import TestDatabase

DAYS = 31
_ZIP: dict[str, Any] = {"file_type": "application/zip", "original_filename": "a.zip", "status": "unpacked"}
# Days of the month. Made until the first, a thing is gone in the end; made from the second on, it is still there.
_BY_PRODUCTS, _ORPHANS, _OPT_OUTS = (20, 28), (12, 21), (20, 26)
_DRAFTS = range(4, 41)
_FIRST_NEW_DRAFT = 3
_OLDEST_COUNTER = 16


@dataclass
class Expected:
    """What must be there in the end, and what must not: names of objects, ids of runs."""

    objects: set[str] = field(default_factory=set)
    gone_objects: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    gone_runs: set[str] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)


class MonthOfContent:
    """Fills a world day by day; `expected` grows with it."""

    def __init__(self, world: CleanupWorld) -> None:
        self.world = world
        self.expected = Expected()
        self._returning: list[tuple[int, str]] = []
        self._submitting: list[tuple[int, str]] = []

    def begin(self) -> None:
        """What is there before the first day."""
        for idle in _DRAFTS:
            run = self.world.draft(self.world.job(f"drafter{idle % 3}", age=idle), age=idle)
            # Halfway to its end, somebody comes back to it, or submits it.
            comes_back, is_submitted = idle < 28 and idle % 5 == 0, idle < 28 and idle % 5 == 1
            if comes_back:
                self._returning.append(((30 - idle) // 2, run))
            if is_submitted:
                self._submitting.append(((30 - idle) // 2, run))
            self._run(run, stays=comes_back or is_submitted)
            self._file(run, age=idle, stays=comes_back or is_submitted)
        job = self.world.job("mailer")
        self.world.automation(job, "mailer")
        waiting = self.world.draft(job)
        held = self.world.submitted(self.world.job("plaintiff"), persist_data=False)
        self.world.hold("user", "plaintiff")
        for run in (waiting, held):
            self._run(run, stays=True)
            self._file(run, age=100, stays=True)

    def day(self, number: int) -> None:
        """What happens at noon of a day."""
        age = -number
        for when, run in self._returning:
            if when == number:
                self.world.database.execute(
                    "UPDATE job_runs SET last_active_at = :now, config_step = 'review' WHERE id = :run",
                    now=self.world.ago(age),
                    run=run,
                )
        for when, run in self._submitting:
            if when == number:
                self.world.submit(run)
        run = self.world.submitted(self.world.job("uploader", age=age), age=age)
        self._run(run, stays=True)
        file = self._file(run, age=age, stays=True)
        if (lasts := _lasts(number, _BY_PRODUCTS)) is not None:
            self._file(run, age=age, stays=lasts, **_ZIP)
            self._object(f"jobs/{run}/conversions/{file}.pdf", age, stays=lasts)
            self._object(f"temp_uploads/uploader/{number}_x_a b.pdf", age, stays=lasts)
        if number >= _FIRST_NEW_DRAFT:
            draft = self.world.draft(self.world.job("drafter0", age=age), age=age)
            self._run(draft, stays=True)
            self._file(draft, age=age, stays=True)
        if number % 2 == 0 and (lasts := _lasts(number, _ORPHANS)) is not None:
            self._object(f"imports/{run}/{number}_gone.pdf", age, stays=lasts)
        if (lasts := _lasts(number, _OPT_OUTS)) is not None:
            self._opted_out(number, age, stays=lasts)

    def _opted_out(self, number: int, age: float, *, stays: bool) -> None:
        run = self.world.submitted(self.world.job("private", age=age), age=age, persist_data=False)
        self._run(run, stays=stays)
        self._file(run, age=age, stays=stays)
        # Every third one is gone on with, by a run that is to be kept: what both use stays.
        is_shared = number % 3 == 0
        shared = self._file(run, age=age, stays=stays or is_shared)
        self.world.task(run, shared)
        if is_shared:
            kept = self.world.appended(run, age=age)
            self._run(kept, stays=True)
            self.expected.owners[shared] = run if stays else kept

    def _run(self, run: str, *, stays: bool) -> None:
        (self.expected.runs if stays else self.expected.gone_runs).add(run)

    def _file(self, run: str, *, age: float, stays: bool, **columns: Any) -> str:
        file = self.world.file(run, stored=False, **columns)
        self._object(self.world.object_of(file), age, stays=stays)
        return file

    def _object(self, name: str, age: float, *, stays: bool) -> None:
        self.world.put(name, age)
        (self.expected.objects if stays else self.expected.gone_objects).add(name)


def _lasts(day: int, limits: tuple[int, int]) -> bool | None:
    """Whether what is made on a day is there in the end; None where that would be close."""
    if day <= limits[0]:
        return False
    return True if day >= limits[1] else None


def add_old_counters(database: TestDatabase, user: str) -> set[str]:
    """A counter for each of the last months; give those, as YYYY-MM, that must be there in the end.

    The last Sunday of the month is in June 2026. Thirteen months before is May 2025, which is still kept.
    """
    kept = set()
    for back in range(1, _OLDEST_COUNTER + 1):
        year, month = divmod(2026 * 12 + 4 - back, 12)
        database.use(user, NOON.replace(year=year, month=month + 1, day=1, hour=0), back)
        if (year, month + 1) >= (2025, 5):
            kept.add(f"{year}-{month + 1:02}")
    return kept


NOON_OF = {number: NOON + timedelta(days=number) for number in range(DAYS + 1)}
