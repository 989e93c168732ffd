"""The Redis adapter: JSON values that expire, and locks with a lease.

Redis may lose everything at any moment. Nothing here is the last word: the ledger and the fence in PostgreSQL are.
"""

import json
import random
import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, LockNotOwnedError, NoPermissionError
from redis.lock import Lock
from redis.retry import Retry

from shared.errors import MaintenanceError, Misconfigured, Unavailable
from shared.locks import Busy
from shared.settings import RedisTarget

_TIMEOUT_SECONDS = 2
# PTTL's answer for a key without an expiry.
_NEVER_EXPIRES = -1
# The longest that LOCK_TTL_SECONDS may be.
_LONGEST_LOCK_MS = 3_600_000
# Characters; a result has some hundreds.
_LONGEST_VALUE = 64 * 1024


class RedisStore:
    """One Redis server. Connects when it is first used."""

    def __init__(self, target: RedisTarget) -> None:
        self._target = target
        options: dict[str, Any] = {}
        if target.ca_cert is not None:
            options["ssl_ca_data"] = target.ca_cert
            # This authority signs for one instance, so a certificate of its own is that instance's. Memorystore's have
            # their address where no name is looked for, and leave out what Python 3.13 has become strict about.
            options["ssl_check_hostname"] = False
            options["ssl_exclude_verify_flags"] = [ssl.VerifyFlags.VERIFY_X509_STRICT]
        self._client = redis.Redis.from_url(
            target.url,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            socket_timeout=_TIMEOUT_SECONDS,
            # One retry mends a pooled connection that the server has closed meanwhile.
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
            **options,
        )

    def ping(self) -> None:
        """Raise Unavailable or Misconfigured unless Redis answers."""
        with self.translated():
            self._client.ping()

    def get_json(self, key: str) -> Mapping[str, object] | None:
        """The JSON object stored under a key. None where there is none, or where something else is stored."""
        with self.translated():
            try:
                # Not all of it: what somebody else stored may be larger than a function's memory.
                text = self._client.getrange(key, 0, _LONGEST_VALUE)
                value = json.loads(text) if 0 < len(text) <= _LONGEST_VALUE else None
            except (redis.ResponseError, ValueError, RecursionError):
                return None  # another type of value, or no JSON: whatever it is, we did not write it
        return value if isinstance(value, dict) else None

    def put_json(self, key: str, value: Mapping[str, object], ttl_seconds: int) -> None:
        """Store a JSON object under a key for so many seconds."""
        with self.translated():
            self._client.set(key, json.dumps(value), ex=ttl_seconds)

    def run_script(self, script: str, key: str, *arguments: float) -> list[str]:
        """Run a script on one key, all at once for everybody else; give what it returns, a list of texts."""
        with self.translated():
            result: list[str] = self._client.register_script(script)(keys=[key], args=arguments)
            return result

    def lock(self, key: str, ttl_seconds: int) -> Lock:
        """A lock on a key that expires by itself: SET NX PX with a random token, released by compare-and-delete."""
        return Lock(self._client, key, timeout=ttl_seconds, blocking=False, thread_local=False)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn all errors but our own into Unavailable, or Misconfigured where Redis refuses the login."""
        try:
            yield
        except (AuthenticationError, NoPermissionError) as error:
            raise Misconfigured(
                "REDIS_URL", f"Redis at {self._target} refused the login or a command. Check user, password and rights."
            ) from error
        except MaintenanceError:
            raise
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise Unavailable("redis", f"Redis at {self._target} does not answer.") from error
        except Exception as error:
            # A command refused, or whatever the client trips over in an answer that is none of Redis's. The name alone:
            # the text may quote a value.
            raise Unavailable(
                "redis", f"Redis at {self._target} gave no useful answer ({type(error).__name__})."
            ) from error

    def close(self) -> None:
        """Close every pooled connection."""
        self._client.close()


class RedisLocks:
    """One lock a job and shard, and numbered locks of which at most so many are held at once."""

    def __init__(self, store: RedisStore, ttl_seconds: int, capacity: int) -> None:
        self._store = store
        self._ttl = ttl_seconds
        self._capacity = capacity

    def acquire(self, job: str, *shards: int) -> "RedisLease | Busy":
        """Take the locks of these shards of a job and one of the numbered ones, or say which was not to be had.

        Raises Unavailable when Redis does not answer, Misconfigured when it refuses the login.
        """
        with self._store.translated(), ExitStack() as taken:
            own = [self._store.lock(f"maintenance:{job}:{shard}:lock", self._ttl) for shard in shards]
            for lock in own:
                if not _taken(lock):
                    return Busy.JOB
                taken.callback(lock.release)
            numbered = self._numbered()
            if numbered is None:
                return Busy.CAPACITY
            taken.pop_all()
            return RedisLease(self._store, (*own, numbered))
        raise AssertionError("unreachable")

    def _numbered(self) -> Lock | None:
        """One of the numbered locks, taken; None where others have all of them."""
        for number in random.sample(range(1, self._capacity + 1), self._capacity):
            lock = self._store.lock(f"maintenance:running:{number}:lock", self._ttl)
            if _taken(lock):
                return lock
        return None


def _taken(lock: Lock) -> bool:
    """Try to take a lock.

    The client sends a command again when its answer does not come in time. The first may have been carried out all the
    same, and then the lock that seems to be taken is our own. A value that never expires, or later than any lock, is
    nobody's, and would stand in the way. Raises Unavailable for one.
    """
    token = uuid.uuid4().hex
    if lock.acquire(token=token):
        return True
    lock.local.token = token.encode()
    if lock.owned():
        return True
    left = lock.redis.pttl(lock.name)
    if left == _NEVER_EXPIRES or left > _LONGEST_LOCK_MS:
        raise Unavailable(
            "redis", f"Redis has a value under {lock.name} that outlasts every lock: it is none. Delete it."
        )
    return False


class RedisLease:
    """Locks held until released, or until the TTL passes with no renewal."""

    def __init__(self, store: RedisStore, locks: tuple[Lock, ...]) -> None:
        self._store = store
        self._locks = locks

    def renew(self) -> None:
        """Start the TTL anew. A lock that Redis lost is taken again if nobody else has it.

        One that another holds now is left to them: the fence decides. Raises Unavailable or Misconfigured.
        """
        with self._store.translated():
            for lock in self._locks:
                try:
                    lock.reacquire()
                except LockNotOwnedError:
                    lock.acquire(token=lock.local.token)

    def release(self) -> None:
        """Give the locks back; one that is no longer ours is left alone. Raises Unavailable or Misconfigured."""
        with self._store.translated():
            for lock in self._locks:
                with suppress(LockNotOwnedError):
                    lock.release()
