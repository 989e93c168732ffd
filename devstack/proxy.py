"""A TCP proxy on 127.0.0.1 in a thread of this process, which breaks connections on command or at a chosen byte.

    with Proxy(("127.0.0.1", 5432)) as proxy:
        connect(proxy.host, proxy.port)
        proxy.reset()                                             # all connections, now
        proxy.plan(Fault("cut", after=900, side="down"))          # once 900 more bytes of answers have gone through
        proxy.plan(Fault("blackhole", connection=2, seconds=0.5)) # the second connection from now on, for half a second
        proxy.heal()

| kind | what it does |
|---|---|
| cut | both ends are closed in good order |
| reset | both ends get a RST |
| delay | each piece of data takes `seconds` longer |
| slow | no more than `rate` bytes a second go through, in each direction |
| blackhole | bytes vanish and nobody is told; after `seconds`, if given, a reset |
| refuse | nobody listens: a new connection is refused; those that are open stay |
| call | `action` is called, and nothing passes until it has come back |

What a blackhole has swallowed cannot be brought back: such a connection ends by a reset, also when all is healed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self

from devstack import guardian
from devstack.guardian import StartError

Address = tuple[str, int]
Kind = Literal["cut", "reset", "delay", "slow", "blackhole", "refuse", "call"]
Side = Literal["up", "down", "both"]

_HOST: Final = "127.0.0.1"
_START_ATTEMPTS: Final = 5
_BACKLOG: Final = 256
_CHUNK: Final = 64 * 1024
_NO_LINGER: Final = struct.pack("ii", 1, 0)


@dataclass
class Fault:
    """A fault that is planned: played once, when `after` bytes have gone through to that `side`.

    Bytes are those of all connections, or of the one that `connection` names: 1 is the next to come. With `after` 0 it
    is played as soon as a connection is made. `everywhere`: it strikes all connections, and not just that one.
    """

    kind: Kind
    after: int = 0
    side: Side = "both"
    connection: int | None = None
    everywhere: bool = False
    seconds: float = 0.0
    rate: int = 0
    action: Callable[[], object] | None = None
    seen: int = 0
    # The number of the connection that it waits for, fixed when it is planned.
    waits_for: int | None = None

    def is_for(self, number: int, side: str) -> bool:
        """Whether bytes of a connection in a direction count for it."""
        return self.waits_for in (None, number) and self.side in ("both", side)


@dataclass
class _Ways:
    """How bytes go through now, everywhere or on one connection."""

    delay: float = 0.0
    rate: int = 0
    is_black: bool = False

    def wait(self, size: int) -> float:
        """Seconds that a piece of data takes."""
        return self.delay + (size / self.rate if self.rate else 0.0)


@dataclass(eq=False)
class _Connection:
    """A client's connection, and the one to the server behind."""

    number: int
    client: socket.socket
    server: socket.socket | None = None
    ways: _Ways = field(default_factory=_Ways)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    is_closed: bool = False

    def close(self, *, hard: bool) -> None:
        """End both sides; hard: with a RST."""
        self.is_closed = True
        current = asyncio.current_task()
        for task in self.tasks:
            if task is not current:
                task.cancel()
        for each in (self.client, self.server):
            if each is not None and each.fileno() >= 0:
                # Whoever waits for the socket is told first: closing it does not take it off the loop.
                for remove in (asyncio.get_running_loop().remove_reader, asyncio.get_running_loop().remove_writer):
                    remove(each)
                with contextlib.suppress(OSError):
                    if hard:
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    else:
                        each.shutdown(socket.SHUT_RDWR)
                each.close()


