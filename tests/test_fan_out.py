"""Jobs in shards, as deployed: real processes behind one address, and a queue that delivers.

One shard is killed on the way, one delivered twice, one slow: what comes of it is exact.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import redis

from devstack.gcs_front import GcsFront
from devstack.serving import Answer, Served, fire
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from shared.shards import Part, Share
from tests.conftest import MakeEnvironment
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.front import Front
from tests.support.serving import Functions, request
from tests.support.stripe import PERIOD_START, TAKEOVER
from tests.support.tasks import QUEUE, tasks_emulator
from tests.support.wait import until

SHARDS = 3
CUSTOMERS, EVENTS_EACH = 30, 4
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
COMPLETED = "SELECT count(*) FROM maintenance.runs WHERE status = 'completed' AND shard = ANY (:shards)"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a queue."""
    with tasks_emulator(tmp_path_factory.mktemp("tasks") / "log") as address:
        yield address


class Service:
    """One job served by a process for each shard. `on_delivery` is told of each shard's first delivery."""

    def __init__(self, job: str, database: TestDatabase, functions: Functions, settings: dict[str, str | None]) -> None:
        self.job = job
        self.database = database
        common = {"TEST_SHARDS": str(SHARDS), "CONTINUATION_QUEUE": QUEUE, "LOCK_TTL_SECONDS": "2", **settings}
        self.processes = [functions.serve(common, target=job) for _ in range(SHARDS)]
        self.on_delivery: dict[int, Callable[[Served, bytes], None]] = {}
        self._lock = threading.Lock()

    def route(self, body: bytes) -> Served:
        """Each shard has a process; the firing itself has the first one's."""
        shard = json.loads(body)["shard"] if body else 0
        served = self.processes[max(0, shard - 1)]
        with self._lock:
            action = self.on_delivery.pop(shard, None)
        if action is not None:
            threading.Thread(target=action, args=(served, body), daemon=True).start()
        return served

    def completed(self, *shards: int) -> bool:
        """Whether these have completed."""
        return bool(self.database.value(COMPLETED, shards=list(shards)) == len(shards))

    def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.database.rows("SELECT * FROM maintenance.runs ORDER BY id")]


def deliver_again(other: Served) -> Callable[[Served, bytes], None]:
    """The same task comes to another process at the same time."""

    def again(_: Served, body: bytes) -> None:
        post(other, body)

    return again


def post(served: Served, body: bytes) -> None:
    with suppress(OSError):  # it was killed meanwhile: the queue's own delivery is what counts
        request(served, "POST", body=body, headers={"X-CloudTasks-TaskName": "x"})


def kill_when(condition: Callable[[], object]) -> Callable[[Served, bytes], None]:
    """It is killed in the middle of its work."""

    def kill(served: Served, _: bytes) -> None:
        until(condition, "it is at work")
        os.kill(served.worker_pid(), signal.SIGKILL)

    return kill


def stop_until(condition: Callable[[], object]) -> Callable[[Served, bytes], None]:
    """It stands still until the others have long finished."""

    def stop(served: Served, _: bytes) -> None:
        worker = served.worker_pid()
        os.kill(worker, signal.SIGSTOP)
        try:
            until(condition, "the others have finished", seconds=80)
        finally:
            os.kill(worker, signal.SIGCONT)

    return stop


def fired(front: Front, job: str) -> Answer:
    return fire(f"{front.url}/", job=job, slot=NOON)


@pytest.fixture
def account(functions: Functions) -> Iterator[tuple[StripeServer, Account]]:
    account = Account(functions.clock)
    with StripeServer(account) as server:
        yield server, account


