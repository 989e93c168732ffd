"""What one invocation shares with others through Redis, and through PostgreSQL's locks where Redis is absent or lost.

Redis lost is no reason to stop: the run goes on under advisory locks, and its answer says so. An overlap with a run
that holds only the Redis lock is left to the fence.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from shared.errors import Misconfigured, Unavailable
from shared.job import Job
from shared.locks import Busy, HeldLease, Lease, PostgresLocks
from shared.outcome import Outcome
from shared.pace import Pace, Pacing
from shared.results import SlotResults
from shared.services import Services
from shared.shards import Share

if TYPE_CHECKING:
    from shared.redis_store import RedisStore

T = TypeVar("T")


class Coordination:
    """The locks and the stored results of one job, or of a share of it, for one invocation.

    `degraded` turns true when the installation has a Redis and it does not answer; it is not asked again then.
    """

    def __init__(self, services: Services, job: Job) -> None:
        self._services = services
        self._job = job
        self.degraded = False

    def stored_result(self, slot: datetime, shard: int) -> Outcome | None:
        """The result that Redis keeps for a slot, if any. Raises Misconfigured when Redis refuses the login."""
        return self._with_redis(lambda redis: self._results(redis).get(self._job, shard, slot))

    def store_result(self, slot: datetime, shard: int, outcome: Outcome) -> None:
        """Let Redis keep a slot's result. If it cannot, the ledger in PostgreSQL has it all the same."""
        try:
            self._with_redis(lambda redis: self._results(redis).put(self._job, shard, slot, outcome))
        except Misconfigured as error:
            self._lost(error)

    def lease(self, share: Share) -> HeldLease | Busy:
        """Take the locks for this share's run, or say why not. Raises Unavailable or Misconfigured."""

        def postgres_lease() -> Lease | Busy:
            return self._postgres_lease(share)

        lease = self._with_redis(lambda redis: self._redis_lease(redis, share))
        if lease is None:
            lease = postgres_lease()
        if isinstance(lease, Busy):
            return lease
        ttl_seconds = self._services.settings.lock_ttl_seconds
        return HeldLease(lease, otherwise=postgres_lease, on_loss=self._lost, ttl_seconds=ttl_seconds)

    def pace(self, share: Share, name: str, rate: float, *, start: float | None) -> Pacing:
        """At most `rate` turns a second, `start` at first, of all shards together."""
        timer = self._services.timer
        alone = Pace(rate / share.of, timer, start=None if start is None else start / share.of)
        redis = None if self.degraded else self._services.redis
        if redis is None:
            return alone
        from shared.shared_pace import SharedPace  # imported late: only a shard pays for it

        key = f"maintenance:{self._job.name}:pace:{name}"
        return SharedPace(redis, key, rate, timer, start=start, shards=share.of, alone=alone, on_loss=self._lost)

    def _results(self, redis: "RedisStore") -> SlotResults:
        settings = self._services.settings
        return SlotResults(redis, str(settings.database), settings.result_ttl_hours)

    def _redis_lease(self, redis: "RedisStore", share: Share) -> Lease | Busy:
        from shared.redis_store import RedisLocks  # imported late, like the client itself

        settings = self._services.settings
        locks = RedisLocks(redis, settings.lock_ttl_seconds, settings.max_concurrent_jobs)
        return locks.acquire(self._job.name, *share.excludes)

    def _postgres_lease(self, share: Share) -> Lease | Busy:
        settings = self._services.settings
        locks = PostgresLocks(self._services.database, settings.lock_ttl_seconds, settings.max_concurrent_jobs)
        return locks.acquire(self._job.name, *share.excludes)

    def _with_redis(self, action: "Callable[[RedisStore], T]") -> T | None:
        redis = None if self.degraded else self._services.redis
        if redis is None:
            return None
        try:
            return action(redis)
        except Unavailable as error:
            self._lost(error)
            return None

    def _lost(self, error: Exception) -> None:
        """Note, and warn once, that Redis is lost."""
        # Without a Redis, what was lost is a session with advisory locks, and that is no change of ways.
        if self._services.settings.redis is None or self.degraded:
            return
        self.degraded = True
        self._services.log.write(
            "WARNING", f"{error} The run goes on under PostgreSQL's locks.", event="degraded", job=self._job.name
        )
