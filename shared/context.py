"""What a job is given: the time, its limits, and transactions that the fence guards.

The fence: the run's row id in maintenance.runs is its token, and maintenance.fences holds the newest one. Every
writing transaction first takes that row FOR SHARE where it still names this run. So a run that lost its lock (a stopped
process, a pause of minutes) writes nothing once another has taken over, and nobody takes over in the middle of a
transaction.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from shared.bucket_calls import Bucket
from shared.clock import Clock, Timer
from shared.errors import Fenced, LockLost, Unavailable
from shared.job import Job
from shared.logline import Log
from shared.pace import Pace, Pacing
from shared.postgres import Database, Transaction
from shared.settings import Settings
from shared.shards import Share
from shared.statements import STATEMENTS
from shared.stripe_calls import Stripe


@dataclass(frozen=True)
class Fence:
    """The right of one run to write for a job: for one shard of it, or for all, each with its number."""

    job: str
    shards: tuple[int, ...]
    run_id: int

    def hold(self, transaction: Transaction, *, durable: bool = True) -> None:
        """Hold the right to the end of the transaction, which is on disk when it has committed if it is to be durable.

        Raises Fenced when a newer run has the right.
        """
        statement = STATEMENTS["hold_fence" if durable else "hold_fence_lightly"]
        try:
            held = transaction.rows(statement, job=self.job, shards=list(self.shards), run_id=self.run_id)
        except LockLost as error:
            raise Unavailable("postgres", f"The fence of {self.job} is being taken over. Try again.") from error
        if len(held) < len(self.shards):
            raise Fenced(f"A newer run of {self.job} took over from run {self.run_id}; this one stopped.")


class Batch:
    """One writing transaction of a job, and what it counts."""

    def __init__(self, transaction: Transaction) -> None:
        self.row = transaction.row
        self.rows = transaction.rows
        self.execute = transaction.execute
        self.counted: Counter[str] = Counter()

    def count(self, **amounts: int) -> None:
        """Add to the run's counts; they are saved with this transaction, or not at all."""
        self.counted.update(amounts)


class MakePace(Protocol):
    """Makes the paces of a shard."""

    def __call__(self, name: str, rate: float, *, start: float | None) -> Pacing:
        """The pace of that name, for all shards together."""
        ...


@dataclass
class Context:
    """Everything that one run of a job may use.

    `now` is the time the run is for, one value for the whole run. `slot` is the firing, if any. `limit` is the largest
    number of items to treat, None for all; `allow_deletes` is how many an operator lets this one run delete, None for
    what the guard against deleting too much allows. `earlier` holds the counts of the slot's previous attempts,
    `counts` this run's own. Whoever sets `stopping` ends the run between two batches. `failed_count` is no sum: the
    next attempt meets the same items again. `share` is which part of the work the run does; one that closes a firing is
    given in `left` what the opening said that waits. `shared_pace` makes a shard's paces.
    """

    job: Job
    now: datetime
    slot: datetime | None
    dry_run: bool
    limit: int | None
    settings: Settings
    deadline_at: datetime
    database: Database
    clock: Clock
    log: Log
    timer: Timer
    connect_stripe: Callable[[], Stripe]
    connect_bucket: Callable[[], Bucket]
    allow_deletes: int | None = None
    fence: Fence | None = None
    earlier: Mapping[str, int] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    failed_count: int = 0
    share: Share = field(default_factory=Share)
    left: Mapping[str, int] = field(default_factory=dict)
    shared_pace: MakePace | None = None
    _is_over: bool = False

    def time_left(self) -> float:
        """Seconds until the run must have stopped; zero or less when it must stop now, or is asked to.

        Once it is over it stays so, whatever becomes of the clock: what has stopped for want of time is not complete.
        """
        left = (self.deadline_at - self.clock.now()).total_seconds()
        if left <= 0:
            self._is_over = True
        return min(0.0, left) if self._is_over or self.stopping.is_set() else left

    def moment(self) -> datetime:
        """The time at this moment, for what is stamped with it. What is decided is decided by `now`."""
        return self.clock.now()

    def pace(self, name: str, rate: float, *, start: float | None = None) -> Pacing:
        """At most `rate` turns a second, `start` at first; for a shard, of all shards together, by that name."""
        if self.shared_pace is None:
            return Pace(rate, self.timer, start=start)
        return self.shared_pace(name, rate, start=start)

    def total(self, name: str) -> int:
        """A count over all attempts of the slot, this one included."""
        return self.earlier.get(name, 0) + self.counts[name]

    @contextmanager
    def batch(self, *, durable: bool = True) -> Iterator[Batch]:
        """A transaction that may write, under the fence. Raises Fenced when a newer run took over.

        With durable=False its commit does not wait for the disk: a server that crashes may lose it as a whole. The
        run's last commit waits for the disk, and for all before it.
        """
        if self.fence is None:
            raise AssertionError("a dry run has no fence and writes nothing")
        with self.database.transaction() as transaction:
            self.fence.hold(transaction, durable=durable)
            batch = Batch(transaction)
            yield batch
            total = self.counts + batch.counted
            if any(batch.counted.values()):
                self._save(transaction, self.fence.run_id, total)
        self.counts = total

    def _save(self, transaction: Transaction, run_id: int, counts: Mapping[str, int]) -> None:
        try:
            saved = transaction.execute(STATEMENTS["save_counts"], run_id=run_id, counts=json.dumps(counts))
        except LockLost as error:
            # Not a lock that the batch's items are in the way of: a smaller batch would meet it too.
            raise Unavailable("postgres", f"Another session holds the record of run {run_id}. Try again.") from error
        if not saved:
            raise Fenced(f"Run {run_id} of {self.job.name} was closed by another; it stopped.")

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A transaction in which the server refuses every write."""
        with self.database.transaction(read_only=True) as transaction:
            yield transaction

    def attention(self, message: str, **fields: object) -> None:
        """Log, with figures, what a person must look at or decide about."""
        run_id = self.fence.run_id if self.fence else None
        self.log.write("WARNING", message, event="attention", job=self.job.name, run_id=run_id, **fields)

    def item_failed(self, item: str, reason: str) -> None:
        """Count one item that could not be done, and log why. `item` is its key."""
        self.failed_count += 1
        run_id = self.fence.run_id if self.fence else None
        self.log.write(
            "ERROR",
            f"{self.job.name}: one item failed: {reason}",
            job=self.job.name,
            run_id=run_id,
            item=item,
            event="item",
        )
