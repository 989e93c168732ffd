"""The Stripe stand-in as an HTTP server, in a thread of this process or as a process of its own.

    with StripeServer(Account(clock)) as stripe:
        StripeClient(account.secret_key, base_addresses={"api": stripe.url})

As a process (`python -m devstack.stripe_server`) it runs on the system clock, takes every customer for an existing one,
and prints one JSON line when it listens. It listens on 127.0.0.1 only, and ends with Ctrl-C, SIGTERM or the end of its
standard input, so that it never outlives its owner.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from aiohttp import web

from devstack import guardian
from devstack.guardian import StartError
from devstack.standalone import asked_to_end
from devstack.stripe_account import Account
from devstack.stripe_front import OWN_PATHS, Front
from shared.clock import SystemClock

_HOST: Final = "127.0.0.1"
_START_ATTEMPTS: Final = 5
# How long a stop waits for calls in flight before it cuts them. Not 0, which would mean for ever.
_PATIENCE_S: Final = 0.01
_BACKLOG: Final = 1024


@dataclass(frozen=True)
class Recorded:
    """A request as it came over the wire, and the status it was answered with; None: it got no answer."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    status: int | None
    at: datetime


class _Listening:
    """What a starting thread says: that it listens, or why it cannot."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None


class StripeServer:
    """An account's HTTP front. `latency`, in seconds, is what every answer takes; it may be changed at any time.

    A port of 0 stands for a free one, which stays the same over `stop()` and `start()`. `requests` has what was sent,
    in the order of arrival, unless `record` is off. Raises StartError when it cannot listen.
    """

    def __init__(self, account: Account, *, latency: float = 0.0, port: int = 0, record: bool = True) -> None:
        self.account = account
        self.latency = latency
        self.port = port
        self.record = record
        self.requests: list[Recorded] = []
        self._any_port = port == 0
        self._front = Front(account)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{_HOST}:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and come back when connections are accepted."""
        if self._thread is not None:
            return
        listening = _Listening()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(listening),), name="stripe", daemon=True)
        self._thread.start()
        listening.done.wait()
        if listening.error is not None:
            self._thread.join()
            self._thread = None
            raise StartError(f"The Stripe stand-in cannot listen on {self.url}: {listening.error}.")

    def stop(self) -> None:
        """Cut what is in flight and refuse connections from now on."""
        if self._thread is None or self._loop is None or self._stopped is None:
            return
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._thread = None

    async def _serve(self, listening: _Listening) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        # A client that gives up ends its call at once, so that its customer is free again.
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=_PATIENCE_S)
        try:
            await runner.setup()
            await self._listen(runner)
        except (OSError, StartError) as error:
            listening.error = error
        else:
            listening.done.set()
            await self._stopped.wait()
        finally:
            await runner.cleanup()
            listening.done.set()

    async def _listen(self, runner: web.ServerRunner) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self._any_port:
                self.port = guardian.free_port()
            try:
                await web.TCPSite(runner, _HOST, self.port, backlog=_BACKLOG).start()
            except OSError:
                # Another process was faster to take it.
                if not self._any_port or attempt == _START_ATTEMPTS:
                    raise
            else:
                self._any_port = False
                return

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        target = request.raw_path
        reaction = self._front.react(request.method, target, request.headers, body)
        try:
            if self.record and not target.startswith(OWN_PATHS):
                self.requests.append(
                    Recorded(
                        request.method, target, dict(request.headers), body, reaction.status, self.account.clock.now()
                    )
                )
            delay = self.latency + reaction.delay
            if delay:
                await asyncio.sleep(delay)
            if reaction.hang:
                await asyncio.Event().wait()
        finally:
            reaction.finish()
        answer = reaction.answer
        if answer is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)  # goes nowhere
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C, SIGTERM or the end of standard input; give the process's exit code."""
    given = _parse(arguments)
    account = Account(SystemClock(), livemode=given.livemode)
    account.any_customer = True
    if given.secret_key is not None:
        account.secret_key = given.secret_key
    ended = asked_to_end()
    try:
        with StripeServer(account, latency=given.latency, port=given.port, record=not given.no_record) as server:
            shown = {"url": server.url, "secret_key": account.secret_key, "meter": account.meter.id}
            sys.stdout.write(json.dumps(shown) + "\n")
            sys.stdout.flush()
            ended.wait()
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parse(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m devstack.stripe_server", description="A stand-in for Stripe.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="what every answer takes")
    parser.add_argument("--secret-key", help="the key to accept; the default is a random one")
    parser.add_argument("--livemode", action="store_true", help="play a live account")
    parser.add_argument("--no-record", action="store_true", help="do not keep the requests")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
