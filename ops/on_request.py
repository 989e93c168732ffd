"""Erase what a person asked to be erased: everything of a user, or one run, whatever its age.

Dangers beside those of `functions.cleanup.erasing`, each held by the rules in on_request.sql:

- A run that is being extracted, or a draft that an automation is filling, is written to by others: it stays, and is
  told as unfinished.
- The latest run of a job with an automation carries its fields and its template: only its content goes.
- A hold is stronger than a request.

What a run may delete is bounded by what was asked for, and by the number that the operator confirmed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from functions.cleanup.erasing import Plan, rules
from functions.cleanup.erasure_job import Words, run_erasure, waiting_for
from shared.context import Context
from shared.job import JobResult
from shared.postgres import Row, Transaction
from shared.settings import Settings

_RULES = rules(Path(__file__).with_name("on_request.sql"))
# Every job that is left empty goes, however lately it was used.
_EVER = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Request:
    """What is to be erased: everything of a user, or one run (a uuid). Exactly one of them is given."""

    user: str | None = None
    run: str | None = None

    def __post_init__(self) -> None:
        if (self.user is None) == (self.run is None):
            raise ValueError("a request names a user or a run, and not both")

    def look(self, transaction: Transaction, now: datetime) -> Row:
        """How many `runs` there are, are `unfinished` (and `unfinished_held` besides), go with `content_only`.

        With the `files` and `bytes` of those that go.
        """
        (row,) = transaction.rows(_RULES["what_is_asked_for"], **self._plan(now).parameters)
        return row

    def what_stays(self, transaction: Transaction, now: datetime, limit: int) -> Sequence[Row]:
        """At most so many of the runs that stay: each `run`, with the `holds` on it."""
        return transaction.rows(_RULES["what_stays"], **self._plan(now).parameters, limit=limit)

    def run_job(self, ctx: Context) -> JobResult:
        """Erase it. Raises Refused, Misconfigured or Unavailable."""
        return run_erasure(ctx, self._plan(ctx.now), Words("Erasure on request", "run"))

    def waiting(self, transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
        """How many runs would go or are held, and how many objects wait."""
        return waiting_for(transaction, self._plan(now), settings.cleanup.bucket, now)

    def _plan(self, now: datetime) -> Plan:
        return Plan(
            rules=_RULES,
            parameters={"now": now, "asked_user": self.user, "asked_run": self.run},
            # Of one run's job nothing was asked for.
            parents=None if self.user is None else {"idle_before": _EVER, "owner": self.user},
        )
