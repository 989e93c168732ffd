"""Take by-products and orphans out of the bucket.

Dangers, and what holds them:

- The wrong database, or an old copy of the right one, names few of the bucket's objects, so that nearly all look like
  orphans. The whole listing is counted before the first deletion, and too large a share is refused; a database that
  names no object at all always is. Later pages are held against the same limit.
- An upload that is just beginning has an object and no row yet, or the other way round. Only old objects are touched,
  and each in the generation that was listed; whoever deletes it looks once more whether a row names it.
- A sweep longer than a deadline. What it has counted and where it stopped are saved with each page; the next attempt
  goes on there.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta

from functions.cleanup.draining import drain_shard
from functions.cleanup.guard import allowed, check, would_refuse
from functions.cleanup.kinds import KINDS
from functions.cleanup.listing import STATEMENTS, Judged, Taken, judge
from functions.cleanup.outbox import Outbox, open_gauges, what_is_open
from shared.bucket_calls import Bucket, StoredObject
from shared.clock import format_rfc3339, parse_rfc3339
from shared.context import Context
from shared.errors import Refused
from shared.job import JobResult
from shared.postgres import Transaction
from shared.settings import Settings

_CURSOR = "artifact_sweep"
# A sweep goes on in the attempts of the next day. What stopped longer ago says little about the bucket of now.
_STALE_AFTER = timedelta(hours=36)
_DRAIN_AT = 5_000
_SINCE = "They came since all was counted; no more are taken"


def run(ctx: Context) -> JobResult:
    """Sweep the bucket; in a dry run, count. Raises Refused, Misconfigured or Unavailable."""
    bucket = ctx.connect_bucket()
    state = bucket.state()
    outbox = Outbox(ctx, bucket, state, KINDS)
    if ctx.dry_run:
        return _dry_run(ctx, bucket)
    sweep = _Sweep(ctx, bucket, _load(ctx, bucket))
    if sweep.is_for_all and sweep.is_any_file_there():
        # A sweep may take all the time there is, for several attempts.
        outbox.drain()
    whole = _swept(sweep, outbox)
    outbox.drain()
    return _result(ctx, bucket, sweep.gauges(), sweep.what_is_left(whole), _deleted(ctx))


def open_slot(ctx: Context) -> JobResult:
    """Sweep the bucket, and leave what goes to the shards: nothing may go before all is counted. Raises as `run`."""
    bucket = ctx.connect_bucket()
    sweep = _Sweep(ctx, bucket, _load(ctx, bucket))
    if sweep.is_any_file_there():
        # As in a run: a sweep may be refused, or take several attempts.
        Outbox(ctx, bucket, bucket.state(), KINDS).drain()
    left = sweep.what_is_left(_swept(sweep, None))
    return JobResult("; ".join(["Artifact cleanup swept the bucket", *left]), complete=not left, gauges=sweep.gauges())


def run_shard(ctx: Context) -> JobResult:
    """Delete the shard's objects. Raises Misconfigured or Unavailable."""
    return drain_shard(ctx, KINDS)


def close_slot(ctx: Context) -> JobResult:
    """Delete what came since, and tell of all of it. Raises Misconfigured or Unavailable."""
    bucket = ctx.connect_bucket()
    Outbox(ctx, bucket, bucket.state(), KINDS).drain()
    return _result(ctx, bucket, {name: ctx.left.get(name, 0) for name in ("listed_count", "held")}, [], _deleted(ctx))


def _swept(sweep: "_Sweep", outbox: Outbox | None) -> bool:
    """Count, then take; False when time ran out. Raises Refused."""
    try:
        return sweep.count() and sweep.take(outbox)
    except Refused:
        # The next run counts anew: by then somebody may have put right what was wrong.
        sweep.forget()
        raise


def _dry_run(ctx: Context, bucket: Bucket) -> JobResult:
    sweep = _Sweep(ctx, bucket, _Progress(format_rfc3339(ctx.now)))
    refused = ""
    try:
        whole = sweep.count()
    except Refused as error:
        whole, refused = True, would_refuse(error.allowed)
    ctx.counts.update({KINDS[kind]: number for kind, number in sweep.first.items()})
    ctx.counts["artifacts_cleaned"] = sweep.first.total()
    done = f"Dry run: artifact cleanup would delete {_objects(ctx)}{refused}"
    return _result(ctx, bucket, sweep.gauges(), sweep.what_is_left(whole), done)


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """How many objects wait in the outbox: what else is in the bucket is known after a sweep only."""
    return open_gauges(what_is_open(transaction, settings.cleanup.bucket or ""), now)


@dataclass
class _Progress:
    """Where a sweep has got to: the last name that was looked at, and what was found so far.

    First all is counted, then `counted` is true and the sweep begins anew; `taken` are those taken since, `orphans` the
    orphans of them. `under` is what it was counted under: the retentions and the limits of the guard.
    """

    saved_at: str
    bucket: str = ""
    under: str = ""
    counted: bool = False
    after: str | None = None
    listed: int = 0
    held: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    orphans: int = 0
    taken: int = 0
    # How many orphans, how many by-products, and how many objects at all this sweep may take: as the count allowed.
    may_orphans: int = 0
    may_artifacts: int = 0
    may_take: int | None = None


