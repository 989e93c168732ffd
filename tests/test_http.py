"""The HTTP contract, as functions-framework serves it."""

import http.client
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from flask import Request
from werkzeug.test import EnvironBuilder

from devstack.databases import create_database, drop_database
from devstack.serving import Served
from devstack.stack import Stack
from functions.registry import JOBS
from ops.migrate import migrate
from shared.database_url import database_target
from shared.entry import entry_points
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.serving import Functions, firing, request
from tests.test_connecting import end_idle_sessions

MAY = datetime(2026, 5, 1, tzinfo=UTC)
MAY_END = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
SCHEDULE_TIME = "X-CloudScheduler-ScheduleTime"


# ---- a firing, from end to end


def test_a_firing_its_repeat_and_a_dry_run(database: TestDatabase, functions: Functions) -> None:
    for number in range(5):
        database.account(f"user {number}", "free")
    served = functions.serve()
    first = firing(served)
    assert first.status == 200
    assert {name: first.fields[name] for name in ("success", "status", "message", "updated_count", "job", "slot")} == {
        "success": True,
        "status": "completed",
        "message": "Period reset completed for 5 free users",
        "updated_count": 5,
        "job": "period_reset",
        "slot": "2026-05-15T12:00:00Z",
    }
    assert first.headers["Content-Type"] == "application/json"
    repeat = firing(served)
    assert (repeat.status, repeat.fields["status"], repeat.fields["run_id"]) == (
        200,
        "replayed",
        first.fields["run_id"],
    )
    assert repeat.fields["updated_count"] == 5
    database.account("late", "free")
    dry = firing(served, body=b'{"dry_run": true}')
    assert (dry.status, dry.fields["dry_run"], dry.fields["updated_count"], dry.fields["slot"]) == (200, True, 1, None)
    assert database.period("late") == (None, None)


def test_the_jobs_time_is_the_clocks(database: TestDatabase, functions: Functions) -> None:
    database.account("ann", "free", MAY, MAY_END)
    served = functions.serve()
    assert firing(served).fields["updated_count"] == 0
    functions.clock.set(NOON + timedelta(days=31))
    assert firing(served, slot=NOON + timedelta(days=31)).fields["updated_count"] == 1
    assert database.period("ann")[0] == datetime(2026, 6, 1, tzinfo=UTC)


def test_a_forced_run_that_carries_the_next_firings_time_does_not_suppress_it(
    database: TestDatabase, functions: Functions
) -> None:
    served = functions.serve()
    next_firing = NOON + timedelta(hours=12, minutes=30)
    by_hand = firing(served, slot=next_firing)
    assert (by_hand.fields["status"], by_hand.fields["slot"]) == ("completed", None)
    database.account("ann", "free")
    functions.clock.set(next_firing)
    firing_itself = firing(served, slot=next_firing)
    assert (firing_itself.fields["status"], firing_itself.fields["updated_count"]) == ("completed", 1)


def test_a_paused_job_answers_200(database: TestDatabase, functions: Functions) -> None:
    database.execute(
        "INSERT INTO maintenance.controls VALUES ('period_reset', :until, 'Ann', 'a migration')",
        until=NOON + timedelta(hours=1),
    )
    answer = firing(functions.serve())
    assert (answer.status, answer.fields["status"], answer.fields["success"]) == (200, "paused", True)
    assert answer.fields["paused_until"] == "2026-05-15T13:00:00Z"
    assert answer.fields["paused_by"] == "Ann"
    assert answer.fields["paused_why"] == "a migration"


def test_a_job_that_runs_elsewhere_is_busy(functions: Functions, redis_client: "redis.Redis") -> None:
    redis_client.set("maintenance:period_reset:0:lock", "another", px=30_000)
    answer = firing(functions.serve())
    assert (answer.status, answer.fields["status"], answer.fields["success"]) == (409, "busy", False)
    assert int(answer.headers["Retry-After"]) > 0


def test_the_log_is_one_json_object_a_line(database: TestDatabase, functions: Functions) -> None:
    database.account("ann", "free")
    served = functions.serve()
    run_id = firing(served).fields["run_id"]
    start, finish = [line for line in served.log_lines() if line["event"] in ("start", "finish")]
    assert (start["severity"], start["job"], start["run_id"]) == ("INFO", "period_reset", run_id)
    assert (finish["severity"], finish["status"], finish["updated_count"]) == ("INFO", "completed", 1)
    assert start["slot"] == finish["slot"] == "2026-05-15T12:00:00Z"
    assert "Traceback" not in served.log.read_text()


def test_a_function_pays_only_for_what_its_job_needs(
    database: TestDatabase, functions: Functions, tmp_path: Path
) -> None:
    database.account("ann", "free")
    served = functions.serve({"TEST_MODULES_FILE": str(tmp_path / "modules")})
    assert firing(served).fields["updated_count"] == 1
    assert firing(served, body=b'{"dry_run": true}').status == 200
    assert request(served, "GET").status == 200
    served.stop()  # which makes the worker write down what it has imported
    loaded = set((tmp_path / "modules").read_text().split())
    assert {"pg8000", "redis", "functions.period_reset.job"} <= loaded
    unneeded = {"stripe", "google.cloud.storage", "google.auth", "google.api_core", "google.cloud.sql.connector"}
    assert loaded & (unneeded | {"sqlalchemy", "alembic", "rich", "devstack", "ops"}) == set()


# ---- what is refused


