"""Erase runs with all that hangs on them, in batches: database rows first, objects through the outbox.

Dangers, and what holds them:

- A user comes back, submits, appends or creates an automation while this goes on. Each batch locks the jobs, then their
  runs, then their files, and in later statements decides everything again; who came back a second earlier keeps all.
- A file is used by another run. It moves to that run, or its owner waits (`functions.cleanup.sharing`).
- A kill between rows and objects. The outbox's rows are written in the transaction that deletes the rows; until an
  object is gone, its row says so.
- Billing. Usage events are never deleted: the database sets their task_id to NULL.

In a conflict with the service this yields: a batch that loses a lock, or that the database refuses, is halved down to
one run, which is passed by.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from functions.cleanup.page_ranges import PageRanges
from functions.cleanup.sharing import Shared, Sharing, User, decide_sharing
from shared.context import Batch, Context
from shared.errors import DataRejected, LockLost, Unavailable
from shared.postgres import Row, Transaction
from shared.sql import Statement, load_statements

_FOLDER = Path(__file__).parent
STATEMENTS = load_statements(_FOLDER / "conditions.sql", _FOLDER / "erasure.sql")

# A batch holds its locks for as long as its rows take to go: by their number, and by that of their files.
_RUNS_A_BATCH, _FILES_A_BATCH = 500, 4_000
# The longest of many transactions takes half as long again as they are meant to.
_FEWEST_PAGES, _FIRST_PAGES, _MOST_PAGES, _SECONDS_A_RANGE = 8, 16, 2_000, 0.18
# Runs that others hold locked are waited for this often, so long in all; then the run is incomplete.
_WAITS_SECONDS = (0.25, 0.5, 1.0, 1.0)


@dataclass(frozen=True)
class Plan:
    """What one job erases: the statements that count, find and decide what is due, with their parameters."""

    rules: Mapping[str, Statement]
    parameters: Mapping[str, object]
    # The parameters of the condition under which a job that is left without runs goes too; None: no job goes.
    parents: Mapping[str, object] | None

    def count(self, transaction: Transaction) -> Row:
        """How many runs there are (`total`), how many go (`due`) and how many would, but are `held`."""
        (row,) = transaction.rows(self.rules["count_due"], **self.parameters)
        return row

    def count_parents(self, transaction: Transaction) -> Row:
        """How many jobs there are (`total`), and how many are or will be left empty (`due`)."""
        (row,) = transaction.rows(self.rules["count_due_parents"], **self.parameters, **(self.parents or {}))
        return row

    def find(self, transaction: Transaction, first: str, beyond: str) -> Sequence[Row]:
        """The runs of a range of pages that go, without a lock."""
        return transaction.rows(self.rules["find_due"], first=first, beyond=beyond, **self.parameters)

    def decide(self, transaction: Batch | Transaction, runs: Sequence[str]) -> Sequence[Row]:
        """Those of the runs that go, and whether as a `whole`."""
        return transaction.rows(self.rules["decide_due"], runs=list(runs), **self.parameters)


@dataclass
class _Done:
    """What came of one batch."""

    erased: int = 0
    parents: int = 0
    waiting: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)


class Eraser:
    """Erases what a plan names. `room` is how many runs may still go, `parents_room` how many jobs with them.

    `waiting` are the runs that wait for a draft, `busy` those that others held locked, as of the last pass; `refused`
    those that the database refused.
    """

    def __init__(self, ctx: Context, plan: Plan, bucket: str, room: int, parents_room: int) -> None:
        self._ctx = ctx
        self._plan = plan
        self._bucket = bucket
        self._key = b""
        self.room = room
        self.parents_room = parents_room
        self.waiting: set[str] = set()
        self.busy: set[str] = set()
        self.refused: set[str] = set()

    def run(self) -> None:
        """Go over all runs until a pass erases nothing more, and what others hold was waited for."""
        with self._ctx.reading() as transaction:
            (row,) = transaction.rows(STATEMENTS["erasure_key"])
        self._key = bytes(row["erasure_key"])
        waits = iter(_WAITS_SECONDS)
        while self.may_go_on():
            if self._pass():
                continue
            pause = next(waits, None)
            if not self.busy or pause is None:
                return
            self._ctx.timer.wait(pause)

    def may_go_on(self) -> bool:
        """Whether there is time, and room for another run."""
        return self.room > 0 and self._ctx.time_left() > 0

    def _pass(self) -> int:
        """Go over the table once; give how many runs were erased."""
        self.waiting, self.busy = set(), set()
        with self._ctx.reading() as transaction:
            (row,) = transaction.rows(STATEMENTS["run_pages"])
        ranges = PageRanges(
            row["pages"], first=_FIRST_PAGES, most=_MOST_PAGES, seconds=_SECONDS_A_RANGE, fewest=_FEWEST_PAGES
        )
        erased = 0
        for first, beyond in ranges:
            if not self.may_go_on():
                break
            began = self._ctx.timer.seconds()
            with self._ctx.reading() as transaction:
                found = self._plan.find(transaction, first, beyond)
            runs = [run for run in found if run["id"] not in self.refused]
            for part in _batches(runs):
                erased += self._halving(part)
            ranges.took(self._ctx.timer.seconds() - began)
        return erased

    def _halving(self, runs: Sequence[Row]) -> int:
        """Erase the runs, in parts where not all go through at once."""
        parts, erased = [runs], 0
        while parts and self.may_go_on():
            part = parts.pop()
            if len(part) > self.room:
                # The rest has its turn if some of these do not go.
                parts.append(part[self.room :])
                part = part[: self.room]
            try:
                done = self._batch(part)
            except (LockLost, DataRejected) as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    self._passed_by(part[0]["id"], error)
                continue
            self.waiting |= done.waiting
            self.busy |= done.busy
            self.room -= done.erased
            self.parents_room -= done.parents
            erased += done.erased
        return erased

    def _passed_by(self, run: str, error: LockLost | DataRejected) -> None:
        if isinstance(error, LockLost):
            self.busy.add(run)
        else:
            self.refused.add(run)
            self._ctx.item_failed(run, error.reason)

    def _batch(self, runs: Sequence[Row]) -> _Done:
        # Not durable: a crash of the server may lose the batch as a whole, and then it is due again. No object is
        # touched before the claim of its row is on disk, and with it all that came before.
        with self._ctx.batch(durable=False) as batch:
            let_holds_wait(batch)
            jobs = _ids(batch.rows(STATEMENTS["lock_jobs"], jobs=sorted({run["job_id"] for run in runs})))
            asked = [run["id"] for run in runs]
            locked = _ids(batch.rows(STATEMENTS["lock_runs"], runs=asked, jobs=sorted(jobs)))
            free = locked - self._with_busy_files(batch, locked)
            decided = {row["id"]: row for row in self._plan.decide(batch, sorted(free))}
            sharing = decide_sharing(decided, *_uses(batch, list(decided)))
            going = [decided[run] for run in asked if run in sharing.going]
            self._erase(batch, going, sharing)
            done = _Done(len(going), waiting=sharing.waiting, busy={*asked} - free)
            done.parents = self._delete_parents(batch, {row["job_id"] for row in going})
            batch.count(jobs_cleaned=len(going), files_rehomed=len(sharing.moves), parents_deleted=done.parents)
        return done

    def _delete_parents(self, batch: Batch, jobs: set[str]) -> int:
        """Delete, of these jobs, which are locked, those that were left empty."""
        parents = sorted(jobs)[: self.parents_room]
        if not parents or self._plan.parents is None:
            return 0
        return batch.execute(STATEMENTS["delete_parents"], jobs=parents, now=self._ctx.now, **self._plan.parents)

    def _with_busy_files(self, batch: Batch, runs: set[str]) -> set[str]:
        """Those of the runs with a file that somebody else holds."""
        locked = {row["run_id"]: row["files"] for row in batch.rows(STATEMENTS["lock_files"], runs=sorted(runs))}
        counted = batch.rows(STATEMENTS["count_files"], runs=sorted(runs))
        return {row["run_id"] for row in counted if row["files"] != locked.get(row["run_id"], 0)}

    def _erase(self, batch: Batch, going: Sequence[Row], sharing: Sharing) -> None:
        if not going:
            return
        moment, run_id = self._ctx.moment(), self._ctx.fence.run_id if self._ctx.fence else 0
        common = {"bucket": self._bucket, "run_id": run_id, "moment": moment}
        if sharing.moves:
            owners = sorted({move.new_owner for move in sharing.moves})
            if _ids(batch.rows(STATEMENTS["hold_new_owners"], runs=owners)) != set(owners):
                raise LockLost("a run that needs a file of another is just being deleted")
            batch.execute(
                STATEMENTS["move_files"],
                files=[move.file_id for move in sharing.moves],
                new_owners=[move.new_owner for move in sharing.moves],
            )
        batch.execute(
            STATEMENTS["record_erasures"],
            job=self._ctx.job.name,
            runs=[row["id"] for row in going],
            hashes=[hash_of(self._key, row["user_id"]) for row in going],
            extents=["run" if row["whole"] else "content" for row in going],
            moved_files=[move.file_id for move in sharing.moves],
            moved_from=[move.old_owner for move in sharing.moves],
            **common,
        )
        whole = [row["id"] for row in going if row["whole"]]
        content = [row["id"] for row in going if not row["whole"]]
        if whole:
            batch.execute(STATEMENTS["delete_runs"], runs=whole)
        if content:
            for name in ("delete_tasks", "delete_files", "delete_exports"):
                batch.execute(STATEMENTS[name], runs=content)


def rules(file: Path) -> Mapping[str, Statement]:
    """The statements that count, find and decide by the rule in a file."""
    return load_statements(_FOLDER / "conditions.sql", file, _FOLDER / "runs.sql")


def find_all(transaction: Transaction, plan: Plan) -> list[str]:
    """All runs that a plan would take, in the order in which it takes them."""
    (row,) = transaction.rows(STATEMENTS["run_pages"])
    return [run["id"] for run in plan.find(transaction, "(0,0)", f"({max(row['pages'], 1)},0)")]


def would_go(ctx: Context, plan: Plan, runs: Sequence[str]) -> Sharing:
    """For a dry run: decide for all runs at once, without a lock, what batch after batch comes to."""
    with ctx.reading() as transaction:
        decided = [row["id"] for row in plan.decide(transaction, runs)]
        uses = _uses(transaction, decided)
    return decide_sharing(decided, *uses)


def hash_of(key: bytes, user_id: str) -> str:
    """The keyed hash (HMAC-SHA-256, hexadecimal) under which an erasure names a user."""
    return hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()


def let_holds_wait(batch: Batch) -> None:
    """Let whoever sets a hold wait for this batch. Raises Unavailable while one is being set."""
    try:
        batch.rows(STATEMENTS["let_holds_wait"])
    except LockLost as error:
        # Not a lock that these runs are in the way of: a smaller batch would meet it too.
        raise Unavailable("postgres", "Somebody is setting a hold, and has not committed it. Try again.") from error


def _uses(transaction: Batch | Transaction, runs: Sequence[str]) -> tuple[list[Shared], dict[str, User]]:
    """What other runs use of these runs' files, and who those are."""
    rows = transaction.rows(STATEMENTS["find_shared"], runs=list(runs)) if runs else []
    shared = [Shared(row["owner"], row["files"], row["users"]) for row in rows]
    asked = sorted({user for each in shared for user in each.users})
    users = transaction.rows(STATEMENTS["find_users"], runs=asked) if asked else []
    return shared, {row["run"]: User(row["run"], row["submitted"], row["created_at"]) for row in users}


def _batches(runs: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Parts of the runs, in their order, none with too many runs or files; one run stands alone if it must."""
    part, files = list[Row](), 0
    for run in runs:
        if part and (len(part) >= _RUNS_A_BATCH or files + run["files"] > _FILES_A_BATCH):
            yield part
            part, files = [], 0
        part.append(run)
        files += run["files"]
    if part:
        yield part


def _ids(rows: Sequence[Row]) -> set[str]:
    return {row["id"] for row in rows}
