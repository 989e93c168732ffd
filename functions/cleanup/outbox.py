"""Drain the outbox: delete objects with many threads, and write down what came of each.

Dangers, and what holds them:

- An object that is needed again. Whoever claims a row looks whether the service names the object again. A name that can
  come back (an import has the same one each time) is deleted in its present generation only, which is read before that
  look: what is uploaded afterwards is another generation, and what was uploaded since the row was written stays.
- A kill. A claim is committed, to disk, before an object is touched, and runs out by itself; to delete twice does no
  harm.
- A bucket that refuses everything. A missing permission ends the run and is named; many failures in a row end it as
  unavailable. What is not settled stays open.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from functions.cleanup.crew import Crew
from functions.cleanup.holds import held_objects
from shared.bucket_calls import Answer, Bucket, BucketState, Deletion, StoredObject
from shared.context import Batch, Context
from shared.errors import Unavailable
from shared.postgres import Row, Transaction
from shared.shards import Share
from shared.sql import load_statements

STATEMENTS = load_statements(Path(__file__).with_name("outbox.sql"))

_THREADS = 32
# A bucket takes about 1,000 writes a second at first ("Request rate and access distribution guidelines", Cloud Storage
# documentation).
_RATE, _FIRST_RATE = 1_000, 800
_CLAIM, _LOW_WATER = 1_000, 500
_SETTLE_AT = 500
_LEASE = timedelta(seconds=120)
_TRIES = 5
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.25, 4.0
# After the tries of one run: the next attempt's distance, doubled with each run that failed.
_NEXT_RUN_SECONDS, _LATEST_NEXT_RUN_SECONDS = 15.0, 3_600.0
_DAY_SECONDS = 86_400.0
_NEVER_AFTER = timedelta(days=2)
_FAILURES_IN_A_ROW = 2 * _THREADS
_STATES = {
    Answer.DELETED: "deleted",
    Answer.ABSENT: "absent",
    Answer.CHANGED: "superseded",
    Answer.HELD: "held",
    Answer.REFUSED: "failed",
    Answer.BUSY: "pending",
}
_DONE = frozenset({"deleted", "absent", "superseded"})
_ALL = Share()


@dataclass(frozen=True, slots=True)
class Item:
    """A claimed row. `tries` counts this run's attempts.

    `main` is what came of the object itself, once that is decided: then only its conversion is left.
    """

    id: int
    name: str
    generation: int | None
    kind: str
    source_file_id: str | None
    job_run_id: str | None
    attempts: int
    requested_at: datetime
    tries: int = 0
    main: Answer | None = None

    @property
    def may_return(self) -> bool:
        """Whether the service may write an object of the same name again; all other names are random."""
        return self.name.startswith("imports/") or "/gmail_imports/" in self.name

    @property
    def conversion(self) -> str | None:
        """The name of the conversion that goes with a source file."""
        if self.kind != "source" or self.source_file_id is None:
            return None
        return f"jobs/{self.job_run_id}/conversions/{self.source_file_id}.pdf"


@dataclass(frozen=True, slots=True)
class _Half:
    """The object itself is decided; its conversion was not to be had."""

    main: Answer
    conversion: Deletion


_Result = Deletion | StoredObject | _Half


class Outbox:
    """The open rows of one bucket. `kinds` maps the kinds of objects to the counts that they are counted under."""

    def __init__(
        self, ctx: Context, bucket: Bucket, state: BucketState, kinds: Mapping[str, str] | None = None
    ) -> None:
        self._ctx = ctx
        self._bucket = bucket
        self._state = state
        self._kinds = kinds or {}
        # A run that was told how much it may delete leaves to others what others have written into the outbox.
        self._own = own_only(ctx)
        self._pace = ctx.pace("bucket", _RATE, start=_FIRST_RATE)
        self._settling: list[tuple[Item, Deletion]] = []
        self._seen: list[Item] = []
        self._later: list[tuple[float, int, Item]] = []
        self._ready: deque[Item] = deque()
        self._held: set[int] = set()
        self._failures = 0
        self._reason: str | None = None
        self._exhausted = False

    def drain(self) -> None:
        """Delete until nothing is due, or time is up. Raises Unavailable or Misconfigured where the bucket ends it."""
        self._exhausted, self._failures = False, 0
        self._complete_left()
        with Crew(self._attempt, _THREADS) as crew:
            try:
                while self._feed(crew):
                    if crew.open:
                        self._collect(crew)
            finally:
                crew.cancel()
                for item, result in crew.rest():
                    # Of several errors the first one is told.
                    if not isinstance(result, Exception):
                        self._note(item, result)
                # Those that failed wait their time: otherwise they would stand before all others once more.
                reason = Deletion(Answer.BUSY, self._reason)
                self._settling += [(item, reason) for _, _, item in self._later]
                self._settle()
                self._release()

    def _feed(self, crew: Crew[Item, _Result]) -> bool:
        """Give the crew work; False when there is none left."""
        if self._ctx.time_left() <= 0:
            return False
        now = self._ctx.timer.seconds()
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        if not self._exhausted and crew.open + len(self._ready) < _LOW_WATER:
            self._claim()
        while self._ready:
            crew.add(self._ready.popleft())
        if crew.open:
            return True
        self._confirm()
        self._settle()
        if self._ready:
            return True
        if self._later:
            self._ctx.timer.wait(max(0.0, self._later[0][0] - now))
            return True
        return not self._exhausted

    def _claim(self) -> None:
        with self._ctx.batch() as batch:
            moment = self._ctx.moment()
            rows = batch.rows(
                STATEMENTS["claim"],
                bucket=self._bucket.name,
                moment=moment,
                until=moment + _LEASE,
                never=moment + _NEVER_AFTER,
                size=_CLAIM,
                own=self._own,
                **self._ctx.share.keys,
            )
            # What an erasure left behind has no row any more that a hold could keep.
            swept = {row["object_name"]: _hangs_on(row) for row in rows if row["erasure_id"] is None}
            held = held_objects(batch, moment, swept)
        self._exhausted = len(rows) < _CLAIM
        for row in rows:
            item = _item(row)
            self._held.add(item.id)
            if row["needed"]:
                self._ready.append(replace(item, main=Answer.CHANGED))
            elif item.name in held and row["erasure_id"] is None:
                self._settling.append((item, Deletion(Answer.HELD, "held by an operator")))
            else:
                self._ready.append(item)

    def _attempt(self, item: Item) -> _Result:
        """One thread's work: look at an object, or delete it with what goes with it."""
        if item.main is None:
            return self._attempt_main(item)
        return self._with_conversion(item, item.main)

    def _attempt_main(self, item: Item) -> _Result:
        self._take_turn()
        if item.generation is None and item.may_return:
            found = self._bucket.find(item.name)
            if isinstance(found, StoredObject):
                if found.created_at <= item.requested_at:
                    return found
                # Uploaded since; its row may be about to come.
                found = Deletion(Answer.CHANGED)
        else:
            found = self._bucket.delete(item.name, item.generation)
        return self._with_conversion(item, found.answer) if _STATES[found.answer] in _DONE else found

    def _with_conversion(self, item: Item, main: Answer) -> _Result:
        """The conversion goes whatever became of the object: it is that of a source file whose row is gone."""
        if item.conversion is not None:
            if self._ctx.time_left() <= 0:
                return _Half(main, Deletion(Answer.BUSY, "time ran out"))
            self._take_turn()
            conversion = self._bucket.delete(item.conversion, None)
            if _STATES[conversion.answer] not in _DONE:
                return _Half(main, conversion)
        return Deletion(main)

    def _take_turn(self) -> None:
        delay = self._pace.delay()
        while delay > 0:
            self._ctx.timer.wait(delay)
            delay = self._pace.delay()

    def _collect(self, crew: Crew[Item, _Result]) -> None:
        for item, result in crew.results():
            self._note(item, result)
        if self._failures >= _FAILURES_IN_A_ROW:
            raise Unavailable(
                "gcs",
                f"The bucket {self._bucket.name} took none of {self._failures} calls ({self._reason}). Try again.",
            )
        if len(self._seen) >= _SETTLE_AT:
            self._confirm()
        if len(self._settling) >= _SETTLE_AT:
            self._settle()

    def _note(self, item: Item, result: _Result | Exception) -> None:
        if isinstance(result, Exception):
            raise result
        if isinstance(result, _Half):
            item, result = replace(item, main=result.main), result.conversion
        if isinstance(result, StoredObject):
            self._failures = 0
            self._seen.append(replace(item, generation=result.generation))
        elif result.answer is Answer.BUSY:
            self._failures += self._ctx.time_left() > 0
            self._reason = result.reason
            if result.too_fast:
                self._pace.slow_down(0.0)
            if item.tries + 1 < _TRIES and self._ctx.time_left() > 0:
                wait = min(_FIRST_WAIT_SECONDS * 2**item.tries, _LONGEST_WAIT_SECONDS)
                again = replace(item, tries=item.tries + 1)
                heapq.heappush(self._later, (self._ctx.timer.seconds() + wait, item.id, again))
            else:
                self._settling.append((item, result))
        else:
            self._failures = 0
            self._settling.append((item, result))

    def _confirm(self) -> None:
        """Hold the names whose generation was read against the service's rows, and let the others be deleted."""
        if not self._seen:
            return
        with self._ctx.reading() as transaction:
            rows = transaction.rows(STATEMENTS["named_again"], names=[item.name for item in self._seen])
        named = {row["name"] for row in rows}
        for item in self._seen:
            self._ready.append(replace(item, main=Answer.CHANGED) if item.name in named else item)
        self._seen = []

    def _settle(self) -> None:
        if not self._settling:
            return
        moment = self._ctx.moment()
        with self._ctx.batch(durable=False) as batch:
            states = [_STATES[result.answer] for _, result in self._settling]
            rows = batch.rows(
                STATEMENTS["settle"],
                moment=moment,
                ids=[item.id for item, _ in self._settling],
                states=states,
                done=[state in _DONE for state in states],
                waits=[_wait(item, result) for item, result in self._settling],
                errors=[result.reason for _, result in self._settling],
                # Of an object that is decided, what is left to do is its conversion.
                rests=[item.conversion if item.main is not None else None for item, _ in self._settling],
                gone=[item.main is Answer.DELETED for item, _ in self._settling],
            )
            erasures = sorted({key for row in rows for key in row["erasures"] if key is not None})
            self._complete(batch, erasures, moment)
            for row in rows:
                self._count(batch.counted, row)
        for item, result in self._settling:
            if result.answer is Answer.REFUSED:
                self._ctx.item_failed(f"row {item.id} of object_deletions", f"the bucket refused: {result.reason}")
        self._held -= {item.id for item, _ in self._settling}
        self._settling = []

    def _complete_left(self) -> None:
        """Complete the erasures of which no object is open, and which nobody completed: who should have, was killed."""
        with self._ctx.reading() as transaction:
            erasures = [row["id"] for row in transaction.rows(STATEMENTS["find_left_erasures"], size=_CLAIM)]
        if erasures:
            with self._ctx.batch(durable=False) as batch:
                self._complete(batch, erasures, self._ctx.moment())

    def _complete(self, batch: Batch, erasures: Sequence[int], moment: datetime) -> None:
        if not erasures:
            return
        # In a statement of its own: of two runs that settle the last objects of an erasure, the later one then sees
        # what the other did.
        batch.rows(STATEMENTS["lock_erasures"], erasures=erasures)
        copies, until = self._copies()
        batch.execute(
            STATEMENTS["complete_erasures"],
            erasures=erasures,
            moment=moment,
            copies=copies,
            copies_until=until and moment + until,
        )

    def _count(self, counted: dict[str, int], row: Row) -> None:
        number, state = row["number"], row["state"]
        if state in _DONE:
            counted[f"objects_{state}"] = counted.get(f"objects_{state}", 0) + number
        if state == "deleted":
            counted["bytes_deleted"] = counted.get("bytes_deleted", 0) + int(row["bytes"])
            kind = self._kinds.get(row["kind"])
            if kind is not None:
                counted["artifacts_cleaned"] = counted.get("artifacts_cleaned", 0) + number
                counted[kind] = counted.get(kind, 0) + number

    def _copies(self) -> tuple[str, timedelta | None]:
        """What the bucket keeps of an object that is deleted now, and for how long, where that is known."""
        if self._state.versioned:
            return "versions", None
        if self._state.soft_delete:
            return "soft_delete", self._state.soft_delete
        return "none", None

    def _release(self) -> None:
        left, self._held = sorted(self._held), set()
        self._later, self._seen = [], []
        self._ready.clear()
        if left:
            with self._ctx.batch(durable=False) as batch:
                batch.execute(STATEMENTS["release"], ids=left)


