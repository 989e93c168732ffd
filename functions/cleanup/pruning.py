"""Keep our own tables small, in small batches."""

from datetime import timedelta
from pathlib import Path

from shared.context import Context
from shared.errors import LockLost
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("pruning.sql"))
_LONG, _SHORT = timedelta(days=400), timedelta(days=90)
# What is pruned how long after its end, and the count that tells.
_PRUNED = (
    ("prune_runs", _LONG, "runs_pruned"),
    ("prune_sends", _LONG, "sends_pruned"),
    ("prune_outbox", _SHORT, "outbox_pruned"),
)
_SIZE = 2_000


def prune(ctx: Context) -> None:
    """Delete what is old in our own tables, for as long as there is time; what is left is for next week."""
    for name, age, count in _PRUNED:
        deleted = _SIZE
        while deleted == _SIZE and ctx.time_left() > 0:
            try:
                with ctx.batch(durable=False) as batch:
                    deleted = batch.execute(_STATEMENTS[name], before=ctx.now - age, size=_SIZE)
                    batch.count(**{count: deleted})
            except LockLost:
                break
