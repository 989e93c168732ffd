"""The locks: one contract for both backends, then what each does when it is lost."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import redis

from devstack.stack import Stack
from devstack.valkey import ValkeyServer
from shared import locks, postgres
from shared.errors import MaintenanceError, Misconfigured, Unavailable
from shared.locks import Busy, HeldLease, Lease, Locks, PostgresLocks
from shared.postgres import Database
from shared.postgres_connect import close
from shared.redis_store import RedisLocks, RedisStore
from shared.settings import RedisTarget
from tests.support.database import TestDatabase
from tests.support.redis import lose_everything
from tests.support.wait import until

MakeLocks = Callable[..., Locks]


@pytest.fixture
def postgres_locks(database: TestDatabase) -> Iterator[MakeLocks]:
    made: list[Database] = []

    def make(ttl_seconds: int = 60, capacity: int = 5) -> Locks:
        made.append(Database(database.target))
        return PostgresLocks(made[-1], ttl_seconds, capacity)

    yield make
    for each in made:
        each.dispose()


@pytest.fixture
def redis_locks(stack: Stack, redis_client: "redis.Redis") -> Iterator[MakeLocks]:  # noqa: ARG001
    made: list[RedisStore] = []

    def make(ttl_seconds: int = 60, capacity: int = 5) -> Locks:
        made.append(RedisStore(RedisTarget(stack.redis_url)))
        return RedisLocks(made[-1], ttl_seconds, capacity)

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["postgres_locks", "redis_locks"])
def make_locks(request: pytest.FixtureRequest) -> MakeLocks:
    make: MakeLocks = request.getfixturevalue(request.param)
    return make


def taken(locks: Locks, job: str = "a_job", shard: int = 0) -> Lease:
    lease = locks.acquire(job, shard)
    assert not isinstance(lease, Busy)
    return lease


# ---- the contract


def test_a_job_is_held_by_one_at_a_time(make_locks: MakeLocks) -> None:
    lease = taken(make_locks())
    assert make_locks().acquire("a_job", 0) is Busy.JOB
    lease.release()
    taken(make_locks()).release()


def test_other_jobs_and_shards_are_free(make_locks: MakeLocks) -> None:
    leases = [taken(make_locks()), taken(make_locks(), "b_job"), taken(make_locks(), shard=1)]
    for lease in leases:
        lease.release()


def test_no_more_than_the_capacity_are_held_at_once(make_locks: MakeLocks) -> None:
    leases = [taken(make_locks(capacity=2), f"job_{number}") for number in range(2)]
    assert make_locks(capacity=2).acquire("job_2", 0) is Busy.CAPACITY
    leases[0].release()
    leases.append(taken(make_locks(capacity=2), "job_2"))
    for lease in leases[1:]:
        lease.release()


def test_one_that_found_no_place_keeps_nothing(make_locks: MakeLocks) -> None:
    lease = taken(make_locks(capacity=1), "job_0")
    assert make_locks(capacity=1).acquire("job_1", 0) is Busy.CAPACITY
    lease.release()
    taken(make_locks(capacity=1), "job_1").release()


def test_what_was_given_back_is_free_though_the_server_notices_the_end_of_a_session_later(
    postgres_locks: MakeLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    unnoticed: list[Any] = []
    monkeypatch.setattr(postgres, "close", unnoticed.append)
    lease = taken(postgres_locks(capacity=1))
    assert postgres_locks(capacity=1).acquire("b_job", 0) is Busy.CAPACITY
    lease.release()
    taken(postgres_locks(capacity=1), "b_job").release()
    for connection in unnoticed:
        close(connection)


def test_of_many_at_once_one_wins(make_locks: MakeLocks) -> None:
    everyone = [make_locks() for _ in range(8)]
    results: list[Lease | Busy] = []
    threads = [threading.Thread(target=lambda each=each: results.append(each.acquire("a_job", 0))) for each in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leases = [result for result in results if not isinstance(result, Busy)]
    assert len(leases) == 1
    assert results.count(Busy.JOB) == 7
    leases[0].release()


def test_a_lease_that_is_not_renewed_ends_by_itself(make_locks: MakeLocks) -> None:
    # Kept in sight, as by a process that is stopped: a lease that nobody holds any more ends when it is collected.
    silent = taken(make_locks(ttl_seconds=1))
    other = make_locks()
    leases: list[Lease] = []

    def free() -> bool:
        lease = other.acquire("a_job", 0)
        if not isinstance(lease, Busy):
            leases.append(lease)
        return bool(leases)

    until(free, "the lock of a process that is stopped became free")
    leases[0].release()
    with suppress(MaintenanceError):
        silent.release()


def test_a_lease_that_is_renewed_lasts(make_locks: MakeLocks, redis_client: "redis.Redis") -> None:
    lease = taken(make_locks(ttl_seconds=2))
    beats = threading.Event()
    held = HeldLease(lease, otherwise=lambda: Busy.JOB, on_loss=lambda _: beats.set(), ttl_seconds=2)
    with held:
        # Nothing to wait for but time: the lease must outlive its TTL.
        redis_client.set("maintenance:test:elapsed", "1", px=3_000)
        until(lambda: not redis_client.exists("maintenance:test:elapsed"), "more than the lease's time passed")
        assert make_locks().acquire("a_job", 0) is Busy.JOB
    assert not beats.is_set()
    taken(make_locks()).release()


# ---- Redis


def test_a_lock_that_another_took_over_is_not_released(redis_locks: MakeLocks, redis_client: "redis.Redis") -> None:
    mine = taken(redis_locks())
    lose_everything(redis_client)
    theirs = taken(redis_locks())
    mine.renew()
    mine.release()
    assert redis_locks().acquire("a_job", 0) is Busy.JOB
    theirs.release()


def test_a_lock_that_redis_lost_is_taken_again_by_its_holder(
    redis_locks: MakeLocks, redis_client: "redis.Redis"
) -> None:
    mine = taken(redis_locks())
    lose_everything(redis_client)
    mine.renew()
    assert redis_locks().acquire("a_job", 0) is Busy.JOB
    mine.release()
    taken(redis_locks()).release()


def test_a_lock_taken_by_a_command_whose_answer_came_too_late_is_ones_own(own_redis: ValkeyServer) -> None:
    """The client gives up waiting and sends the command again; the server carries out both."""
    store = RedisStore(RedisTarget(own_redis.url))
    store.ping()
    assert own_redis.pid is not None
    server = psutil.Process(own_redis.pid)
    results: list[Lease | Busy] = []
    first = connections_to(own_redis.port)
    server.suspend()
    thread = threading.Thread(target=lambda: results.append(RedisLocks(store, 60, 5).acquire("a_job", 0)))
    thread.start()
    until(lambda: connections_to(own_redis.port) - first, "the client has given up and connects again")
    server.resume()
    thread.join()
    (lease,) = results
    assert not isinstance(lease, Busy)
    lease.release()
    taken(RedisLocks(store, 60, 5)).release()
    store.close()


def connections_to(port: int) -> set[int]:
    """Our own ends of this process's connections to a port."""
    found = psutil.Process().net_connections("tcp")
    return {each.laddr.port for each in found if each.raddr and each.raddr.port == port}