class _Sweep:
    """One pass that counts, and one that takes."""

    def __init__(self, ctx: Context, bucket: Bucket, progress: _Progress) -> None:
        self._ctx = ctx
        self._bucket = bucket
        self.is_for_all = _is_for_all(ctx)
        self.progress = progress
        # Of those counted, by kind, the first ones, as many as the run's limit.
        self.first: Counter[str] = Counter()

    def count(self) -> bool:
        """Count what would go, and hold it against the guard; False when time ran out. Raises Refused."""
        progress = self.progress
        if progress.counted:
            return True
        for page in self._pages():
            with self._ctx.reading() as transaction:
                judged = judge(transaction, self._ctx, self._bucket.name, page)
            room = None if self._ctx.limit is None else self._ctx.limit - self.first.total()
            self.first.update(each.kind for each in judged.taken[:room])
            progress.kinds = dict(Counter(progress.kinds) + Counter(each.kind for each in judged.taken))
            progress.held += judged.held
            progress.listed += len(page)
            progress.after = page[-1].name
            self._save()
            if self._ctx.time_left() <= 0:
                return False
        self._guard()
        if not self._ctx.dry_run:
            progress.counted, progress.after, progress.held = True, None, 0
            self._save()
        return True

    def take(self, outbox: Outbox | None) -> bool:
        """Write what goes into the outbox, page by page, and drain it if given; False when time ran out.

        Raises Refused.
        """
        # Once more, where the sweep was counted by an earlier attempt.
        self._refuse_without_rows()
        waiting = 0
        for page in self._pages():
            if self._room() == 0:
                break
            waiting += self._page(page)
            if outbox is not None and waiting >= _DRAIN_AT:
                outbox.drain()
                waiting = 0
            if self._ctx.time_left() <= 0:
                return False
        self.forget()
        return True

    def gauges(self) -> Mapping[str, int]:
        """What was found, whatever became of it."""
        return {"listed_count": self.progress.listed, "held": self.progress.held}

    def what_is_left(self, whole: bool) -> list[str]:
        """Where it stopped, if it is not whole."""
        step = "was still being looked through" if self.progress.counted else "was still being counted"
        return [] if whole else [f"the bucket {step} when time ran out"]

    def forget(self) -> None:
        """Let the next sweep begin anew."""
        if not self.is_for_all:
            return
        with self._ctx.batch(durable=False) as batch:
            batch.execute(STATEMENTS["clear_cursor"], name=_CURSOR)

    def _pages(self) -> Iterator[Sequence[StoredObject]]:
        """The pages of the listing that were not looked at yet."""
        after = self.progress.after
        for page in self._bucket.pages(after):
            fresh = [found for found in page if found.name != after]
            if fresh:
                yield fresh

    def _page(self, page: Sequence[StoredObject]) -> int:
        # Its own until it has committed.
        moment = self._ctx.moment()
        progress = replace(self.progress, saved_at=format_rfc3339(moment))
        with self._ctx.batch(durable=False) as batch:
            judged = judge(batch, self._ctx, self._bucket.name, page)
            room = self._room()
            taken = judged.taken if room is None else judged.taken[:room]
            progress.orphans += sum(1 for each in taken if each.kind == "orphan")
            progress.taken += len(taken)
            if progress.orphans > progress.may_orphans:
                raise self._too_many(progress.orphans, _SINCE)
            if progress.taken - progress.orphans > progress.may_artifacts:
                raise self._too_many_artifacts(progress.taken - progress.orphans, _SINCE)
            progress.held += judged.held
            progress.after = page[-1].name
            if taken:
                batch.execute(
                    STATEMENTS["add_objects"],
                    bucket=self._bucket.name,
                    run_id=self._ctx.fence.run_id if self._ctx.fence else 0,
                    moment=moment,
                    **_columns(taken),
                )
            if self.is_for_all:
                batch.execute(STATEMENTS["save_cursor"], name=_CURSOR, value=json.dumps(asdict(progress)))
        self.progress = progress
        self._tell_unreadable(judged)
        return len(taken)

    def _tell_unreadable(self, judged: Judged) -> None:
        if judged.unreadable:
            self._ctx.attention(
                f"Objects in {self._bucket.name} whose names contain NUL stay: no table can name them. Delete them by "
                "hand.",
                count=judged.unreadable,
            )

    def _room(self) -> int | None:
        """How many more objects may be taken, None for any number."""
        rooms = [most - self.progress.taken for most in (self.progress.may_take, self._ctx.limit) if most is not None]
        return max(0, min(rooms)) if rooms else None

    def _guard(self) -> None:
        progress, cleanup, by_operator = self.progress, self._ctx.settings.cleanup, self._ctx.allow_deletes
        self._refuse_without_rows()
        # All that is due counts, whatever the run's limit: many small runs must not do what one may not.
        orphans = progress.kinds.get("orphan", 0)
        artifacts = sum(progress.kinds.values()) - orphans
        if by_operator is not None:
            check(
                self._ctx.job.cli, f"objects in {self._bucket.name}", orphans + artifacts, progress.listed, by_operator
            )
            progress.may_take = progress.may_orphans = progress.may_artifacts = by_operator
            return
        progress.may_orphans = allowed(progress.listed, cleanup.orphan_max_fraction, cleanup.orphan_max_floor, None)
        if orphans > progress.may_orphans:
            raise self._too_many(orphans, "None of them was deleted")
        progress.may_artifacts = allowed(progress.listed, cleanup.max_fraction, cleanup.max_floor, None)
        if artifacts > progress.may_artifacts:
            raise self._too_many_artifacts(artifacts, "None of them was deleted")

    def is_any_file_there(self) -> bool:
        """Whether any row names an object."""
        with self._ctx.reading() as transaction:
            (row,) = transaction.rows(STATEMENTS["is_any_file_there"])
        return bool(row["there"])

    def _refuse_without_rows(self) -> None:
        progress = self.progress
        if progress.listed and not self.is_any_file_there():
            raise Refused(
                f"Refused: no row of source_files names an object, and the bucket {self._bucket.name} has "
                f"{progress.listed}. Nothing was deleted. Check that DATABASE_URL names the service's database.",
                sum(progress.kinds.values()),
                0,
            )

    def _too_many(self, orphans: int, deleted: str) -> Refused:
        may = self.progress.may_orphans
        return Refused(
            f"Refused: {orphans} of {self.progress.listed} objects in {self._bucket.name} are named by no row, and at "
            f"most {may} orphans may go in one run. {deleted}. Check that the database is the "
            "service's own and up to date; if so, run `python -m ops run artifact --allow-deletes N --reason WHY` with "
            "a large enough N.",
            orphans,
            may,
        )

    def _too_many_artifacts(self, artifacts: int, deleted: str) -> Refused:
        may = self.progress.may_artifacts
        return Refused(
            f"Refused: {artifacts} of {self.progress.listed} objects in {self._bucket.name} are by-products past their "
            f"retention, and at most {may} may go in one run. {deleted}. Check the clock and ARTIFACT_RETENTION_DAYS; "
            "if they are right, run `python -m ops run artifact --allow-deletes N --reason WHY` with a large enough N.",
            artifacts,
            may,
        )

    def _save(self) -> None:
        if not self.is_for_all:
            return
        self.progress.saved_at = format_rfc3339(self._ctx.moment())
        with self._ctx.batch(durable=False) as batch:
            batch.execute(STATEMENTS["save_cursor"], name=_CURSOR, value=json.dumps(asdict(self.progress)))


