"""A function that Cloud Scheduler may fire: it records what arrives, and answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from devstack.scheduler_jobs import Retries, ScheduledJob
from devstack.threaded_server import ThreadedServer
from shared.clock import Clock

# Among the answers: break the connection.
CUT = 0
LOCATION = "projects/bytereview-test/locations/europe-west1"


def make_job(job: str = "nightly", schedule: str = "0 1 * * *", **fields: Any) -> ScheduledJob:
    """A job that calls the function of the same name, retried twice after half a minute and a minute."""
    defaults: dict[str, Any] = {
        "function": job,
        "address": f"https://{job}.test",
        "retries": Retries(count=2, first_wait=timedelta(seconds=30), longest_wait=timedelta(minutes=4), doublings=3),
    }
    return ScheduledJob(name=f"{LOCATION}/jobs/{job}", schedule=schedule, **{**defaults, **fields})


@dataclass
class Arrived:
    """A request, and the time that the clock showed when it came."""

    at: datetime
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def job(self) -> str:
        """The short name that it carries."""
        return self.headers["X-CloudScheduler-JobName"]

    @property
    def slot(self) -> str | None:
        """The time that it carries."""
        return self.headers.get("X-CloudScheduler-ScheduleTime")


@dataclass
class _Answer:
    status: int
    held: asyncio.Event = field(default_factory=asyncio.Event)


class Function(ThreadedServer):
    """Answers 200, or the statuses that `answers` has for the next requests.

    `hold` keeps answers back until `release`; after `hold_no_more` only those of earlier requests.
    """

    name = "The function"

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.arrived: list[Arrived] = []
        self.answers: deque[int] = deque()
        self.answered = 0
        self._held: list[_Answer] = []
        self._hold = False

    @property
    def moments(self) -> list[datetime]:
        """When each request came."""
        return [request.at for request in self.arrived]

    def hold(self) -> None:
        """Answer nothing from now on."""
        self._hold = True

    def hold_no_more(self) -> None:
        """Answer what comes from now on."""
        self._hold = False

    def release(self) -> None:
        """Answer what was held back, and what comes."""

        async def let_go() -> None:
            self._hold = False
            for answer in self._held:
                answer.held.set()

        self._run(let_go())

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        answer = _Answer(self.answers.popleft() if self.answers else 200)
        held = self._hold
        if held:
            self._held.append(answer)
        # Last: a test that sees the request may change its mind about the next one.
        self.arrived.append(Arrived(self.clock.now(), request.method, request.raw_path, dict(request.headers), body))
        if held:
            await answer.held.wait()
        self.answered += 1
        if answer.status == CUT and request.transport is not None:
            request.transport.abort()
            return web.Response()  # goes nowhere
        return web.Response(status=answer.status, body=json.dumps({"number": len(self.arrived)}))
