"""A Redis that is full of another's values, that refuses commands, or that is no Redis: no reason to stop.

Values under the names of locks are in tests/chaos/test_crowds.py.
"""

import json
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from devstack.valkey import ValkeyServer
from shared.clock import format_rfc3339
from shared.outcome import Status
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON
from tests.support.database import TestDatabase

RESULT = f"maintenance:period_reset:0:result:{format_rfc3339(NOON)}"
LOCK = "maintenance:period_reset:0:lock"
YEAR_MS = 365 * 24 * 3600 * 1000


def is_done(database: TestDatabase, environment: Environment, *, degraded: bool) -> None:
    """Fire, and hold that the job itself ran: no stored result was believed, and no error came out."""
    outcome = environment.run(slot=NOON)
    assert (outcome.status, outcome.success, outcome.counts["updated_count"]) == (Status.COMPLETED, True, 1)
    assert outcome.details.get("degraded") == (["redis"] if degraded else None)
    assert [line["event"] for line in environment.lines()].count("degraded") == int(degraded)
    assert not [line for line in environment.lines() if line["event"] == "error"]
    assert database.value("SELECT count(*) FROM maintenance.runs WHERE status = 'completed'") == 1


# ---- what stands under a result's name


def stored(environment: Environment, **changes: object) -> dict[str, object]:
    """What is kept of a completed firing that moved nobody, with changes."""
    kept = {
        "database": str(environment.services.settings.database),
        "job": "period_reset",
        "slot": format_rfc3339(NOON),
        "success": True,
        "message": "Period reset completed for 0 free users",
        "run_id": 1,
        "counts": {"updated_count": 0},
    }
    return {**kept, **changes}


def test_what_is_kept_is_believed_if_it_is_whole(environment: Environment, redis_client: "redis.Redis") -> None:
    redis_client.set(RESULT, json.dumps(stored(environment)))
    assert environment.run(slot=NOON).status is Status.REPLAYED


def test_a_count_that_is_none_of_the_jobs_is_not_told_again(
    environment: Environment, redis_client: "redis.Redis"
) -> None:
    redis_client.set(RESULT, json.dumps(stored(environment, counts={"updated_count": 3, "strange": 1})))
    outcome = environment.run(slot=NOON)
    assert (outcome.status, outcome.counts) == (Status.REPLAYED, {"updated_count": 3})


CHANGES: list[dict[str, Any]] = [
    {"job": "stripe_reconcile"},
    {"slot": "2026-05-15T12:00:01Z"},
    {"database": "another"},
    {"success": "yes"},
    {"success": 1},
    {"message": None},
    {"run_id": "1"},
    {"run_id": True},
    {"run_id": 1.0},
    {"counts": None},
    {"counts": [1]},
    {"counts": {"updated_count": "0"}},
    {"counts": {"updated_count": True}},
    {"counts": {"updated_count": 0.5}},
    {"message": "x" * 50_000_000},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: str(changes)[:40])
def test_a_result_of_another_shape_or_of_something_else_is_none(
    database: TestDatabase, environment: Environment, redis_client: "redis.Redis", changes: dict[str, object]
) -> None:
    database.account("ann", "free")
    redis_client.set(RESULT, json.dumps(stored(environment, **changes)))
    is_done(database, environment, degraded=False)


TEXTS = [
    "",
    "no JSON",
    "{",
    "[]",
    "null",
    "7",
    '"text"',
    "[" * 100_000,
    "[" * 60_000,
    "NaN",
    b"\xff\xfe",
    b"\x80\x04K\x01.",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text)[:20])
def test_what_is_no_result_is_none(
    database: TestDatabase, environment: Environment, redis_client: "redis.Redis", text: str | bytes
) -> None:
    database.account("ann", "free")
    redis_client.set(RESULT, text)
    is_done(database, environment, degraded=False)


def test_a_result_that_goes_on_after_its_end_is_none(
    database: TestDatabase, environment: Environment, redis_client: "redis.Redis"
) -> None:
    """What was read of it would be a whole result; but nobody has read what else there is."""
    database.account("ann", "free")
    redis_client.set(RESULT, json.dumps(stored(environment)).ljust(70_000) + "no JSON")
    is_done(database, environment, degraded=False)