def test_usage_is_reported_once_whatever_becomes_of_the_shards(
    database: TestDatabase,
    functions: Functions,
    account: tuple[StripeServer, Account],
    tasks: str,
    redis_client: "redis.Redis",
) -> None:
    server, stripe = account
    for number in range(CUSTOMERS):
        stripe.add_customer(f"cus_{number}")
        database.account(f"user_{number}", "pro", PERIOD_START, NOON + 20 * DAY, stripe_customer_id=f"cus_{number}")
    database.execute(
        "INSERT INTO usage_events (user_id, pages, occurred_at, source) SELECT 'user_' || mod(n, :customers), "
        "n, CAST(:at AS timestamptz) - n * interval '1 minute', 'x' FROM generate_series(1, CAST(:count AS integer)) n",
        at=NOON - HOUR,
        customers=CUSTOMERS,
        count=CUSTOMERS * EVENTS_EACH,
    )
    stripe.faults.add("slow", times=CUSTOMERS * EVENTS_EACH // 2, seconds=0.05)
    service = Service(
        "stripe_reconcile",
        database,
        functions,
        {
            "STRIPE_SECRET_KEY": stripe.secret_key,
            "STRIPE_METER_PAGES": stripe.meter.id,
            "STRIPE_API_BASE": server.url,
            "STRIPE_TAKEOVER_AT": TAKEOVER,
            "STRIPE_RATE": "200",
            "STRIPE_READ_RATE": "200",
            "CLOUD_TASKS_EMULATOR_HOST": tasks,
        },
    )
    third = Share(Part.SHARD, 3, SHARDS).keys
    sending = (
        "SELECT count(*) > 0 FROM maintenance.meter_sends WHERE state = 'sending' "
        "AND hashtext(stripe_customer_id) BETWEEN :lowest_hash AND :highest_hash"
    )
    service.on_delivery = {
        1: stop_until(lambda: service.completed(2, 3)),
        2: deliver_again(service.processes[2]),
        3: kill_when(lambda: database.value(sending, **third)),
    }
    with Front(service.route) as front:
        opened = fired(front, service.job)
        assert (opened.status, opened.fields["handed_to"]) == (200, SHARDS)
        until(lambda: service.completed(0), "the firing is closed", seconds=90)
        again = fired(front, service.job)
    pages = sum(range(1, CUSTOMERS * EVENTS_EACH + 1))
    assert (again.fields["status"], again.fields["success_count"]) == ("replayed", CUSTOMERS * EVENTS_EACH)
    assert again.fields["success_pages"] == pages
    assert database.value("SELECT count(*) FROM usage_events WHERE NOT stripe_reported") == 0
    assert len(stripe.events) == len({each.identifier for each in stripe.events}) == CUSTOMERS * EVENTS_EACH
    assert sum(int(each.value) for each in stripe.events) == pages
    statuses = [(row["shard"], row["status"]) for row in service.rows()]
    assert (3, "lost") in statuses
    assert sorted(shard for shard, status in statuses if status == "completed") == [0, 1, 2, 3]
    assert list(redis_client.scan_iter("maintenance:*:lock")) == []
    assert list(redis_client.scan_iter("maintenance:stripe_reconcile:pace:*"))


@pytest.fixture
def world(
    database: TestDatabase, functions: Functions, gcs_front: GcsFront, bucket: str, make_environment: MakeEnvironment
) -> CleanupWorld:
    # The functions' clock is the one that counts here.
    return CleanupWorld(database, gcs_front, bucket, make_environment, functions.clock)  # type: ignore[arg-type]


def cleanup(world: CleanupWorld, job: str, functions: Functions, tasks: str) -> Service:
    settings = {
        "GCS_BUCKET_NAME": world.bucket,
        "STORAGE_EMULATOR_HOST": world.front.url,
        "CLOUD_TASKS_EMULATOR_HOST": tasks,
    }
    return Service(job, world.database, functions, dict(settings))


def test_the_bucket_is_cleaned_once_whatever_becomes_of_the_shards(
    world: CleanupWorld, functions: Functions, tasks: str
) -> None:
    kept = world.object_of(world.file(world.submitted(world.job())))
    for number in range(90):
        world.put(f"temp_uploads/ann/{number}")
    service = cleanup(world, "artifact_cleanup", functions, tasks)
    second = Share(Part.SHARD, 2, SHARDS).keys
    claimed = (
        "SELECT count(*) > 0 FROM maintenance.object_deletions WHERE claimed_until IS NOT NULL AND done_at IS NULL "
        "AND hashint8(id) BETWEEN :lowest_hash AND :highest_hash"
    )
    kill = kill_when(lambda: world.database.value(claimed, **second))

    def kill_and_wait(served: Served, body: bytes) -> None:
        kill(served, body)
        # What it had claimed is free again after two minutes.
        functions.clock.advance(minutes=3)

    world.front.delay(0.05, "DELETE")
    service.on_delivery = {
        1: deliver_again(service.processes[2]),
        2: kill_and_wait,
        3: stop_until(lambda: service.completed(1, 2)),
    }
    with Front(service.route) as front:
        opened = fired(front, service.job)
        assert (opened.status, opened.fields["handed_to"]) == (200, SHARDS)
        assert len(world.objects()) == 91
        until(lambda: service.completed(0), "the firing is closed", seconds=90)
        again = fired(front, service.job)
    assert world.objects() == {kept}
    assert [again.fields[name] for name in ("listed_count", "open_objects", "failed_count")] == [91, 0, 0]
    # What the one that was killed had deleted, and not written down, is found to be absent.
    cleaned = again.fields["artifacts_cleaned"]
    assert cleaned == again.fields["temp_uploads_cleaned"] == again.fields["objects_deleted"]
    assert cleaned + again.fields["objects_absent"] == 90
    did = [row["counts"].get("artifacts_cleaned", 0) for row in service.rows() if row["shard"] > 0]
    assert all(count < 90 for count in did)


@pytest.mark.parametrize("job", ["abandoned_cleanup", pytest.param("opt_out_cleanup", marks=pytest.mark.slow)])
def test_erasures_are_complete_when_the_shards_have_drained_the_outbox(
    world: CleanupWorld, functions: Functions, tasks: str, job: str
) -> None:
    mother = world.job()
    for _ in range(10):
        abandoned = job == "abandoned_cleanup"
        run = world.draft(mother) if abandoned else world.submitted(mother, persist_data=False)
        for _ in range(3):
            world.file(run)
    service = cleanup(world, job, functions, tasks)
    with Front(service.route) as front:
        assert fired(front, service.job).fields["handed_to"] == SHARDS
        until(lambda: service.completed(0), "the firing is closed", seconds=90)
        again = fired(front, service.job)
    assert world.objects() == set()
    assert [again.fields[name] for name in ("jobs_cleaned", "objects_deleted", "open_objects")] == [10, 30, 0]
    assert all(row["completed_at"] is not None for row in world.erasures())
    assert len(world.erasures()) == 10
    did = {row["shard"]: row["counts"].get("objects_deleted", 0) for row in service.rows()}
    assert did[0] == 0
    assert sum(did.values()) == 30
