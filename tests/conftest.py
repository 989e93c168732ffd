"""The servers that tests run on, and a fresh database for each."""

import io
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from devstack.accounts import add_plans
from devstack.buckets import create_bucket, drop_bucket
from devstack.databases import create_database, drop_database
from devstack.gcs_front import GcsFront
from devstack.stack import Stack
from devstack.valkey import ValkeyServer
from functions.registry import JOBS
from ops.engine import make_engine
from ops.host_indexes import build_host_indexes
from ops.migrate import bind_identity, upgrade_schema
from shared.clock import Clock, Timer
from shared.database_url import database_target
from shared.invocation import Invocation
from shared.outcome import Outcome
from shared.runner import run_job
from shared.services import Services
from shared.tables import metadata
from tests.support.clock import NOON, ManualClock, VirtualTimer
from tests.support.database import TestDatabase
from tests.support.memory import servers_root
from tests.support.programs import PATIENCE_S, Program, Start
from tests.support.redis import lose_everything
from tests.support.serving import Functions

hypothesis_settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
hypothesis_settings.load_profile("tests")

# Names of this process's databases: a server given by DATABASE_URL may serve several test runs at once.
_NUMBERS = itertools.count(1)
# Not worth the wait here: what a crash of the server loses is the demo's and the benchmarks' concern.
_FAST = {"fsync": "off", "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0"}


def _name(purpose: str) -> str:
    return f"maintenance_test_{os.getpid()}_{next(_NUMBERS)}_{purpose}"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Real servers for this process."""
    with Stack(os.environ, root=servers_root(), postgres_settings=_FAST) as running:
        yield running


@pytest.fixture(scope="session")
def service_template(stack: Stack) -> Iterator[str]:
    """A database with the service's tables and plans, and nothing of ours."""
    name = _name("service")
    engine = make_engine(database_target({"DATABASE_URL": create_database(stack.database_url, name)}), {})
    with engine.begin() as connection:
        metadata.create_all(connection)
        add_plans(connection)
    engine.dispose()
    yield name
    drop_database(stack.database_url, name)


@pytest.fixture(scope="session")
def template(stack: Stack, service_template: str) -> Iterator[str]:
    """The same with our schema, bound to no environment yet."""
    name = _name("template")
    url = create_database(stack.database_url, name, template=service_template)
    engine = make_engine(database_target({"DATABASE_URL": url}), {})
    with engine.begin() as connection:
        upgrade_schema(connection)
    engine.dispose()
    build_host_indexes(database_target({"DATABASE_URL": url}))
    yield name
    drop_database(stack.database_url, name)


MakeDatabase = Callable[[str | None], TestDatabase]


@pytest.fixture
def make_database(stack: Stack) -> Iterator[MakeDatabase]:
    """Makes databases, empty or from a template, that are gone after the test."""
    made: list[tuple[str, TestDatabase]] = []

    def make(from_template: str | None) -> TestDatabase:
        name = _name("db")
        database = TestDatabase(create_database(stack.database_url, name, template=from_template))
        made.append((name, database))
        return database

    yield make
    for name, database in made:
        database.engine.dispose()
        drop_database(stack.database_url, name)


@pytest.fixture
def database(make_database: MakeDatabase, template: str) -> TestDatabase:
    """A fresh database, ready for jobs."""
    fresh = make_database(template)
    with fresh.engine.begin() as connection:
        bind_identity(connection, fresh.target, NOON.replace(year=2020), livemode=False)
    return fresh


@pytest.fixture
def redis_client(stack: Stack) -> Iterator["redis.Redis"]:
    """A client of the Redis server, in which nothing of ours is left from before."""
    client = redis.Redis.from_url(stack.redis_url, decode_responses=True)
    lose_everything(client)
    yield client
    client.close()


@pytest.fixture
def bucket(stack: Stack) -> Iterator[str]:
    """The name of a fresh, empty bucket."""
    name = create_bucket(stack.gcs_url, _name("bucket").replace("_", "-"))
    yield name
    drop_bucket(stack.gcs_url, name)


@pytest.fixture
def gcs_front(stack: Stack) -> Iterator[GcsFront]:
    """A front before the storage server, which plays faults."""
    with GcsFront(stack.gcs_url) as front:
        yield front


@pytest.fixture
def environ(stack: Stack, database: TestDatabase, redis_client: "redis.Redis") -> dict[str, str]:  # noqa: ARG001
    """The settings of a whole environment; tests change what they are about."""
    return {"DATABASE_URL": database.url, "REDIS_URL": stack.redis_url}


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands at noon of 15 May 2026 until it is moved."""
    return ManualClock()


class Environment:
    """Services on the test's servers, what they logged, and a short way to run a job."""

    def __init__(self, environ: Mapping[str, str], clock: Clock, timer: Timer | None = None) -> None:
        self.stream = io.StringIO()
        self.services = Services(environ, clock, self.stream, timer)

    def run(self, job: str = "period_reset", *, slot: datetime | None = None, **fields: object) -> Outcome:
        """Run a job as a firing of a slot, or by hand."""
        trigger = "schedule" if slot else "manual"
        return run_job(self.services, JOBS[job], Invocation(trigger=trigger, slot=slot, **fields))  # type: ignore[arg-type]

    @property
    def log(self) -> str:
        """Everything logged so far, as text."""
        return self.stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        """Everything logged so far, line by line."""
        return [json.loads(line) for line in self.log.splitlines()]


MakeEnvironment = Callable[..., Environment]


@pytest.fixture
def make_environment(environ: dict[str, str], clock: ManualClock) -> Iterator[MakeEnvironment]:
    """Makes environments: the test's settings with changes (None takes one away), and a clock.

    With `virtual`, waiting takes no time.
    """
    made: list[Environment] = []

    def make(
        changes: Mapping[str, str | None] | None = None, clock: Clock = clock, *, virtual: bool = False
    ) -> Environment:
        settings = {name: value for name, value in {**environ, **(changes or {})}.items() if value is not None}
        made.append(Environment(settings, clock, VirtualTimer() if virtual else None))
        return made[-1]

    yield make
    for environment in made:
        environment.services.close()


@pytest.fixture
def environment(make_environment: MakeEnvironment) -> Environment:
    """The test's environment."""
    return make_environment()


@pytest.fixture
def functions(tmp_path: Path, environ: dict[str, str]) -> Iterator[Functions]:
    """Serves functions over HTTP."""
    with ExitStack() as stack:
        yield Functions(tmp_path, environ, stack)


@pytest.fixture
def own_redis(stack: Stack, tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Redis server that the test may stop."""
    server = ValkeyServer((stack.folder or tmp_path) / "own-redis")
    server.start()
    yield server
    server.remove()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start commands with a home folder of their own; whatever a test leaves of them is ended afterwards."""
    # A shell lets what it starts in the background ignore Ctrl-C, and children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started: list[Program] = []

    def start(module: str, *arguments: str, **settings: str) -> Program:
        started.append(Program(tmp_path, module, *arguments, **settings))
        return started[-1]

    yield start
    for owner in started:
        if owner.process.poll() is None:
            owner.process.kill()
        owner.process.wait(PATIENCE_S)
        assert owner.process.stdout is not None
        owner.process.stdout.close()
    signal.signal(signal.SIGINT, before)