class Proxy:
    """Passes bytes on while the `with` block lasts, as faults allow.

    `upstream` may be replaced at any time: new connections go to the new address. `accepted` counts connections,
    `passed` bytes, `played` the faults that were planned and have come. Raises StartError when it cannot listen.
    """

    def __init__(self, upstream: Address) -> None:
        self.upstream = upstream
        self.host = _HOST
        self.port = 0
        self.accepted = 0
        self.passed = {"up": 0, "down": 0}
        self.played: list[Kind] = []
        self._ways = _Ways()
        self._plan: list[Fault] = []
        self._endings: list[asyncio.TimerHandle] = []
        self._open: dict[int, _Connection] = {}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._open)

    @property
    def planned(self) -> int:
        """How many faults are planned and have not come yet."""
        return len(self._plan)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="proxy", daemon=True)
        self._thread.start()
        self._started.wait()
        self._in_loop(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
            self._thread = None

    # --- faults at once, on all connections or on the one of that number, counted from 1

    def cut(self, number: int | None = None) -> None:
        """Close connections in good order."""
        self._in_loop(lambda: self._close(number, hard=False))

    def reset(self, number: int | None = None) -> None:
        """End connections by a RST."""
        self._in_loop(lambda: self._close(number, hard=True))

    def delay(self, seconds: float, number: int | None = None) -> None:
        """Let each piece of data take so much longer."""
        self._in_loop(lambda: self._set(number, delay=seconds))

    def slow(self, rate: int, number: int | None = None) -> None:
        """Let through so many bytes a second."""
        self._in_loop(lambda: self._set(number, rate=rate))

    def blackhole(self, number: int | None = None) -> None:
        """Let everything vanish, until all is healed."""
        self._in_loop(lambda: self._set(number, is_black=True))

    def refuse(self) -> None:
        """Accept no more connections."""
        self._in_loop(self._unlisten)

    def plan(self, *faults: Fault) -> None:
        """Have faults played later; they count from now on."""

        def add() -> None:
            for fault in faults:
                if fault.connection is not None:
                    fault.waits_for = self.accepted + fault.connection
                self._plan.append(fault)

        self._in_loop(add)

    def heal(self) -> None:
        """Forget all faults, also the planned ones, and listen. What a blackhole has swallowed from ends by a reset."""

        def do() -> None:
            self._plan.clear()
            for ending in self._endings:
                ending.cancel()
            self._endings.clear()
            for connection in list(self._open.values()):
                if self._ways.is_black or connection.ways.is_black:
                    connection.close(hard=True)
                    self._open.pop(connection.number, None)
                connection.ways = _Ways()
            self._ways = _Ways()
            self._listen()

        self._in_loop(do)

    # --- in the thread

    def _in_loop(self, action: Callable[[], Any]) -> None:
        """Do something in the loop's thread, and wait for it, wherever we are."""
        if threading.current_thread() is self._thread:
            action()
            return
        done: Future[None] = Future()

        def do() -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001  whatever it is, it is the caller's
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(do)
        done.result()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stopped.wait()
        self._unlisten()
        self._close(None, hard=True)

    def _listen(self) -> None:
        if self._listener is not None:
            return
        for attempt in range(1, _START_ATTEMPTS + 1):
            port = self.port or guardian.free_port()
            try:
                listener = socket.create_server((_HOST, port), backlog=_BACKLOG)
            except OSError as error:
                # Another process was faster to take it.
                if self.port or attempt == _START_ATTEMPTS:
                    raise StartError(f"The proxy cannot listen on {_HOST}:{port}: {error}.") from error
            else:
                listener.setblocking(False)
                self.port, self._listener = port, listener
                self._loop.add_reader(listener, self._accept, listener)
                return

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        # Not by a task: one that is cancelled just after it accepted would lose the connection, and nobody close it.
        try:
            client, _ = listener.accept()
        except OSError:
            # Whoever came is gone again.
            return
        self.accepted += 1
        connection = _Connection(self.accepted, client)
        self._open[connection.number] = connection
        connection.tasks.append(self._loop.create_task(self._carry(connection)))

    async def _carry(self, connection: _Connection) -> None:
        """Connect to the server behind, and pass bytes both ways until both have ended."""
        try:
            connection.server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            for each in (connection.client, connection.server):
                each.setblocking(False)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(connection.server, self.upstream)
            self._play(connection, "both", 0)
            client, server = connection.client, connection.server
            connection.tasks += [
                self._loop.create_task(self._pump(connection, "up", client, server)),
                self._loop.create_task(self._pump(connection, "down", server, client)),
            ]
            await asyncio.gather(*connection.tasks[1:])
            connection.close(hard=False)
        except OSError:
            connection.close(hard=True)
        except asyncio.CancelledError:
            if not connection.is_closed:
                connection.close(hard=True)
        finally:
            self._open.pop(connection.number, None)

    async def _pump(self, connection: _Connection, side: Side, source: socket.socket, target: socket.socket) -> None:
        while not connection.is_closed:
            data = await self._loop.sock_recv(source, _CHUNK)
            if not data:
                # The other direction may go on.
                if not self._is_black(connection):
                    target.shutdown(socket.SHUT_WR)
                return
            while data and not connection.is_closed:
                piece = data[: self._until_next(connection, side)]
                data = data[len(piece) :]
                wait = self._ways.wait(len(piece)) + connection.ways.wait(len(piece))
                if wait:
                    await asyncio.sleep(wait)
                if not (connection.is_closed or self._is_black(connection)):
                    self.passed[side] += len(piece)
                    await self._loop.sock_sendall(target, piece)
                self._play(connection, side, len(piece))

    def _is_black(self, connection: _Connection) -> bool:
        return self._ways.is_black or connection.ways.is_black

    def _until_next(self, connection: _Connection, side: str) -> int:
        """How many bytes may pass before the next fault is due."""
        return (
            min((f.after - f.seen for f in self._plan if f.is_for(connection.number, side)), default=_CHUNK) or _CHUNK
        )

    def _play(self, connection: _Connection, side: Side, size: int) -> None:
        """Count bytes that have passed, and play what is due by now; `size` 0: the connection has just been made."""
        due = []
        for fault in list(self._plan):
            if fault.is_for(connection.number, side) or (not size and fault.waits_for in (None, connection.number)):
                fault.seen += size
                if fault.seen >= fault.after:
                    due.append(fault)
                    self._plan.remove(fault)
        for fault in due:
            self.played.append(fault.kind)
            self._strike(fault, None if fault.everywhere else connection.number)

    def _strike(self, fault: Fault, number: int | None) -> None:
        if fault.kind in ("cut", "reset"):
            self._close(number, hard=fault.kind == "reset")
        elif fault.kind == "refuse":
            self._unlisten()
        elif fault.kind == "call" and fault.action is not None:
            fault.action()
        elif fault.kind == "delay":
            self._set(number, delay=fault.seconds)
        elif fault.kind == "slow":
            self._set(number, rate=fault.rate)
        elif fault.kind == "blackhole":
            self._set(number, is_black=True)
            if fault.seconds:
                self._endings.append(self._loop.call_later(fault.seconds, self._end_blackhole, number))

    def _end_blackhole(self, number: int | None) -> None:
        if number is None:
            self._ways.is_black = False
        self._close(number, hard=True)

    def _set(self, number: int | None, **ways: Any) -> None:
        """Change how bytes go through everywhere, or on one connection."""
        if number is None:
            self._ways = replace(self._ways, **ways)
        elif number in self._open:
            self._open[number].ways = replace(self._open[number].ways, **ways)

    def _close(self, number: int | None, *, hard: bool) -> None:
        for connection in list(self._open.values()):
            if number in (None, connection.number):
                connection.close(hard=hard)
                self._open.pop(connection.number, None)