@pytest.fixture(scope="module")
def served(stack: Stack, service_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One function for all the requests that are refused before anything runs."""
    # A module's tests may be dealt out more than once to one process.
    name = f"{service_template}_{secrets.token_hex(4)}"
    url = create_database(stack.database_url, name, template=service_template)
    migrate(database_target({"DATABASE_URL": url}), NOON)
    with ExitStack() as exit_stack:
        environ = {"DATABASE_URL": url, "REDIS_URL": stack.redis_url}
        exit_stack.callback(drop_database, stack.database_url, name)
        yield Functions(tmp_path_factory.mktemp("http"), environ, exit_stack).serve()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff", "body"),
        (b'{"dry_run": "yes"}', "dry_run"),
        (b'{"force": 1}', "force"),
        (b'{"limit": 0}', "limit"),
        (b'{"limit": 1.5}', "limit"),
        (b'{"as_of": "2026-01-01T00:00:00Z"}', "as_of"),
        (b'{"slot": "2026-01-01T00:00:00Z"}', "slot"),
        (b'{"whatever": true}', "whatever"),
    ],
)
def test_a_wrong_body_is_400_and_names_the_field(served: Served, body: bytes, field: str) -> None:
    answer = request(served, "POST", body=body)
    assert (answer.status, answer.fields["status"], answer.fields["field"]) == (400, "bad_request", field)
    assert answer.fields["success"] is False


def test_a_broken_schedule_time_is_400(served: Served) -> None:
    answer = request(served, "POST", headers={"X-CloudScheduler": "true", SCHEDULE_TIME: "half past midnight"})
    assert (answer.status, answer.fields["field"]) == (400, SCHEDULE_TIME)


@pytest.mark.parametrize("size", [64 * 1024 + 1, 1024 * 1024])
def test_a_large_body_is_413(served: Served, size: int) -> None:
    answer = request(served, "POST", body=b" " * size)
    assert (answer.status, answer.fields["status"]) == (413, "too_large")


def test_a_large_body_without_a_length_is_413(served: Served) -> None:
    parts = urlsplit(served.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request(
        "POST", "/", iter([b" " * 50_000] * 4), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_of_64_kib_is_read(served: Served) -> None:
    body = b'{"dry_run": true}'.ljust(64 * 1024)
    assert request(served, "POST", body=body).fields["dry_run"] is True


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "PROPFIND"])
def test_other_methods_are_405(served: Served, method: str) -> None:
    answer = request(served, method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")


@pytest.mark.parametrize("path", ["/run", "/health", "/../etc/passwd", "/?x=1/y", "/robots.txt"])
def test_other_paths_are_404(served: Served, path: str) -> None:
    expected = 200 if path.startswith("/?") else 404
    assert request(served, "GET", path).status == expected
    if expected == 404:
        assert request(served, "POST", path).status == 404


def test_nothing_refused_has_run(served: Served) -> None:
    request(served, "POST", body=b"{")
    assert not [line for line in served.log_lines() if line["event"] == "start" and not line["dry_run"]]


# ---- requests that broke off


def raw(served: Served, data: bytes) -> str:
    """Send bytes, end the sending, and give whatever comes back."""
    parts = urlsplit(served.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.decode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: 17", b""),
        ("Content-Length: 17", b'{"dry_run": '),
        ("Content-Length: 19", b'{"dry_run": true}'),
        ("Transfer-Encoding: chunked", b"11\r\n{"),
        ("Transfer-Encoding: chunked", b'zz\r\n{"dry_run": true}\r\n0\r\n\r\n'),
    ],
    ids=["nothing came", "half came", "blanks missing", "chunk cut off", "no chunk size"],
)
def test_a_body_that_broke_off_starts_no_run(
    database: TestDatabase, functions: Functions, headers: str, body: bytes
) -> None:
    """What is left of a dry run's body would be an order to run."""
    database.account("ann", "free")
    served = functions.serve()
    answer = raw(served, f"POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode() + body)
    assert answer.startswith("HTTP/1.1 400")
    assert '"field": "body"' in answer
    assert database.period("ann") == (None, None)
    assert database.value("SELECT count(*) FROM maintenance.runs") == 0
    assert "Traceback" not in served.log.read_text()


def test_a_time_that_cannot_be_reckoned_with_is_400(served: Served) -> None:
    for year in ("0001", "9999"):
        answer = request(served, "POST", body=f'{{"dry_run": true, "as_of": "{year}-01-01T00:00:00Z"}}'.encode())
        assert (answer.status, answer.fields["field"]) == (400, "as_of")
        answer = request(served, "POST", headers={SCHEDULE_TIME: f"{year}-12-31T23:59:59Z"})
        assert answer.status == 400


def test_a_connection_that_died_in_the_pool_leaves_no_stack_trace_in_the_log(
    database: TestDatabase, functions: Functions
) -> None:
    served = functions.serve()
    assert firing(served).status == 200
    end_idle_sessions(database)
    assert firing(served, slot=None).fields["status"] == "completed"
    assert "Traceback" not in served.log.read_text()


def test_what_nobody_foresaw_is_answered_and_only_the_log_tells_what_it_was(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(ManualClock):
        """A clock that fails when it is first asked."""

        asked = False

        def now(self) -> datetime:
            if not self.asked:
                self.asked = True
                raise RuntimeError("an entrail")
            return super().now()

    entry_point = entry_points(JOBS, environ=environ, clock=Broken())["period_reset"]
    answer = entry_point(Request(EnvironBuilder(method="POST").get_environ()))
    fields = answer.get_json()
    assert (answer.status_code, fields["status"], fields["job"]) == (500, "failed", "period_reset")
    assert "entrail" not in answer.get_data(as_text=True)
    assert fields["error_id"] in capsys.readouterr().out
