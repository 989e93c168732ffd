"""A shard of a job that deletes: its part of the outbox, whoever wrote what is in there."""

from collections.abc import Mapping

from functions.cleanup.outbox import Outbox, what_is_open
from shared.context import Context
from shared.job import JobResult


def drain_shard(ctx: Context, kinds: Mapping[str, str] | None = None) -> JobResult:
    """Delete the shard's objects. `kinds` as for the outbox. Raises Misconfigured or Unavailable."""
    bucket = ctx.connect_bucket()
    Outbox(ctx, bucket, bucket.state(), kinds).drain()
    with ctx.reading() as transaction:
        pending = what_is_open(transaction, bucket.name, share=ctx.share)["pending"]
    done = f"The outbox, {ctx.share}: {ctx.total('objects_deleted')} objects deleted"
    return JobResult(f"{done}; {pending} more wait" if pending else done, complete=not pending)
