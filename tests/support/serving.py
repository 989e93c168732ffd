"""A real functions-framework process that serves the jobs, on the machine's clock or on the test's."""

import http.client
import json
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from devstack.serving import Answer, Served, fire
from tests.support.clock import NOON, FileClock

_SERVED_MAIN = Path(__file__).with_name("served_main.py")


class RawAnswer(NamedTuple):
    """An HTTP answer as it came."""

    status: int
    text: str
    headers: http.client.HTTPMessage

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object."""
        value = json.loads(self.text)
        assert isinstance(value, dict)
        return value


class Functions:
    """Starts functions; ends with all of them stopped."""

    def __init__(self, folder: Path, environ: Mapping[str, str], stack: ExitStack) -> None:
        self._folder = folder
        self._environ = environ
        self._stack = stack
        self.clock = FileClock(folder / "clock")
        self.clock.set(NOON)

    def serve(self, changes: Mapping[str, str | None] | None = None, *, target: str = "period_reset") -> Served:
        """Serve a function with the test's settings and changes to them (None takes one away), on the test's clock."""
        environ = {**self._environ, **(changes or {}), "TEST_CLOCK_FILE": str(self.clock.file)}
        settings = {name: value for name, value in environ.items() if value is not None}
        number = len(list(self._folder.glob("*.log")))
        return self._stack.enter_context(
            Served(target, settings, log=self._folder / f"{number}.log", source=_SERVED_MAIN)
        )


def firing(served: Served, slot: datetime | None = NOON, body: bytes = b"") -> Answer:
    """Fire period_reset as Cloud Scheduler does."""
    return fire(served.url, job="period_reset", slot=slot, body=body)


def request(
    served: Served, method: str, path: str = "/", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> RawAnswer:
    """Send any request."""
    parts = urlsplit(served.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return RawAnswer(response.status, response.read().decode(), response.headers)
    finally:
        connection.close()
