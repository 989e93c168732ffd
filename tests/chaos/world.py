"""A small world: users, usage, files. What must become of each is decided when it is made, and not by asking the jobs.

Nothing is made whose age would be near a limit while a schedule lasts: a few hours, with clocks off by four minutes.
"""

import random
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from devstack.gcs_front import GcsFront
from devstack.stripe_account import Account
from tests.stripe.model import Ledger
from tests.stripe.service import Service
from tests.support.cleanup import DAY, CleanupWorld
from tests.support.clock import NOON, FileClock, ManualClock
from tests.support.database import TestDatabase
from tests.support.month import Expected as ExpectedContent

# When a schedule begins: in the middle of a month, or minutes before the next one.
BEGINNINGS = (NOON, NOON, datetime(2026, 5, 31, 23, 54, tzinfo=UTC))
_ZIP: dict[str, Any] = {"file_type": "application/zip", "original_filename": "a.zip", "status": "unpacked"}
_KEPT_MONTHS, _GONE_MONTHS = range(1, 13), range(15, 19)
_FATES = ("marked", "unmarked", "lost", "lost")


@dataclass
class Expected(ExpectedContent):
    """What must be there in the end, and what must not: of accounts and counters, too."""

    counters: dict[tuple[str, datetime], int] = field(default_factory=dict)
    gone_counters: set[tuple[str, datetime]] = field(default_factory=set)
    free: set[str] = field(default_factory=set)
    paid_periods: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)


class _Content(CleanupWorld):
    """The same, with ages that count from another moment."""

    def __init__(self, database: TestDatabase, front: GcsFront, bucket: str, beginning: datetime) -> None:
        self.beginning = beginning
        super().__init__(database, front, bucket, _no_environment, ManualClock(beginning))
        front.default_created = beginning - 100 * DAY

    def ago(self, days: float) -> datetime:
        return self.beginning - days * DAY


def _no_environment(*_: object, **__: object) -> Any:
    raise AssertionError("machines run the jobs here")


