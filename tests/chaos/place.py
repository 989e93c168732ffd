"""Where schedules are played, one after the other: the servers, and what each schedule has to itself."""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import redis

from devstack.buckets import create_bucket, drop_bucket
from devstack.databases import create_database, drop_database
from devstack.gcs_front import GcsFront
from devstack.proxy import Address, Proxy
from devstack.stack import Stack
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from devstack.valkey import ValkeyServer
from ops.migrate import bind_identity
from shared.database_url import database_target
from tests.chaos.machine import Machine
from tests.chaos.schedule import BACKENDS, Schedule
from tests.chaos.tasks import Tasks
from tests.chaos.world import World
from tests.support.clock import NOON, FileClock
from tests.support.database import TestDatabase
from tests.support.redis import lose_everything
from tests.support.stripe import TAKEOVER

_NUMBERS = itertools.count(1)
LOCK_TTL_SECONDS = 2
# Nobody listens there.
_NOBODY = "redis://127.0.0.1:1/0"


@dataclass
class Place:
    """The servers; `template` is a database with both schemas and the triggers of watch.sql, `folder` is for logs."""

    stack: Stack
    template: str
    folder: Path
    spare: ValkeyServer
    front: GcsFront


@contextmanager
def a_place(stack: Stack, template: str, folder: Path) -> Iterator[Place]:
    """What all schedules share. `template` is a database with both schemas."""
    name = f"maintenance_test_{os.getpid()}_chaos"
    watched = TestDatabase(create_database(stack.database_url, name, template=template))
    watched.script(Path(__file__).with_name("watch.sql").read_text())
    watched.engine.dispose()
    spare = ValkeyServer((stack.folder or folder) / "spare-redis")
    # As after a failover: another server, under the same address and with the same password.
    spare._password = urlsplit(stack.redis_url).password or ""
    try:
        spare.start()
        with GcsFront(stack.gcs_url) as front:
            yield Place(stack, name, folder, spare, front)
    finally:
        spare.remove()
        drop_database(stack.database_url, name)


class Scene:
    """All that one schedule has to itself; gone after the `with` block."""

    def __init__(self, place: Place, schedule: Schedule) -> None:
        self.place = place
        self.schedule = schedule
        self._number = next(_NUMBERS)
        self._stack = ExitStack()
        self.machines: list[Machine] = []
        self.retired: list[Machine] = []
        self.logs: list[Path] = []

    def __enter__(self) -> "Scene":
        with ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _set_up(self, stack: ExitStack) -> None:
        place, name = self.place, f"maintenance_test_{os.getpid()}_{self._number}_c"
        server = place.stack.database_url
        url = create_database(server, name, template=place.template)
        stack.callback(drop_database, server, name)
        self.database = TestDatabase(url)
        # Each statement by itself: a third of the round trips that making and judging a world would take.
        self.database.engine = self.database.engine.execution_options(isolation_level="AUTOCOMMIT")
        stack.callback(self.database.engine.dispose)
        bucket = create_bucket(place.front.upstream, name.replace("_", "-"))
        stack.callback(drop_bucket, place.front.upstream, bucket)
        self.bucket = bucket
        place.front.clear()
        place.front.created.clear()
        place.front.requests.clear()
        self.redis = redis.Redis.from_url(place.stack.redis_url, decode_responses=True)
        self.spare = redis.Redis.from_url(place.spare.url, decode_responses=True)
        for client in (self.redis, self.spare):
            stack.callback(client.close)
            lose_everything(client)
        self.clock = FileClock(place.folder / f"{self._number}.clock")
        self.clock.set(NOON)
        self.account = Account(self.clock)
        self.stripe = stack.enter_context(StripeServer(self.account))
        behind = {
            "postgres": _address(url),
            "redis": _address(place.stack.redis_url),
            "gcs": _address(place.front.url),
            "stripe": _address(self.stripe.url),
        }
        self.proxies = {each: stack.enter_context(Proxy(behind[each])) for each in BACKENDS}
        self.tasks = stack.enter_context(Tasks(self.schedule)) if self.schedule.shards > 1 else None
        self.environ = {
            "DATABASE_URL": through(self.proxies["postgres"], url),
            "REDIS_URL": through(self.proxies["redis"], place.stack.redis_url),
            "STORAGE_EMULATOR_HOST": through(self.proxies["gcs"], place.front.url),
            "STRIPE_API_BASE": through(self.proxies["stripe"], self.stripe.url),
            "GCS_BUCKET_NAME": bucket,
            "STRIPE_SECRET_KEY": self.account.secret_key,
            "STRIPE_METER_PAGES": self.account.meter.id,
            "STRIPE_TAKEOVER_AT": TAKEOVER,
            "STRIPE_RATE": "1000",
            "STRIPE_READ_RATE": "1000",
            "LOCK_TTL_SECONDS": str(LOCK_TTL_SECONDS),
            **(self.tasks.environ if self.tasks else {}),
        }
        with self.database.engine.begin() as connection:
            bind_identity(connection, database_target(self.environ), NOON.replace(year=2020), livemode=False)
        self.world = World(self.schedule.seed, self.database, place.front, bucket, self.account, self.clock)
        stack.callback(self.close_machines)
        for number in range(len(self.schedule.skews)):
            self.machines.append(self._machine(number))

    def _machine(self, number: int) -> Machine:
        log = self.place.folder / f"{self._number}-{len(self.logs)}.log"
        self.logs.append(log)
        skew = timedelta(seconds=self.schedule.skews[number])
        environ = dict(self.environ)
        if self.schedule.redis == f"cut off from {number}":
            environ["REDIS_URL"] = _NOBODY
        elif self.schedule.redis == "absent":
            # On Cloud Run, an installation with no Redis.
            del environ["REDIS_URL"]
            environ["K_SERVICE"] = "chaos"
        return Machine(environ, self.clock.file, skew, log, self.schedule.shards)

    def replace_the_dead(self) -> None:
        """A new machine in the place of each that was killed."""
        for number, machine in enumerate(self.machines):
            if machine.was_killed:
                self.retired.append(machine)
                self.machines[number] = self._machine(number)

    def close_machines(self) -> int:
        """End all machines; give how many did not end when they were told to."""
        machines = [*self.machines, *self.retired]
        self.machines, self.retired = [], []
        return sum(not machine.close() for machine in machines)

    @property
    def secrets(self) -> list[str]:
        """What must not be said by anybody."""
        urls = [self.environ["DATABASE_URL"], self.environ["REDIS_URL"]]
        passwords = [urlsplit(url).password for url in urls]
        return [each for each in (*urls, *passwords, self.account.secret_key) if each]


def _address(url: str) -> Address:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def through(proxy: Proxy, url: str) -> str:
    """The same address, by way of a proxy."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{proxy.host}:{proxy.port}"))
