"""The ledger of runs: what was started, what came of it, and which firings are done for good.

A slot that completed is answered again from its stored result, without running. Redis keeps the result for a day;
maintenance.runs keeps it for good and is asked when Redis has lost it, and once more in the transaction that inserts
the run and raises the fence.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.context import Fence
from shared.errors import Fenced, LockLost, MaintenanceError, Unavailable
from shared.job import FAILED_COUNT, Job
from shared.outcome import Outcome, Status
from shared.postgres import Database, Row, Transaction
from shared.shards import Part, Share
from shared.statements import STATEMENTS

# On record with a shard's counts: how many shards there were. A shard of another division is none of this one's.
OF_SHARDS = "of_shards"


@dataclass(frozen=True)
class NewRun:
    """A run as it is recorded at its start."""

    job: Job
    share: Share
    counts: Mapping[str, int]
    slot: datetime | None
    trigger: str
    dry_run: bool
    step: int
    started_at: datetime
    deadline_at: datetime
    revision: str | None


@dataclass(frozen=True)
class Begun:
    """A run that may write now, and the counts of its slot's earlier attempts.

    `left` are the gauges of the slot's last attempt that ended with work left, such as its opening, with the items that
    it could not do; `failed` are those that its shards could not do.
    """

    fence: Fence
    earlier: Mapping[str, int]
    left: Mapping[str, int]
    failed: int


class Ledger:
    """Reads and writes maintenance.runs and maintenance.fences."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, run: NewRun) -> Begun | Outcome:
        """Record a run and raise the fence to it; or give the stored result, if its slot has completed meanwhile.

        Older runs of the job that never ended are closed as lost. Raises Fenced when a newer run has begun already,
        Unavailable when an older one's transaction does not end.
        """
        job, share = run.job, run.share
        try:
            with self._database.transaction() as transaction:
                run_id = _insert(transaction, run, "running")
                (fences,) = transaction.rows(
                    STATEMENTS["raise_fence"],
                    job=job.name,
                    shards=list(share.excludes),
                    every=_excludes_every_shard(transaction, job, share),
                    run_id=run_id,
                )
                if fences["raised"] != fences["wanted"]:
                    raise Fenced(f"A newer run of {job.name} began a moment before; this one did not start.")
                transaction.execute(
                    STATEMENTS["close_older_runs"],
                    job=job.name,
                    shards=fences["raised"],
                    run_id=run_id,
                    now=run.started_at,
                )
                # Looked up only now, in a later statement: what an older run committed before it let go of the fence
                # is visible to this one.
                attempts = _attempts(transaction, job, share, run.slot) if run.slot else []
                earlier = [attempt for attempt in attempts if attempt["id"] != run_id]
                done = _replay(job, share, run.slot, earlier) if run.slot else None
                if done is not None:
                    raise _AlreadyDoneError(done)
        except _AlreadyDoneError as already:
            return already.outcome
        except LockLost as error:
            raise Unavailable(
                "postgres", f"An older run of {job.name} does not let go of its fence. Try again."
            ) from error
        failed = sum(each["counts"].get(FAILED_COUNT, 0) for each in _completed_shards(share, earlier).values())
        # An opening has fenced off the shards of another division; its own begin after it, beside it.
        own = tuple(fences["raised"]) if share.part is Part.WHOLE else share.excludes
        return Begun(Fence(job.name, own, run_id), _sum(job, earlier), _left(job, share, earlier), failed)

    def finish(self, fence: Fence, ended: "Ended") -> Mapping[str, int]:
        """Close a run with what came of it; give its counts as they stand on record.

        Where a connection broke at a commit, more may be on record than the run knows of. Counts only rise, so the
        larger figure is the true one. Raises Fenced when a newer run has taken over.
        """
        with self._database.transaction() as transaction:
            fence.hold(transaction)
            counts = ended.counts
            if ended.error_type is not None:
                saved = transaction.row(STATEMENTS["saved_counts"], run_id=fence.run_id)
                on_record = saved["counts"] if saved else {}
                known = {**on_record, **counts}
                counts = {name: max(value, on_record.get(name, 0)) for name, value in known.items()}
            closed = transaction.execute(
                STATEMENTS["finish_run"],
                run_id=fence.run_id,
                status=ended.status.value,
                finished_at=ended.at,
                counts=json.dumps(counts),
                message=ended.message,
                error_type=ended.error_type,
                error_id=ended.error_id,
            )
            if not closed:
                raise Fenced(f"Run {fence.run_id} of {fence.job} was closed by another; it stopped.")
            return counts

    def record(self, run: NewRun, ended: "Ended") -> int:
        """Record a run that held no fence, all at once: a dry run or a paused one. Gives its id."""
        with self._database.transaction() as transaction:
            return _insert(transaction, run, ended.status.value, ended)


