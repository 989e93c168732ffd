"""Jobs that are left without runs. A job that an automation hangs on stays: deleting it would delete the automation."""

from collections.abc import Mapping, Sequence

from functions.cleanup.erasing import STATEMENTS, parent_parameters
from shared.context import Context
from shared.errors import DataRejected, LockLost
from shared.postgres import Row, Transaction

_JOBS_A_BATCH = 500


def count_parents(transaction: Transaction, parameters: Mapping[str, object]) -> Row:
    """How many jobs there are (`total`), and how many of them are idle with nothing left (`due`)."""
    (row,) = transaction.rows(STATEMENTS["count_idle_parents"], **parameters)
    return row


def count_emptied(
    transaction: Transaction, parameters: Mapping[str, object], gone: Sequence[str], *, with_empty: bool
) -> int:
    """How many jobs would go once these runs are gone; `with_empty`: and those that have no runs now."""
    statement = STATEMENTS["count_emptied"]
    (row,) = transaction.rows(statement, gone=list(gone), with_empty=with_empty, **parameters)
    return int(row["due"])


def delete_idle_parents(ctx: Context) -> None:
    """Delete the jobs that were left empty by an earlier run, by opt_out_cleanup or by the service."""
    parameters = parent_parameters(ctx)
    passed_by: list[str] = []
    while ctx.time_left() > 0:
        with ctx.reading() as transaction:
            rows = transaction.rows(
                STATEMENTS["find_idle_parents"], passed_by=passed_by, size=_JOBS_A_BATCH, **parameters
            )
        if not rows:
            return
        jobs = [row["id"] for row in rows]
        # What is not deleted now was locked by others, or came back to life: it is not looked at again in this run.
        passed_by += jobs
        _delete(ctx, jobs, parameters)


def _delete(ctx: Context, jobs: list[str], parameters: Mapping[str, object]) -> None:
    try:
        with ctx.batch(durable=False) as batch:
            locked = [row["id"] for row in batch.rows(STATEMENTS["lock_jobs"], jobs=jobs)]
            batch.count(parents_deleted=batch.execute(STATEMENTS["delete_parents"], jobs=locked, **parameters))
    except (LockLost, DataRejected) as error:
        if len(jobs) > 1:
            middle = len(jobs) // 2
            _delete(ctx, jobs[:middle], parameters)
            _delete(ctx, jobs[middle:], parameters)
        elif isinstance(error, DataRejected):
            ctx.item_failed(jobs[0], error.reason)
