"""Databases that the page is tried on, made once: one with a month of history, a hostile one, and a big one."""

import os
import secrets
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from devstack.chromium import MISSING, chromium, chromium_path
from devstack.databases import create_database, drop_database
from devstack.history import seed_month, seed_runs
from devstack.stack import Stack
from ops.migrate import bind_identity
from tests.console.hostile import add_hostile_names
from tests.console.serving import Console, served
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase

Made = Iterator[TestDatabase]


def _made(stack: Stack, template: str, fill: Callable[[TestDatabase], None]) -> Made:
    name = f"maintenance_test_console_{os.getpid()}_{secrets.token_hex(4)}"
    database = TestDatabase(create_database(stack.database_url, name, template=template))
    with database.engine.begin() as connection:
        bind_identity(connection, database.target, NOON.replace(year=2020), livemode=False)
    fill(database)
    database.script("ANALYZE")
    yield database
    database.engine.dispose()
    drop_database(stack.database_url, name)


@pytest.fixture(scope="session")
def month(stack: Stack, template: str) -> Made:
    """A database with a month of history. Nothing may write to it."""
    yield from _made(stack, template, lambda database: seed_month(database.url, NOON))


@pytest.fixture(scope="session")
def hostile(stack: Stack, template: str) -> Made:
    """A database in which every text that a page shows is hostile. Nothing may write to it."""
    yield from _made(stack, template, add_hostile_names)


@pytest.fixture(scope="session")
def big(stack: Stack, template: str) -> Made:
    """A database with 100,000 runs. Nothing may write to it."""

    def fill(database: TestDatabase) -> None:
        seed_month(database.url, NOON)
        seed_runs(database.url, NOON)

    yield from _made(stack, template, fill)


@pytest.fixture
def console(environ: dict[str, str], clock: ManualClock) -> Iterator[Console]:
    """The page on the test's own, empty database."""
    with served(environ, clock) as console:
        yield console


@pytest.fixture
def with_history(month: TestDatabase, clock: ManualClock) -> Iterator[Console]:
    """The page on a month of history."""
    with served({"DATABASE_URL": month.url}, clock, project="bytereview-prod") as console:
        yield console


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser a process. Where there is none, its tests are passed over, but not in CI."""
    path = chromium_path()
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with chromium(path) as running:
        yield running
