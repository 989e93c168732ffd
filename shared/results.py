"""The results of completed slots in Redis, so that a repeated delivery is answered without PostgreSQL.

What is read back is believed only if it is whole and about this very job, slot and database: Redis may be shared, or
filled by someone else. Anything else counts as not there, and the ledger is asked.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from shared.clock import format_rfc3339
from shared.job import FAILED_COUNT, Job
from shared.outcome import Outcome, Status

if TYPE_CHECKING:
    from shared.redis_store import RedisStore

_SECONDS_AN_HOUR = 3600


class SlotResults:
    """Results by job, shard and slot, kept for so many hours."""

    def __init__(self, store: "RedisStore", database: str, ttl_hours: int) -> None:
        self._store = store
        self._database = database
        self._ttl_seconds = ttl_hours * _SECONDS_AN_HOUR

    def get(self, job: Job, shard: int, slot: datetime) -> Outcome | None:
        """The result as a replay, or None. Raises Unavailable or Misconfigured."""
        stored = self._store.get_json(_key(job, shard, slot))
        return None if stored is None else self._replay(job, slot, stored)

    def put(self, job: Job, shard: int, slot: datetime, outcome: Outcome) -> None:
        """Keep the outcome of a completed slot. Raises Unavailable or Misconfigured."""
        value = {
            "database": self._database,
            "job": job.name,
            "slot": format_rfc3339(slot),
            "success": outcome.success,
            "message": outcome.message,
            "run_id": outcome.run_id,
            "counts": dict(outcome.counts),
        }
        self._store.put_json(_key(job, shard, slot), value, self._ttl_seconds)

    def _replay(self, job: Job, slot: datetime, stored: Mapping[str, object]) -> Outcome | None:
        expected = {"database": self._database, "job": job.name, "slot": format_rfc3339(slot)}
        success, message, run_id, counts = (stored.get(name) for name in ("success", "message", "run_id", "counts"))
        if any(stored.get(name) != value for name, value in expected.items()):
            return None
        if not (isinstance(success, bool) and isinstance(message, str) and type(run_id) is int):
            return None
        if not isinstance(counts, dict) or not all(type(value) is int for value in counts.values()):
            return None
        known = {name: value for name, value in counts.items() if name in (*job.counts, *job.gauges, FAILED_COUNT)}
        return Outcome(Status.REPLAYED, success, message, job.name, run_id=run_id, slot=slot, counts=known)


def _key(job: Job, shard: int, slot: datetime) -> str:
    return f"maintenance:{job.name}:{shard}:result:{format_rfc3339(slot)}"