class World:
    """One database and bucket, and one Stripe account, filled by chance. `expected` and `ledger` say what must come."""

    def __init__(
        self, seed: int, database: TestDatabase, front: GcsFront, bucket: str, stripe: Account, clock: FileClock
    ) -> None:
        self.chance = random.Random(seed)  # noqa: S311  nothing secret
        self.database = database
        self.stripe = stripe
        self.clock = clock
        self.beginning = self.chance.choice(BEGINNINGS)
        self.expected = Expected()
        self.ledger = Ledger()
        self.clock.set(self.beginning - timedelta(hours=9))
        self.service = Service(database, stripe, clock, self.ledger)
        self.service.sends_identifiers = True
        self._fill_usage()
        self.clock.set(self.beginning)
        self.content = _Content(database, front, bucket, self.beginning)
        self._fill_accounts()
        self._fill_drafts()
        self._fill_opt_outs()
        self._fill_bucket()

    # ---- what there is

    def _fill_usage(self) -> None:
        """Users who pay, and users who do not, and what they used in the last hours."""
        for _ in range(self.chance.randint(3, 5)):
            self.service.sign_up()
        for user in self.service.users[1:]:
            if self.chance.random() < 0.8:
                self.service.upgrade(user)
        for _ in range(self.chance.randint(8, 16)):
            self.clock.advance(minutes=self.chance.choice([0, 1, 7, 40]))
            self.use()
        for user in self.service.users:
            if user.subscription is None:
                self.expected.free.add(user.name)
            else:
                assert user.start is not None
                assert user.end is not None
                self.expected.paid_periods[user.name] = (user.start, user.end)

    def use(self) -> None:
        """Somebody uses pages."""
        user = self.chance.choice(self.service.users)
        pages = self.chance.choice([0, 1, 2, 5])
        self.service.look_up()
        assert user.start is not None
        self.service.use(user, pages, self.chance.choice(_FATES))
        key = (user.name, user.start)
        self.expected.counters[key] = self.expected.counters.get(key, 0) + pages

    def _fill_accounts(self) -> None:
        """Free accounts whose month is over, and those whose is not; paid ones whose webhook is late; old counters."""
        april = _month(self.beginning, -1)
        for number in range(self.chance.randint(2, 7)):
            name = f"free{number}"
            start, end = april if self.chance.random() < 0.8 else _month(self.beginning, 0)
            self.database.account(name, "free", start, end)
            self._counter(name, (start, end), self.chance.randint(0, 9))
            self.expected.free.add(name)
        late = (self.beginning - 32 * DAY, self.beginning - 2 * DAY)
        self.database.account("late", "pro", *late, stripe_customer_id=self.stripe.add_customer("cus_late"))
        self.expected.paid_periods["late"] = late
        for back in (*_KEPT_MONTHS, *_GONE_MONTHS):
            if self.chance.random() < 0.5:
                self._counter("late", _month(self.beginning, -back), back, gone=back in _GONE_MONTHS)

    def _counter(self, user: str, period: tuple[datetime, datetime], pages: int, *, gone: bool = False) -> None:
        self.database.execute(
            "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:u, :s, :e, :p)",
            u=user, s=period[0], e=period[1], p=pages,
        )  # fmt: skip
        if gone:
            self.expected.gone_counters.add((user, period[0]))
        else:
            self.expected.counters[user, period[0]] = pages

    def _fill_drafts(self) -> None:
        content = self.content
        for number in range(self.chance.randint(2, 4)):
            self._run(content.draft(content.job(f"drafter{number % 2}", age=40), age=40), stays=False)
        self._run(content.draft(content.job("drafter0", age=20), age=20), stays=True)
        job = content.job("mailer")
        content.automation(job, "mailer")
        self._run(content.draft(job), stays=True)
        content.hold("user", content.user("plaintiff"))
        self._run(content.draft(content.job("plaintiff")), stays=True)

    def _fill_opt_outs(self) -> None:
        content = self.content
        for _ in range(self.chance.randint(1, 3)):
            run = self._run(content.submitted(content.job("private", age=20), age=20, persist_data=False), stays=False)
            if self.chance.random() < 0.5:
                # Gone on with by a run that is kept: what both use stays.
                shared = self._file(run, stays=True)
                content.task(run, shared)
                kept = content.appended(run, age=20)
                self.expected.runs.add(kept)
                self.expected.owners[shared] = kept
        self._run(content.submitted(content.job("private", age=3), age=3, persist_data=False), stays=True)

    def _fill_bucket(self) -> None:
        content = self.content
        run = self._run(content.submitted(content.job("uploader")), stays=True)
        for number in range(self.chance.randint(1, 3)):
            file = self._file(run, stays=True)
            self._object(f"jobs/{run}/conversions/{file}.pdf", age=20, stays=False)
            self._file(run, stays=False, **_ZIP)
            self._object(f"temp_uploads/uploader/{number}_x_a b.pdf", age=20, stays=False)
            self._object(f"temp_uploads/uploader/{number}_y_a b.pdf", age=2, stays=True)
            self._object(f"imports/{run}/{number}_gone.pdf", age=30, stays=False)
            self._object(f"imports/{run}/{number}_new.pdf", age=3, stays=True)

    def _run(self, run: str, *, stays: bool) -> str:
        (self.expected.runs if stays else self.expected.gone_runs).add(run)
        for _ in range(self.chance.randint(1, 2)):
            self._file(run, stays=stays)
        return run

    def _file(self, run: str, *, stays: bool, **columns: Any) -> str:
        file = self.content.file(run, stored=False, **columns)
        self._object(self.content.object_of(file), age=100, stays=stays)
        return file

    def _object(self, name: str, age: float, *, stays: bool) -> None:
        self.content.put(name, age)
        (self.expected.objects if stays else self.expected.gone_objects).add(name)

    # ---- what the service and an operator do while jobs run; what they find gone, they leave

    def come_back_to_a_draft(self) -> None:
        """Somebody opens a draft that is due to go. If it was still there, it stays."""
        for run in self._due("config_step <> 'submitted'"):
            came = self.database.execute(
                "UPDATE job_runs SET last_active_at = :now, config_step = 'review' WHERE id = :run",
                now=self.beginning, run=run,
            )  # fmt: skip
            if came:
                self._stays(run)

    def set_a_hold(self) -> None:
        """An operator holds a run that is due to go. If it is still there when the hold is set, it stays."""
        for run in self._due("true"):
            self.content.hold("run", run)
            if self.content.has("job_runs", run):
                self._stays(run)

    def _due(self, where: str) -> list[str]:
        """One of the runs that are due to go and still there, if any."""
        rows = self.database.rows(
            f"SELECT CAST(id AS text) AS id FROM job_runs WHERE id = ANY (CAST(:due AS uuid[])) AND {where} ORDER BY 1",
            due=sorted(self.expected.gone_runs),
        )
        return [self.chance.choice(rows)["id"]] if rows else []

    def _stays(self, run: str) -> None:
        """What a run has now is there in the end. A file that another run needs, too, does not move."""
        self.expected.gone_runs.discard(run)
        self.expected.runs.add(run)
        for row in self.database.rows(
            "SELECT CAST(id AS text) AS id, gcs_object_name AS name FROM source_files WHERE job_run_id = :run", run=run
        ):
            self.expected.gone_objects.discard(row["name"])
            self.expected.objects.add(row["name"])
            self.expected.owners[row["id"]] = run


def _month(moment: datetime, months: int) -> tuple[datetime, datetime]:
    """A calendar month, so many after that of a moment, as the service writes it: to its last second."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    start = datetime(year, month + 1, 1, tzinfo=UTC)
    return start, start.replace(day=monthrange(year, month + 1)[1], hour=23, minute=59, second=59)


def month_of(moment: datetime) -> tuple[datetime, datetime]:
    """The calendar month of a moment."""
    return _month(moment, 0)
