"""The proxy passes bytes on as they are, and breaks connections where it was told to."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from devstack.proxy import Fault, Proxy
from tests.support.wait import until


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what comes, until the other side ends; then says that it has."""

    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
            self.request.sendall(b"end")
        except OSError:
            return  # the proxy was told to break the connection


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def upstream() -> Iterator[tuple[str, int]]:
    with _Server(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield ("127.0.0.1", server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: tuple[str, int]) -> Iterator[Proxy]:
    with Proxy(upstream) as running:
        yield running


def connect(proxy: Proxy, seconds: float = 10) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=seconds)


def said(client: socket.socket, data: bytes) -> bytes:
    """What comes back for data."""
    client.sendall(data)
    return received(client, len(data))


def received(client: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if the other side ended."""
    came = b""
    while len(came) < size and (part := client.recv(size - len(came))):
        came += part
    return came


def test_bytes_pass_as_they_are_and_open_connections_are_counted(proxy: Proxy) -> None:
    data = bytes(range(256)) * 4096
    with closing(connect(proxy)) as first, closing(connect(proxy)) as second:
        threading.Thread(target=first.sendall, args=(data,), daemon=True).start()
        assert received(first, len(data)) == data
        assert said(second, b"x") == b"x"
        assert (proxy.open, proxy.accepted) == (2, 2)
        assert proxy.passed == {"up": len(data) + 1, "down": len(data) + 1}
        first.shutdown(socket.SHUT_WR)
        assert received(first, 99) == b"end"
    until(lambda: proxy.open == 0, "both are closed")


def test_a_cut_is_an_end_and_a_reset_is_an_error(proxy: Proxy) -> None:
    with closing(connect(proxy)) as first, closing(connect(proxy)) as second, closing(connect(proxy)) as third:
        for client in (first, second, third):
            assert said(client, b"x") == b"x"
        proxy.cut(1)
        assert first.recv(1) == b""
        proxy.reset(2)
        with pytest.raises(ConnectionResetError):
            second.recv(1)
        assert said(third, b"y") == b"y"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            third.recv(1)
    assert proxy.open == 0


@pytest.mark.parametrize("side", ["up", "down"])
def test_a_planned_fault_comes_at_its_very_byte(proxy: Proxy, side: str) -> None:
    proxy.plan(Fault("cut", after=7, side=side))  # type: ignore[arg-type]
    with closing(connect(proxy)) as first, closing(connect(proxy)) as second:
        assert said(first, b"abc") == b"abc"
        second.sendall(b"defghij")
        assert received(second, 7) in ((b"", b"defg") if side == "up" else (b"defg",))
        # It struck the connection in which the byte was, and is over.
        assert said(first, b"abc") == b"abc"
    assert proxy.passed[side] == 7 + 3
    assert (proxy.played, proxy.planned) == (["cut"], 0)


def test_a_fault_waits_for_its_connection(proxy: Proxy) -> None:
    with closing(connect(proxy)) as before:
        assert said(before, b"x") == b"x"
        proxy.plan(Fault("reset", after=1, connection=2), Fault("cut", after=2, connection=3, side="down"))
        with closing(connect(proxy)) as first, closing(connect(proxy)) as second, closing(connect(proxy)) as third:
            assert said(first, b"abc") == b"abc"
            with pytest.raises(ConnectionError):
                said(second, b"abc")
            assert said(third, b"abc") == b"ab"
        assert said(before, b"x") == b"x"


def test_a_fault_may_strike_everywhere(proxy: Proxy) -> None:
    with closing(connect(proxy)) as first, closing(connect(proxy)) as second:
        assert said(first, b"x") == b"x"
        proxy.plan(Fault("reset", after=1, side="up", everywhere=True))
        second.sendall(b"x")
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_refused_connections_are_refused_and_healed_ones_are_not(proxy: Proxy) -> None:
    with closing(connect(proxy)) as before:
        assert said(before, b"x") == b"x"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert said(before, b"x") == b"x"
        proxy.heal()
        with closing(connect(proxy)) as after:
            assert said(after, b"x") == b"x"


def test_a_blackhole_says_nothing_and_ends_when_it_is_healed(proxy: Proxy) -> None:
    with closing(connect(proxy, seconds=0.2)) as first, closing(connect(proxy)) as second:
        assert said(first, b"x") == b"x"
        proxy.blackhole(1)
        first.sendall(b"y")
        with pytest.raises(TimeoutError):
            first.recv(1)
        assert said(second, b"x") == b"x"
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            first.recv(1)
        assert said(second, b"x") == b"x"


def test_a_blackhole_for_some_time_ends_by_a_reset(proxy: Proxy) -> None:
    proxy.plan(Fault("blackhole", after=1, side="up", everywhere=True, seconds=0.05))
    with closing(connect(proxy)) as client:
        client.sendall(b"xyz")
        with pytest.raises(ConnectionResetError):
            received(client, 3)
    with closing(connect(proxy)) as after:
        assert said(after, b"x") == b"x"


def test_what_is_healed_is_not_struck_by_what_was_to_end_a_blackhole(proxy: Proxy) -> None:
    proxy.plan(Fault("blackhole", after=1, side="up", everywhere=True, seconds=0.1))
    with closing(connect(proxy)) as client:
        client.sendall(b"x")
        until(lambda: proxy.played, "the blackhole is there")
        proxy.heal()
    with closing(connect(proxy, seconds=0.3)) as after:
        assert said(after, b"x") == b"x"
        # Past the moment at which it was to end.
        with pytest.raises(TimeoutError):
            after.recv(1)


def test_delay_and_rate_hold_bytes_up(proxy: Proxy) -> None:
    """No more than that: a lower bound that the machine's load cannot break."""
    with closing(connect(proxy)) as client:
        began = time.monotonic()
        proxy.delay(0.1)
        assert said(client, b"x") == b"x"
        assert time.monotonic() - began >= 0.2
        proxy.heal()
        proxy.slow(10_000, 1)
        began = time.monotonic()
        assert said(client, b"x" * 1000) == b"x" * 1000
        assert time.monotonic() - began >= 0.2


def test_a_call_holds_the_bytes_until_it_is_over(proxy: Proxy) -> None:
    seen: list[int] = []
    proxy.plan(Fault("call", after=3, side="up", action=lambda: seen.append(proxy.passed["up"])))
    with closing(connect(proxy)) as client:
        assert said(client, b"abcdef") == b"abcdef"
    assert seen == [3]


def test_a_call_may_command_the_proxy(proxy: Proxy) -> None:
    proxy.plan(Fault("call", after=3, side="up", action=proxy.reset))
    with closing(connect(proxy)) as client:
        client.sendall(b"abcdef")
        with pytest.raises(ConnectionResetError):
            received(client, 6)


def test_the_server_behind_may_be_replaced_or_away(proxy: Proxy, upstream: tuple[str, int]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        away = closed.getsockname()
    proxy.upstream = away
    with pytest.raises(ConnectionError), closing(connect(proxy)) as client:
        said(client, b"x")
    proxy.upstream = upstream
    with closing(connect(proxy)) as client:
        assert said(client, b"x") == b"x"
