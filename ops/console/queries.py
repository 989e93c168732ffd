"""What the pages read: each in a transaction in which the server refuses every write, and no longer than a page may.

Where there are statements of the command line that give what a page shows, they are taken from there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from functions.registry import JOBS
from ops import erasure_register
from ops.console.rendering import harmless
from ops.grants import HEALTH_JOB
from shared.errors import LockLost, Unavailable
from shared.health import lines_of
from shared.postgres import Row, Transaction
from shared.services import Services
from shared.sql import load_statements
from shared.start_check import StartState, check_start

_HERE = Path(__file__).parent
_COMMANDS = _HERE.parent / "commands"
_OURS = load_statements(_HERE / "queries.sql")
_LOOKING, _STRIPE, _OUTBOX, _HOLDS = (
    load_statements(_COMMANDS / f"{name}.sql") for name in ("looking", "stripe", "outbox", "holds")
)
_PATIENCE_MS = 5_000
_STRIP = 30
# As many rows as a page has; one more is asked for, which tells whether there are more.
PAGE = 50
MANY = 500
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Listed:
    """Rows of a page, and whether there are more behind them."""

    rows: Sequence[Row]
    more: bool


class Reader:
    """Reads from one environment's database. All methods raise what the database's adapter raises."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def now(self) -> datetime:
        """The time."""
        return self._services.clock.now()

    @property
    def report_only(self) -> bool:
        """Whether every run is a dry one."""
        return self._services.settings.report_only

    def jobs(self) -> list[dict[str, object]]:
        """How each job is, in the order of their declaration, with its newest runs, the oldest first."""
        now, names = self.now, list(JOBS)
        with self._checked() as (transaction, state):
            running = transaction.rows(_LOOKING["last_runs"], jobs=names, dry_run=self.report_only, now=now)
            newest = transaction.rows(_OURS["newest_runs"], jobs=names, each=_STRIP)
        of_job = {row["job"]: row for row in running}
        strips: dict[str, list[Row]] = {name: [] for name in names}
        for row in reversed(newest):
            strips[row["job"]].append(row)
        return [
            {**line, **of_job[str(line["job"])], "about": JOBS[str(line["job"])], "strip": strips[str(line["job"])]}
            for line in lines_of(self._services, JOBS, now, state)
        ]

    def for_a_person(self) -> Row:
        """How much waits for a person."""
        (row,) = self._rows(_OURS["for_a_person"])
        return row

    def runs(self, job: str | None, status: str | None, before: int | None) -> Listed:
        """A page of runs, the newest first."""
        return _listed(self._rows(_OURS["runs"], job=job, status=status, before=before, limit=PAGE + 1), PAGE)

    def run(self, run_id: int) -> Row | None:
        """One run."""
        return next(iter(self._rows(_LOOKING["run"], id=run_id)), None) if 0 < run_id <= LARGEST_ID else None

    def over_time(self, days: int, step_seconds: int, gauges: Sequence[str], sums: Sequence[str]) -> Sequence[Row]:
        """What all jobs' runs did in the last days, in steps."""
        return self._rows(
            _OURS["over_time"],
            jobs=list(JOBS),
            since=self.now - timedelta(days=days),
            step=step_seconds,
            dry_run=self.report_only,
            figures=list(gauges),
            sums=list(sums),
        )

    def dead_letters(self) -> Listed:
        """What Stripe refused, or is too old for it."""
        return _listed(self._rows(_STRIPE["dead_letters"], now=self.now, limit=MANY + 1), MANY)

    def drift(self, resolved_too: bool) -> Listed:
        """Where our pages and Stripe's differ."""
        return _listed(self._rows(_STRIPE["drift"], all=resolved_too, limit=MANY + 1), MANY)

    def erasures(self, user: str | None, below: int | None) -> Listed:
        """A page of the register, of all users or of one."""
        return _listed([each for part in self._register(user, PAGE + 1, below) for each in part], PAGE)

    def erasures_as_csv(self, user: str | None) -> Iterator[str]:
        """All of the register, of all users or of one, in parts."""
        return erasure_register.as_csv(
            self._register(user, None, None), lambda text: harmless(text, self._services.redact)
        )

    def actions(self) -> Listed:
        """Who did what by hand."""
        return _listed(self._rows(_LOOKING["actions"], limit=MANY + 1), MANY)

    def holds(self, ended_too: bool) -> Listed:
        """What is held."""
        return _listed(self._rows(_HOLDS["holds"], now=self.now, ended_too=ended_too), MANY)

    def outbox(self) -> tuple[Sequence[Row], Sequence[Row]]:
        """The objects that must leave the bucket, by state and kind; and what was said of them. No name of any."""
        with self._reading() as transaction:
            return transaction.rows(_OUTBOX["open"]), transaction.rows(_OUTBOX["last_errors"], limit=PAGE)

    def _rows(self, statement: object, **parameters: object) -> Sequence[Row]:
        with self._reading() as transaction:
            return transaction.rows(statement, **parameters)  # type: ignore[arg-type]  # a Statement, from a mapping

    def _register(self, user: str | None, limit: int | None, below: int | None) -> Iterator[erasure_register.Page]:
        asked = None if user is None else erasure_register.hash_of_user(self._services, user, self._reading)
        return erasure_register.pages(self._services, asked, limit, below, self._reading)

    @contextmanager
    def _reading(self) -> Iterator[Transaction]:
        with self._checked() as (transaction, _):
            yield transaction

    @contextmanager
    def _checked(self) -> Iterator[tuple[Transaction, StartState]]:
        """A transaction on a database that is this environment's: no page shows a copy as if it were ours."""
        try:
            with self._services.database.transaction(read_only=True) as transaction:
                transaction.limit("statement_timeout", _PATIENCE_MS)
                # The state of the database, and not what any single job needs of the settings.
                yield transaction, check_start(transaction, JOBS[HEALTH_JOB], self._services.settings, self.now)
        except LockLost as error:
            raise Unavailable(
                "postgres",
                f"The database took longer than {_PATIENCE_MS // 1000} s for this page, or holds what it needs locked: "
                f"{error}. Try again, or ask for less.",
            ) from error


def _listed(rows: Sequence[Row], most: int) -> Listed:
    return Listed(rows[:most], len(rows) > most)
