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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from devstack.guardian import StartError
from devstack.standalone import asked_to_end
from devstack.stripe_account import Account
from devstack.stripe_front import OWN_PATHS, Front
from devstack.threaded_server import ThreadedServer
from shared.clock import SystemClock


@dataclass(frozen=True)
class Recorded:
    """A request as it came over the wire, and the status it was answered with; None: it got no answer."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    status: int | None
    at: datetime


class StripeServer(ThreadedServer):
    """An account's HTTP front. `latency`, in seconds, is what every answer takes; it may be changed at any time.

    `requests` has what was sent, in the order of arrival, unless `record` is off. Raises StartError when it cannot
    listen.
    """

    name = "The Stripe stand-in"
    # So that a customer whose call was given up is free again.
    cancels_calls = True

    def __init__(self, account: Account, *, latency: float = 0.0, port: int = 0, record: bool = True) -> None:
        super().__init__(port)
        self.account = account
        self.latency = latency
        self.record = record
        self.requests: list[Recorded] = []
        self._front = Front(account)

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