@dataclass(frozen=True)
class Ended:
    """How a run ended, as it is recorded: its own counts, not its slot's."""

    status: Status
    message: str
    counts: Mapping[str, int]
    at: datetime
    error_type: str | None = None
    error_id: str | None = None


@dataclass(frozen=True)
class SlotState:
    """How far a firing has got, as it is on record: its stored result, if it (or the shard asked about) has completed.

    `shards_completed` says whether all shards have, which closes it; `next_step` is the firing's own.
    """

    replay: Outcome | None
    shards_completed: bool
    next_step: int


def slot_state(transaction: Transaction, job: Job, share: Share, slot: datetime) -> SlotState:
    """How far a firing has got, or one shard of it."""
    attempts = _attempts(transaction, job, share, slot)
    return SlotState(
        _replay(job, share, slot, attempts),
        shards_completed=share.of > 1 and len(_completed_shards(share, attempts)) == share.of,
        next_step=1 + max((attempt["step"] for attempt in attempts if attempt["shard"] == 0), default=0),
    )


def _excludes_every_shard(transaction: Transaction, job: Job, share: Share) -> bool:
    """Whether no shard of the job may go on: this run does what they do, or cuts it up in another way."""
    if share.part is Part.WHOLE:
        return True
    if share.part is not Part.OPENING:
        return False
    (row,) = transaction.rows(STATEMENTS["other_division"], job=job.name, of_shards=OF_SHARDS, of=share.of)
    return bool(row["is_there"])


def _left(job: Job, share: Share, earlier: Sequence[Row]) -> Mapping[str, int]:
    for attempt in reversed(earlier):
        # One that was paused, or broke off, says nothing of what waits.
        if attempt["shard"] == share.number and attempt["status"] == Status.INCOMPLETE:
            return {name: attempt["counts"][name] for name in (*job.gauges, FAILED_COUNT) if name in attempt["counts"]}
    return {}


def full_success(job: Job, counts: Mapping[str, int]) -> bool:
    """Whether a completed run did anything but fail: false when items failed and not one was done."""
    return not counts.get(FAILED_COUNT) or counts.get(job.counts[0], 0) > 0


class _AlreadyDoneError(MaintenanceError):
    """Leaves the transaction of `begin`, so that nothing of it is kept."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the slot completed a moment ago")
        self.outcome = outcome


def _insert(transaction: Transaction, run: NewRun, status: str, ended: Ended | None = None) -> int:
    row = transaction.row(
        STATEMENTS["insert_run"],
        job=run.job.name,
        shard=run.share.number,
        slot=run.slot,
        trigger=run.trigger,
        step=run.step,
        status=status,
        dry_run=run.dry_run,
        started_at=run.started_at,
        finished_at=ended.at if ended else None,
        deadline_at=run.deadline_at,
        counts=json.dumps(ended.counts if ended else run.counts),
        message=ended.message if ended else None,
        revision=run.revision,
    )
    return int(row["id"]) if row else 0


def _attempts(transaction: Transaction, job: Job, share: Share, slot: datetime) -> Sequence[Row]:
    return transaction.rows(STATEMENTS["slot_attempts"], job=job.name, shards=list(share.counts_in), slot=slot)


def _completed_shards(share: Share, attempts: Sequence[Row]) -> Mapping[int, Row]:
    """The run that completed each shard, by the shard's number, for a firing that is divided like this one."""
    if share.part is Part.SHARD:
        return {}
    return {
        attempt["shard"]: attempt
        for attempt in attempts
        if attempt["shard"] > 0
        and attempt["status"] == Status.COMPLETED
        and attempt["counts"].get(OF_SHARDS) == share.of
    }


def _replay(job: Job, share: Share, slot: datetime, attempts: Sequence[Row]) -> Outcome | None:
    completed = next(
        (each for each in attempts if each["status"] == Status.COMPLETED and each["shard"] == share.number), None
    )
    if completed is None:
        return None
    gauges = {name: value for name, value in completed["counts"].items() if name in (*job.gauges, FAILED_COUNT)}
    counts = {**_sum(job, attempts), **gauges}
    return Outcome(
        Status.REPLAYED,
        full_success(job, counts),
        completed["message"] or "",
        job.name,
        run_id=completed["id"],
        slot=slot,
        counts=counts,
    )


def _sum(job: Job, attempts: Sequence[Row]) -> dict[str, int]:
    total: Counter[str] = Counter(dict.fromkeys(job.counts, 0))
    for attempt in attempts:
        total.update({name: value for name, value in attempt["counts"].items() if name in job.counts})
    return dict(total)
