"""What abandoned_cleanup and opt_out_cleanup have in common: looking first, erasing, draining, telling."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from functions.cleanup.erasing import STATEMENTS, Eraser, Plan, find_all, would_go
from functions.cleanup.guard import allowed, check, would_refuse
from functions.cleanup.outbox import Outbox, open_gauges, own_only, what_is_open
from functions.cleanup.parents import count_emptied, delete_idle_parents
from functions.cleanup.sharing import Sharing
from shared.context import Context
from shared.errors import Misconfigured, Refused
from shared.job import JobResult
from shared.postgres import Row, Transaction


@dataclass(frozen=True)
class Words:
    """How a job speaks of itself and of what it takes: "Abandoned cleanup", "draft"."""

    title: str
    one: str

    def count(self, number: int) -> str:
        """So many of them."""
        return f"{number} {self.one}{'' if number == 1 else 's'}"


def run_erasure(ctx: Context, plan: Plan, words: Words, *, drains: bool = True) -> JobResult:
    """Erase what the plan names; in a dry run, count it. With drains=False the objects are left to the shards.

    Raises Refused where that would be too much; Misconfigured for a missing index, bucket or permission; Unavailable.
    """
    bucket = ctx.connect_bucket()
    state = bucket.state()
    with ctx.reading() as transaction:
        _check_indexes(transaction)
        found = plan.count(transaction)
        parents = plan.count_parents(transaction) if plan.parents is not None else None
    try:
        # All that is due counts, whatever the run's limit: many small runs must not do what one may not.
        may = _checked(ctx, "runs", found)
        may_parents = 0 if parents is None else _checked(ctx, "extraction jobs", parents)
    except Refused as error:
        if not ctx.dry_run:
            raise
        return _dry_run(ctx, plan, words, found, would_refuse(error.allowed))
    if ctx.dry_run:
        return _dry_run(ctx, plan, words, found)
    eraser = Eraser(ctx, plan, bucket.name, min(may, ctx.limit or may), may_parents)
    eraser.run()
    if plan.parents is not None and ctx.limit is None:
        delete_idle_parents(ctx, plan.parents, eraser.parents_room)
    if drains:
        Outbox(ctx, bucket, state).drain()
    return _result(ctx, plan, words, eraser, drains=drains)


def waiting_for(transaction: Transaction, plan: Plan, bucket: str | None, now: datetime) -> Mapping[str, int]:
    """What waits for such a job: runs that are due, runs that are held, and objects that must leave the bucket."""
    row = plan.count(transaction)
    opened = what_is_open(transaction, bucket or "")
    return {"due_count": row["due"], "held": row["held"], **open_gauges(opened, now)}


def _checked(ctx: Context, what: str, found: Row) -> int:
    """How many of a table may go. Raises Refused where more would."""
    cleanup = ctx.settings.cleanup
    may = allowed(found["total"], cleanup.max_fraction, cleanup.max_floor, ctx.allow_deletes)
    check(ctx.job.cli, what, found["due"], found["total"], may)
    return may


def _check_indexes(transaction: Transaction) -> None:
    missing = [row["name"] for row in transaction.rows(STATEMENTS["missing_indexes"])]
    if missing:
        raise Misconfigured(
            "indexes",
            f"An index is missing on {', '.join(missing)}. Without it each erased run reads whole tables. Run `python "
            "-m ops migrate`, or add what `python -m ops migrate --host-sql` prints to the service's migrations.",
        )


def _dry_run(ctx: Context, plan: Plan, words: Words, found: Row, refused: str = "") -> JobResult:
    going, sharing = _would_go(ctx, plan)
    ctx.counts["jobs_cleaned"] = len(going)
    ctx.counts["files_rehomed"] = len(sharing.moves)
    with ctx.reading() as transaction:
        if plan.parents is not None:
            ctx.counts["parents_deleted"] = count_emptied(
                transaction, {"now": ctx.now, **plan.parents}, going, with_empty=ctx.limit is None
            )
        opened = what_is_open(transaction, ctx.settings.cleanup.bucket or "")
    gauges = {
        "due_count": found["due"],
        "held": found["held"],
        "waiting_on_draft": len(sharing.waiting),
        **open_gauges(opened, ctx.now),
    }
    return JobResult(f"Dry run: {words.title.lower()} would erase {words.count(len(going))}{refused}", gauges=gauges)


def _would_go(ctx: Context, plan: Plan) -> tuple[list[str], Sharing]:
    """The runs that would go, and what becomes of files. With a limit, others take the place of those that wait."""
    with ctx.reading() as transaction:
        found = find_all(transaction, plan)
    limit = len(found) if ctx.limit is None else ctx.limit
    going, sharing = list[str](), Sharing(set())
    while found and len(going) < limit:
        room = limit - len(going)
        tried, found = [*going, *found[:room]], found[room:]
        sharing = would_go(ctx, plan, tried)
        going = [run for run in tried if run in sharing.going]
    return going, sharing


def _result(ctx: Context, plan: Plan, words: Words, eraser: Eraser, *, drains: bool) -> JobResult:
    with ctx.reading() as transaction:
        found = plan.count(transaction)
        opened = what_is_open(transaction, ctx.settings.cleanup.bucket or "", own_only(ctx))
    left = max(0, found["due"] - len(eraser.waiting) - len(eraser.refused))
    gauges = {
        "due_count": found["due"],
        "held": found["held"],
        "waiting_on_draft": len(eraser.waiting),
        **open_gauges(opened, ctx.now),
    }
    done = f"{words.title} erased {words.count(ctx.total('jobs_cleaned'))}"
    reasons = []
    is_capped = eraser.room == 0 and (ctx.limit is not None or ctx.allow_deletes is not None)
    if left and not is_capped:
        why = "stayed locked by other sessions" if eraser.busy and ctx.time_left() > 0 else "wait"
        reasons.append(f"{left} more {why}")
    if drains and opened["pending"]:
        reasons.append(f"{opened['pending']} objects could not be deleted yet")
    if reasons:
        return JobResult(f"{done}; {', and '.join(reasons)}", complete=False, gauges=gauges)
    return JobResult(f"{done} (limit reached)" if left else done, gauges=gauges)
