"""Jobs that are left without runs. A job that an automation hangs on stays: deleting it would delete the automation."""

from collections.abc import Mapping, Sequence

from functions.cleanup.erasing import STATEMENTS, let_holds_wait
from functions.cleanup.page_ranges import PageRanges, table_pages
from shared.context import Context
from shared.errors import DataRejected, LockLost
from shared.postgres import Transaction

_JOBS_A_BATCH = 500
_FIRST_PAGES, _MOST_PAGES, _SECONDS_A_RANGE = 16, 2_000, 0.18


def count_emptied(
    transaction: Transaction, parameters: Mapping[str, object], gone: Sequence[str], *, with_empty: bool
) -> int:
    """How many jobs would go once these runs are gone; `with_empty`: and those that have no runs now."""
    statement = STATEMENTS["count_emptied"]
    (row,) = transaction.rows(statement, gone=list(gone), with_empty=with_empty, **parameters)
    return int(row["due"])


def delete_idle_parents(ctx: Context, parents: Mapping[str, object], room: int) -> None:
    """Delete the jobs that were left empty by an earlier run, by opt_out_cleanup or by the service; at most `room`.

    `parents` says which, as in a plan. Raises Unavailable, also while somebody sets a hold.
    """
    parameters = {"now": ctx.now, **parents}
    ranges = PageRanges(
        table_pages(ctx, "extraction_jobs"), first=_FIRST_PAGES, most=_MOST_PAGES, seconds=_SECONDS_A_RANGE
    )
    for first, beyond in ranges:
        if room <= 0 or ctx.time_left() <= 0:
            return
        began = ctx.timer.seconds()
        with ctx.reading() as transaction:
            rows = transaction.rows(STATEMENTS["find_idle_parents"], first=first, beyond=beyond, **parameters)
        jobs = [row["id"] for row in rows]
        while jobs and room > 0 and ctx.time_left() > 0:
            size = min(_JOBS_A_BATCH, room)
            # What of these is not deleted now was locked by others, or came back to life: another day.
            room -= _delete(ctx, jobs[:size], parameters)
            jobs = jobs[size:]
        ranges.took(ctx.timer.seconds() - began)


def _delete(ctx: Context, jobs: list[str], parameters: Mapping[str, object]) -> int:
    try:
        with ctx.batch(durable=False) as batch:
            let_holds_wait(batch)
            locked = [row["id"] for row in batch.rows(STATEMENTS["lock_jobs"], jobs=jobs)]
            deleted = batch.execute(STATEMENTS["delete_parents"], jobs=locked, **parameters)
            batch.count(parents_deleted=deleted)
    except (LockLost, DataRejected) as error:
        if len(jobs) > 1:
            middle = len(jobs) // 2
            return _delete(ctx, jobs[:middle], parameters) + _delete(ctx, jobs[middle:], parameters)
        if isinstance(error, DataRejected):
            ctx.item_failed(jobs[0], error.reason)
        return 0
    return deleted