def own_only(ctx: Context) -> int | None:
    """The run's id, where it was told how much it may delete and so takes its own objects alone; else None."""
    is_capped = ctx.limit is not None or ctx.allow_deletes is not None
    return ctx.fence.run_id if is_capped and ctx.fence is not None else None


def what_is_open(transaction: Transaction, bucket: str, own: int | None = None, share: Share = _ALL) -> Row:
    """How many objects wait to leave a bucket (`open`): those that something keeps (`kept`), and those `pending`.

    `waiting_since` is when the oldest one that nothing keeps was requested, None without any. With `own`, a run's id,
    only those of that run are `pending`. With a shard's `share`, only its objects count.
    """
    (row,) = transaction.rows(STATEMENTS["what_is_open"], bucket=bucket, own=own, **share.keys)
    return row


def open_gauges(opened: Row, now: datetime) -> dict[str, int]:
    """The gauges that tell of what is open. An object that something keeps does not make the oldest one older."""
    since = opened["waiting_since"]
    oldest = 0 if since is None else max(0, (now - since) // timedelta(minutes=1))
    return {"open_objects": opened["open"], "kept_objects": opened["kept"], "oldest_open_minutes": oldest}


def _hangs_on(row: Row) -> list[str]:
    return [row[name] for name in ("source_file_id", "job_run_id") if row[name] is not None]


def _item(row: Row) -> Item:
    names = ("id", "generation", "kind", "source_file_id", "job_run_id", "attempts", "requested_at")
    return Item(name=row["object_name"], **{name: row[name] for name in names})


def _wait(item: Item, result: Deletion) -> float:
    """Seconds until a row is tried again by a later run."""
    if result.answer is Answer.BUSY:
        return float(min(_NEXT_RUN_SECONDS * 2 ** min(item.attempts, 20), _LATEST_NEXT_RUN_SECONDS))
    return _DAY_SECONDS
