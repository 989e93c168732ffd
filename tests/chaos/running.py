"""Plays the schedule of a seed and judges it: for the tests, and for `python -m tests.chaos`."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devstack.accounts import add_plans
from devstack.databases import create_database, drop_database
from devstack.stack import Stack
from ops.engine import make_engine
from ops.host_indexes import build_host_indexes
from ops.migrate import upgrade_schema
from shared.database_url import database_target
from shared.tables import metadata
from tests.chaos.judging import judge
from tests.chaos.place import Place, Scene, a_place
from tests.chaos.playing import Player
from tests.chaos.schedule import Schedule, draw

FAST = {"fsync": "off", "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0"}


@dataclass
class Result:
    """What came of a schedule. `seen` counts answers by status, and what struck."""

    findings: list[str]
    seen: Counter[str]
    seconds: float


def play(place: Place, seed: int) -> Result:
    """Play the schedule of a seed."""
    return play_schedule(place, draw(seed))


def play_schedule(place: Place, schedule: Schedule) -> Result:
    """Play a schedule."""
    began = time.monotonic()
    with Scene(place, schedule) as scene:
        record = Player(scene).play()
        findings = judge(scene, record)
        seen = Counter(told.status for told in record.told)
        seen["shards completed"] = sum(told.shard > 0 and told.status == "completed" for told in record.told)
        seen.update(record.struck)
        for proxy in scene.proxies.values():
            seen.update(proxy.played)
        for log in scene.logs:
            log.unlink(missing_ok=True)
            log.with_suffix(".err").unlink(missing_ok=True)
    return Result(findings, seen, time.monotonic() - began)


def make_template(server_url: str, name: str) -> None:
    """A database with the service's tables and plans and our schema, bound to no environment yet."""
    target = database_target({"DATABASE_URL": create_database(server_url, name)})
    engine = make_engine(target, {})
    with engine.begin() as connection:
        metadata.create_all(connection)
        add_plans(connection)
        upgrade_schema(connection)
    engine.dispose()
    build_host_indexes(target)


@contextmanager
def a_whole_place() -> Iterator[Place]:
    """Servers of its own, and a place on them."""
    with Stack(os.environ, postgres_settings=FAST) as stack, tempfile.TemporaryDirectory() as folder:
        name = f"maintenance_test_{os.getpid()}_template"
        try:
            make_template(stack.database_url, name)
            with a_place(stack, name, Path(folder)) as place:
                yield place
        finally:
            drop_database(stack.database_url, name)