def _is_for_all(ctx: Context) -> bool:
    """Whether a later run may go on with this one's count: not where something was asked of, or allowed, this one."""
    return not ctx.dry_run and ctx.limit is None and ctx.allow_deletes is None


def _load(ctx: Context, bucket: Bucket) -> _Progress:
    """Where the last sweep of this bucket stopped, unless that was long ago or under other settings."""
    cleanup = ctx.settings.cleanup
    under = repr(
        (
            cleanup.artifact_retention,
            cleanup.orphan_age,
            cleanup.max_fraction,
            cleanup.max_floor,
            cleanup.orphan_max_fraction,
            cleanup.orphan_max_floor,
        )
    )
    fresh = _Progress(format_rfc3339(ctx.now), bucket.name, under)
    if not _is_for_all(ctx):
        return fresh
    with ctx.reading() as transaction:
        row = transaction.row(STATEMENTS["load_cursor"], name=_CURSOR)
    if row is None:
        return fresh
    saved = json.loads(row["value"])
    # Another version of this code may have written other fields.
    if saved.keys() != asdict(fresh).keys() or (saved["bucket"], saved["under"]) != (bucket.name, under):
        return fresh
    age = ctx.now - parse_rfc3339(saved["saved_at"])
    # A clock may be behind by minutes.
    return _Progress(**saved) if timedelta(hours=-1) <= age < _STALE_AFTER else fresh


def _columns(taken: Sequence[Taken]) -> dict[str, list[object]]:
    return {
        "names": [each.found.name for each in taken],
        "generations": [each.found.generation for each in taken],
        "kinds": [each.kind for each in taken],
        "files": [each.named.file_id if each.named else None for each in taken],
        "runs": [each.named.run_id if each.named else None for each in taken],
        "bytes": [each.found.size for each in taken],
    }


def _objects(ctx: Context) -> str:
    count = ctx.total("artifacts_cleaned")
    return f"{count} object{'' if count == 1 else 's'}"


def _deleted(ctx: Context) -> str:
    return f"Artifact cleanup deleted {_objects(ctx)}"


def _result(ctx: Context, bucket: Bucket, found: Mapping[str, int], left: Sequence[str], done: str) -> JobResult:
    with ctx.reading() as transaction:
        opened = what_is_open(transaction, bucket.name)
    gauges = {**found, **open_gauges(opened, ctx.now)}
    reasons = list(left)
    if opened["pending"] and not ctx.dry_run:
        reasons.append(f"{opened['pending']} more wait")
    return JobResult("; ".join([done, *reasons]), complete=not reasons, gauges=gauges)
