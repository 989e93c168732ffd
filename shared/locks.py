"""Overlap: at most one run of a job and shard at a time, and at most so many jobs at once.

Two backends share one contract: Redis, and PostgreSQL's advisory locks where Redis is absent or lost. Busy is a value,
not an exception. Holding a lock saves work and no more: what keeps the data right is the fence (`shared.context`).
"""

import enum
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

from shared.errors import Unavailable
from shared.postgres import Database, Session
from shared.statements import STATEMENTS

# The two-key form of PostgreSQL's advisory locks: the first key says what kind of lock it is.
_JOB_SPACE = 0x6D61_6A6F
_CAPACITY_SPACE = 0x6D61_6361
_PATIENCE_SECONDS = 10


class Busy(enum.Enum):
    """Why no lease was given."""

    JOB = "the job is running elsewhere"
    CAPACITY = "as many jobs are running as may at once"


class Lease(Protocol):
    """Locks held for a run."""

    def renew(self) -> None:
        """Make the lease last another TTL. Raises Unavailable when the backend is lost."""
        ...

    def release(self) -> None:
        """Give the locks back. Raises Unavailable when the backend is lost."""
        ...


class Locks(Protocol):
    """A backend that gives leases."""

    def acquire(self, job: str, *shards: int) -> Lease | Busy:
        """Take the locks of these shards of a job and a place among the running ones, or say why not, at once."""
        ...


class PostgresLocks:
    """The same locks as advisory locks on a connection of their own."""

    def __init__(self, database: Database, ttl_seconds: int, capacity: int) -> None:
        self._database = database
        self._ttl = ttl_seconds
        self._capacity = capacity

    def acquire(self, job: str, *shards: int) -> "PostgresLease | Busy":
        """Take the locks, or say which was not to be had. Raises Unavailable or Misconfigured."""
        with ExitStack() as stack:
            session = stack.enter_context(self._database.session())
            session.rows(STATEMENTS["bound_session"], limit=f"{self._ttl}s")
            busy = self._lock(session, job, shards)
            if busy is None:
                return PostgresLease(session, stack.pop_all())
            session.rows(STATEMENTS["unlock_all"])
            return busy
        raise AssertionError("unreachable")

    def _lock(self, session: Session, job: str, shards: Sequence[int]) -> Busy | None:
        if not all(self._won(session, _JOB_SPACE, _key(job, shard)) for shard in shards):
            return Busy.JOB
        if not any(self._won(session, _CAPACITY_SPACE, number) for number in range(1, self._capacity + 1)):
            return Busy.CAPACITY
        return None

    @staticmethod
    def _won(session: Session, space: int, key: int) -> bool:
        row = session.row(STATEMENTS["try_lock"], space=space, key=key)
        return row is not None and bool(row["won"])


def _key(job: str, shard: int) -> int:
    return zlib.crc32(f"{job}:{shard}".encode()) - 2**31


class PostgresLease:
    """Advisory locks, held as long as their session lives."""

    def __init__(self, session: Session, stack: ExitStack) -> None:
        self._session = session
        self._stack = stack

    def renew(self) -> None:
        """Keep the session from being ended as silent. Raises Unavailable when it is gone."""
        self._session.rows(STATEMENTS["sign_of_life"])

    def release(self) -> None:
        """Let go of the locks, and end the session. One that is gone has none."""
        with self._stack, suppress(Unavailable):
            # A server that hangs notices the end of the session as well, and the run has its answer to give.
            self._session.hurry()
            self._session.rows(STATEMENTS["unlock_all"])


class HeldLease:
    """A lease kept alive by a thread, well inside its TTL; one that is lost is replaced by another as soon as may be.

    `otherwise` gives the replacement. `on_loss` is told each time that a backend is lost.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        otherwise: Callable[[], Lease | Busy],
        on_loss: Callable[[Exception], None],
        ttl_seconds: int,
    ) -> None:
        self._lease: Lease | None = lease
        self._otherwise = otherwise
        self._on_loss = on_loss
        self._every = ttl_seconds / 3
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "HeldLease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop renewing and give the locks back. A backend lost by now is told and is no error: its locks expire.

        One that hangs is not waited for beyond seconds; if it answers later, the locks are given back then.
        """
        self._ending.set()
        self._thread.join(timeout=_PATIENCE_SECONDS)

    def _keep(self) -> None:
        while not self._ending.wait(self._every):
            try:
                if self._lease is not None:
                    self._lease.renew()
            except Exception as error:  # noqa: BLE001  a thread that dies of it would let the lease run out unseen
                self._on_loss(error)
                self._drop()
            if self._lease is None and not self._ending.is_set():
                self._replace()
        self._drop()

    def _drop(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                lease.release()
            except Exception as error:  # noqa: BLE001  the work is done; a lock that is left behind expires
                self._on_loss(error)

    def _replace(self) -> None:
        try:
            lease = self._otherwise()
        except Exception:  # noqa: BLE001
            return  # tried again at the next beat; the fence guards the data meanwhile
        if not isinstance(lease, Busy):
            self._lease = lease
