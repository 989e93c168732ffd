"""Erase what a person asked to be erased: everything of a user, or one run, whatever its age.

Dangers beside those of `functions.cleanup.erasing`, each held by the rules in on_request.sql:

- The wrong thing goes. Only what was seen in a look can be erased, by its ids; and who confirms names that look.
- A run that is being extracted, or a draft that an automation is filling, is written to by others: it stays, and is
  told as unfinished.
- The latest run of a job with an automation carries its fields and its template: only its content goes.
- A hold is stronger than a request.
- An end between rows and objects. What has left the database and not the bucket is part of the next look, and of what
  can be confirmed then.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from functions.cleanup.erasing import STATEMENTS as ERASING
from functions.cleanup.erasing import Plan, hash_of, rules
from functions.cleanup.erasure_job import Words, run_erasure, waiting_for
from shared.context import Context
from shared.job import JobResult
from shared.postgres import Row, Transaction
from shared.settings import Settings

_RULES = rules(Path(__file__).with_name("on_request.sql"))
# Every job that is left empty goes, however lately it was used.
_EVER = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Seen:
    """What a look found: the runs that were asked for, with what becomes of each; and the ids of what else would go.

    `jobs` are extraction jobs, `objects` rows of the outbox of what was erased before. `there` says whether there is
    anything of that name at all.
    """

    rows: Sequence[Row]
    jobs: Sequence[str]
    objects: Sequence[int]
    there: bool

    @property
    def runs(self) -> list[str]:
        """The runs that would go, or whose content would."""
        return [row["id"] for row in self.rows if row["goes"]]

    @property
    def token(self) -> str | None:
        """What stands for exactly this: how many runs, and a digest of all ids. None where nothing would go."""
        if not (self.runs or self.jobs or self.objects):
            return None
        everything = "\n".join([*self.runs, "", *self.jobs, "", *map(str, self.objects)])
        return f"{len(self.runs)}-{hashlib.sha256(everything.encode()).hexdigest()[:8]}"

    def figures(self) -> dict[str, int]:
        """It in numbers. Of the runs, each is counted under one of `going`, `held`, `unfinished` and `automation`."""
        going = [row for row in self.rows if row["goes"]]
        staying = [row for row in self.rows if not row["goes"]]
        held = sum(1 for row in staying if row["holds"])
        unfinished = sum(1 for row in staying if row["unfinished"] and not row["holds"])
        return {
            "runs": len(self.rows),
            "going": len(going),
            "content_only": sum(1 for row in going if row["carries"]),
            "held": held,
            "unfinished": unfinished,
            "automation": len(staying) - held - unfinished,
            "files": sum(row["files"] for row in going),
            "bytes": sum(row["bytes"] for row in going),
            "jobs": len(self.jobs),
            "objects": len(self.objects),
        }


@dataclass(frozen=True)
class Request:
    """What is to be erased: everything of a user, or one run (a uuid). Exactly one of them is given.

    `seen` is the look that bounds it; None for the look itself.
    """

    user: str | None = None
    run: str | None = None
    seen: Seen | None = None

    def __post_init__(self) -> None:
        if (self.user is None) == (self.run is None):
            raise ValueError("a request names a user or a run, and not both")

    def look(self, transaction: Transaction, now: datetime) -> Seen:
        """Look at what there is now."""
        whole = replace(self, seen=None)
        parameters = whole._parameters(now)
        rows = transaction.rows(_RULES["what_is_asked_for"], **parameters)
        going = [row["id"] for row in rows if row["goes"]]
        jobs = transaction.rows(_RULES["jobs_left_empty"], runs=going, **parameters)
        user_hash = None if self.user is None else self.user_hash(transaction)
        opened = transaction.rows(_RULES["open_objects"], user_hash=user_hash, **parameters)
        there = bool(rows or opened) or (
            self.user is not None and transaction.row(_RULES["is_user_here"], **parameters) is not None
        )
        return Seen(rows, [row["id"] for row in jobs], [row["id"] for row in opened], there)

    def user_hash(self, transaction: Transaction) -> str:
        """The hash under which the user stands in the register."""
        (row,) = transaction.rows(ERASING["erasure_key"])
        return hash_of(bytes(row["erasure_key"]), self.user or "")

    def run_job(self, ctx: Context) -> JobResult:
        """Erase what was seen. Raises Refused, Misconfigured or Unavailable."""
        if self.seen is None:
            raise ValueError("nothing is erased that was not looked at")
        if ctx.fence is not None and self.seen.objects:
            with ctx.batch() as batch:
                batch.execute(
                    _RULES["take_over_objects"],
                    ids=list(self.seen.objects),
                    run_id=ctx.fence.run_id,
                    moment=ctx.moment(),
                )
        return run_erasure(ctx, self._plan(ctx.now), Words("Erasure on request", "run"))

    def waiting(self, transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
        """How many runs would go or are held, and how many objects wait."""
        return waiting_for(transaction, self._plan(now), settings.cleanup.bucket, now)

    def _plan(self, now: datetime) -> Plan:
        # Of one run's job nothing was asked for.
        parents = {"idle_before": _EVER, "only_jobs": list(self.seen.jobs) if self.seen else []}
        return Plan(_RULES, self._parameters(now), None if self.user is None else parents)

    def _parameters(self, now: datetime) -> dict[str, object]:
        only = None if self.seen is None else self.seen.runs
        return {"now": now, "asked_user": self.user, "asked_run": self.run, "only_runs": only}
