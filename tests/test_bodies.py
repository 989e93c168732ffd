"""What a hostile client sends over HTTP: slowly, too much, broken, or in headers that would forge a line of the log."""

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from devstack.databases import create_database, drop_database
from devstack.serving import Served
from devstack.stack import Stack
from ops.migrate import migrate
from shared.database_url import database_target
from tests.support.clock import NOON
from tests.support.serving import Functions, request

FORGED = '"}\\n{"severity": "EMERGENCY", "message": "all is lost"}'


@pytest.fixture(scope="module")
def served(stack: Stack, service_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One function for all of them: each must leave it as good as it was."""
    with ExitStack() as cleanup:
        name = f"{service_template}_{secrets.token_hex(4)}"
        url = create_database(stack.database_url, name, template=service_template)
        cleanup.callback(drop_database, stack.database_url, name)
        migrate(database_target({"DATABASE_URL": url}), NOON)
        environ = {"DATABASE_URL": url, "REDIS_URL": stack.redis_url}
        yield Functions(tmp_path_factory.mktemp("bodies"), environ, cleanup).serve()


def connect(served: Served) -> socket.socket:
    parts = urlsplit(served.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)


def sent(served: Served, data: bytes) -> bytes:
    """Send bytes and no more; give all that comes back until the server hangs up."""
    answer = b""
    with closing(connect(served)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
    return answer


def is_well(served: Served) -> None:
    """It serves others, and what it logged is whole lines of ours."""
    assert request(served, "POST", body=b'{"dry_run": true}').status == 200
    text = served.log.read_text()
    assert "Traceback" not in text
    assert '"EMERGENCY"' not in text
    ours = [line for line in text.splitlines() if line.startswith("{")]
    assert all(json.loads(line)["severity"] in ("INFO", "WARNING", "ERROR") for line in ours)


def test_bodies_that_come_slowly_hold_up_nobody_else(served: Served) -> None:
    """A request that is not whole keeps one thread. There are more than so many."""
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(closing(connect(served)))
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{")
        for _ in range(3):
            connection = stack.enter_context(closing(connect(served)))
            connection.sendall(b"POST / HTTP/1.1\r\nHos")
        is_well(served)
    is_well(served)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1",
        b"Content-Length: 1e3",
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"X-Long: " + b"x" * 100_000,
        b"\r\n".join(b"X-%d: x" % number for number in range(1_000)),
        b"X-Nul: a\x00b",
        b"X Blank: a",
        b" folded: a",
    ],
    ids=lambda head: head[:30].decode(),
)
def test_heads_that_are_broken_or_too_much_are_refused(served: Served, head: bytes) -> None:
    answer = sent(served, b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n{}")
    assert answer == b"" or answer.split(b" ")[1][:1] in (b"4", b"5"), answer[:200]
    assert b"completed" not in answer
    is_well(served)


def test_what_comes_after_a_body_is_no_second_request_of_it(served: Served) -> None:
    """A body longer than it said: the rest is a request of its own, or nothing, and never an order to run."""
    answer = sent(served, b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{"dry_run": true}{"force": true}')
    assert b'"dry_run": true' in answer
    assert answer.count(b"completed") == 1
    is_well(served)


@pytest.mark.parametrize(
    "name", ["X-CloudScheduler-ScheduleTime", "X-CloudTasks-TaskName", "Host", "traceparent", "User-Agent"]
)
@pytest.mark.parametrize("value", [FORGED.encode(), "٣é\u2028".encode(), b"\xff\xfe\x80", b"%0d%0aX-Forged:%20yes"])
def test_no_header_forges_a_line_or_a_header(served: Served, name: str, value: bytes) -> None:
    head = b"" if name == "Host" else b"Host: x\r\n"
    body = b'{"dry_run": true}'
    answer = sent(served, b"POST / HTTP/1.1\r\n" + head + name.encode() + b": " + value +
                  b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)  # fmt: skip
    assert b"\r\nX-Forged" not in answer
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")), answer[:200]
    is_well(served)


def test_no_name_in_a_body_forges_a_line(served: Served) -> None:
    """An unknown name is logged as it came."""
    answer = request(served, "POST", body=json.dumps({FORGED.replace("\\n", "\n"): 1}).encode())
    assert (answer.status, answer.fields["field"]) == (400, FORGED.replace("\\n", "\n"))
    is_well(served)


@pytest.mark.parametrize("second", ["2026-05-15T12:00:00Z", "2026-05-15T11:00:00Z", ""])
def test_a_schedule_time_that_comes_twice_starts_no_run(served: Served, second: str) -> None:
    """Whoever adds a header to another's request does not choose the firing, nor have it done twice."""
    name = "X-CloudScheduler-ScheduleTime"
    answer = sent(served, f"POST / HTTP/1.1\r\nHost: x\r\n{name}: 2026-05-15T12:00:00Z\r\n{name}: {second}\r\n"
                          "Content-Length: 0\r\nConnection: close\r\n\r\n".encode())  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 400")
    assert name.encode() in answer
    is_well(served)


@pytest.mark.parametrize(
    "path", [b"/%00", b"/%0a%0dX-Forged:%20yes", b"/\xff\xfe", b"/%ff", b"//evil.example/", b"/" + b"a" * 9000]
)
def test_no_path_forges_a_line_or_a_header(served: Served, path: bytes) -> None:
    answer = sent(served, b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert b"\r\nX-Forged" not in answer
    assert b"completed" not in answer or path.startswith(b"//")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    is_well(served)


@pytest.mark.parametrize("line", [b"POST /", b"POST /nothing", b"PUT /"])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Transfer-Encoding: chunked", b"13880\r\n" + b" " * 80_000 + b"\r\n"),
        (b"Content-Length: 999999999", b""),
    ],
    ids=["chunks without end", "announced and not sent"],
)
def test_a_body_without_end_is_not_waited_for(served: Served, line: bytes, head: bytes, body: bytes) -> None:
    with closing(connect(served)) as connection:
        connection.sendall(line + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
        # As long as the server waits for the rest, nothing comes.
        assert connection.recv(100).startswith(b"HTTP/1.1 4")
    is_well(served)