TYPES = {
    "list": ("RPUSH", RESULT, "a"),
    "set": ("SADD", RESULT, "a"),
    "zset": ("ZADD", RESULT, "1", "a"),
    "hash": ("HSET", RESULT, "a", "b"),
    "stream": ("XADD", RESULT, "*", "a", "b"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_another_type_under_a_results_name_is_none(
    database: TestDatabase, environment: Environment, redis_client: "redis.Redis", kind: str
) -> None:
    database.account("ann", "free")
    redis_client.execute_command(*TYPES[kind])  # type: ignore[no-untyped-call]
    is_done(database, environment, degraded=False)


def test_a_large_result_is_not_read_whole(environment: Environment, redis_client: "redis.Redis") -> None:
    """A function has half a gigabyte; what comes out of a Redis must not be able to fill it."""
    redis_client.set(RESULT, b"x" * 50_000_000)
    before = redis_client.info("stats")["total_net_output_bytes"]
    assert environment.run(slot=NOON).status is Status.COMPLETED
    assert redis_client.info("stats")["total_net_output_bytes"] - before < 1_000_000


# ---- what stands under a lock's name


@pytest.mark.parametrize("lasting", [YEAR_MS, None], ids=["a year", "for ever"])
def test_a_value_that_outlasts_every_lock_is_nobodys(
    database: TestDatabase, environment: Environment, redis_client: "redis.Redis", lasting: int | None
) -> None:
    """A lock lasts an hour at the most. What lasts a year would stop the job for a year."""
    database.account("ann", "free")
    redis_client.set(LOCK, "somebody else's", px=lasting)
    is_done(database, environment, degraded=True)
    (line,) = [line for line in environment.lines() if line["event"] == "degraded"]
    assert LOCK in line["message"]


def test_the_longest_lock_that_may_be_set_is_respected(environment: Environment, redis_client: "redis.Redis") -> None:
    redis_client.set(LOCK, "another run's", px=3_600_000)
    assert environment.run(slot=NOON).status is Status.BUSY


# ---- commands that are refused


def test_a_redis_that_is_full_stops_nothing(
    database: TestDatabase, make_environment: MakeEnvironment, own_redis: ValkeyServer
) -> None:
    database.account("ann", "free")
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", "1")
        environment = make_environment({"REDIS_URL": own_redis.url})
        is_done(database, environment, degraded=True)
    (line,) = [line for line in environment.lines() if line["event"] == "degraded"]
    assert "OutOfMemoryError" in line["message"]


def test_a_redis_that_has_become_a_replica_stops_nothing(
    database: TestDatabase, make_environment: MakeEnvironment, own_redis: ValkeyServer
) -> None:
    database.account("ann", "free")
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        environment = make_environment({"REDIS_URL": own_redis.url})
        is_done(database, environment, degraded=True)
    (line,) = [line for line in environment.lines() if line["event"] == "degraded"]
    assert "ReadOnlyError" in line["message"]


@pytest.mark.parametrize("rights", ["+get", "-@all", "+@all -eval -evalsha", "+@all -pttl"])
def test_a_login_without_the_rights_is_told_or_not_needed(
    database: TestDatabase, make_environment: MakeEnvironment, own_redis: ValkeyServer, rights: str
) -> None:
    """A right that the run begins with is misconfigured; scripts are needed at its end, and their loss is no error."""
    database.account("ann", "free")
    with redis.Redis.from_url(own_redis.url) as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", ">poor-pw-1", "~*", "&*", "-@all", "+hello", "+client",
                               *rights.split())  # fmt: skip
    address = own_redis.url.rpartition("@")[2].removeprefix("redis://")
    environment = make_environment({"REDIS_URL": f"redis://poor:poor-pw-1@{address}"})
    outcome = environment.run(slot=NOON)
    if outcome.status is Status.MISCONFIGURED:
        assert (outcome.details["setting"], "rights" in outcome.message) == ("REDIS_URL", True)
    else:
        assert (outcome.status, outcome.counts["updated_count"]) == (Status.COMPLETED, 1)
    assert (outcome.status is Status.COMPLETED) == rights.startswith("+@all")
    assert "poor-pw-1" not in environment.log
    assert not [line for line in environment.lines() if line["event"] == "error"]


# ---- what is no Redis


class Saying:
    """A server that answers whatever it is sent with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while self.request.recv(65536):
                    self.request.sendall(answer)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that has heard enough hangs up."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"redis://127.0.0.1:{self.server.server_address[1]}/0"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


ANSWERS = {
    "moved": b"-MOVED 3999 10.0.0.7:6379\r\n" * 4,
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n" * 4,
    "a number": b":7\r\n" * 4,
    "no number": b":seven\r\n" * 4,
    "a negative length": b"$-7\r\n" * 4,
    "a map": b"%1\r\n+a\r\n+b\r\n" * 4,
    "a list": b"*2\r\n+a\r\n+b\r\n" * 4,
    "lists in lists": b"*1\r\n" * 20_000,
    "no type": b"?what\r\n" * 4,
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "OK to everything": b"+OK\r\n" * 4,
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46\r\n",
    "an error that quotes a value": b"-ERR wrong value 'ann@example.org'\r\n" * 4,
    "no UTF-8": b"$2\r\n\xff\xfe\r\n" * 4,
}


@pytest.fixture
def saying(request: pytest.FixtureRequest) -> Iterator[Saying]:
    said = Saying(ANSWERS[request.param])
    yield said
    said.server.shutdown()
    said.server.server_close()


@pytest.mark.parametrize("saying", ANSWERS, indirect=True)
def test_what_is_no_redis_stops_nothing(
    database: TestDatabase, make_environment: MakeEnvironment, saying: Saying
) -> None:
    database.account("ann", "free")
    environment = make_environment({"REDIS_URL": saying.url})
    is_done(database, environment, degraded=True)
    assert "ann@example.org" not in environment.log