def test_bytes_that_are_no_text_under_a_lock_s_key_are_somebody_elses_lock(
    redis_locks: MakeLocks, redis_client: "redis.Redis"
) -> None:
    redis_client.set("maintenance:a_job:0:lock", b"\xff\xfe")
    locks = redis_locks()
    with suppress(Unavailable):
        assert locks.acquire("a_job", 0) is Busy.JOB
    lease = taken(redis_locks(), "b_job")
    redis_client.set("maintenance:b_job:0:lock", b"\xff\xfe")
    told: list[Exception] = []
    with HeldLease(lease, otherwise=lambda: Busy.JOB, on_loss=told.append, ttl_seconds=60):
        pass
    assert all(isinstance(error, Unavailable) for error in told)


def test_redis_out_of_reach_is_unavailable() -> None:
    store = RedisStore(RedisTarget("redis://:pw-of-redis@127.0.0.1:1/0"))
    with pytest.raises(Unavailable) as refused:
        store.ping()
    assert refused.value.service == "redis"
    assert "pw-of-redis" not in str(refused.value)


def test_a_wrong_password_for_redis_is_misconfigured(stack: Stack) -> None:
    target = RedisTarget(stack.redis_url)
    if target.password is None:
        pytest.skip("the Redis server given by REDIS_URL has no password")
    store = RedisStore(RedisTarget(stack.redis_url.replace(target.password, "wrong")))
    with pytest.raises(Misconfigured) as refused:
        store.ping()
    assert refused.value.setting == "REDIS_URL"


# ---- PostgreSQL


@pytest.mark.timeout(60)
def test_giving_back_does_not_wait_for_a_server_that_hangs(
    postgres_locks: MakeLocks, database: TestDatabase, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stack.postgres is None:
        pytest.skip("the server given by DATABASE_URL is not ours to stop")
    monkeypatch.setattr(postgres, "_PATIENCE_SECONDS", 600.0)
    monkeypatch.setattr(postgres, "PROMPT_SECONDS", 0.5)
    lease = taken(postgres_locks())
    session = database.value(
        "SELECT DISTINCT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE locktype = 'advisory' AND datname = current_database()"
    )
    server = psutil.Process(session)
    server.suspend()
    try:
        lease.release()
    finally:
        server.resume()
    until(
        lambda: database.value("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid", pid=session) == 0,
        "the server notices that the session is over",
    )


# ---- a lease that is kept


def test_a_lost_lease_is_replaced_and_told_of(postgres_locks: MakeLocks, database: TestDatabase) -> None:
    locks = postgres_locks(ttl_seconds=2)
    losses: list[Exception] = []
    with HeldLease(taken(locks), otherwise=lambda: locks.acquire("a_job", 0), on_loss=losses.append, ttl_seconds=2):
        holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
        first = {row["pid"] for row in database.rows(holder)}
        database.value("SELECT pg_terminate_backend(:pid)", pid=next(iter(first)))
        until(lambda: {row["pid"] for row in database.rows(holder)} - first, "another session holds the lock")
        assert postgres_locks().acquire("a_job", 0) is Busy.JOB
    assert [type(loss) for loss in losses] == [Unavailable]
    taken(postgres_locks()).release()


@pytest.mark.parametrize("what", ["renewal that fails", "renewal", "replacement"])
def test_what_hangs_while_the_run_ends_leaves_no_lock_behind(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.1)
    hanging, gate = threading.Event(), threading.Event()
    held: list[str] = []

    class Hanging:
        def __init__(self, name: str) -> None:
            self._name = name
            held.append(name)

        def renew(self) -> None:
            if what != "replacement":
                hanging.set()
                gate.wait()
            if what != "renewal":
                raise OSError("hung")

        def release(self) -> None:
            held.remove(self._name)

    def take() -> Lease:
        hanging.set()
        gate.wait()
        return Hanging("another")

    with HeldLease(Hanging("the first"), otherwise=take, on_loss=lambda _: None, ttl_seconds=1) as lease:
        assert hanging.wait(20)
    gate.set()
    lease._thread.join(20)
    assert (lease._thread.is_alive(), held) == (False, [])
