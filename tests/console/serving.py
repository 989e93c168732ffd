"""The page served in this process as `python -m ops console` serves it, and a plain HTTP client for it."""

import http.client
import io
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ops.console.app import HOST, create_app
from ops.console.serving import Server
from shared.clock import Clock
from shared.services import Services
from tests.support.serving import RawAnswer


@dataclass(frozen=True)
class Console:
    """A served page. `log` has what it wrote."""

    port: int
    log: io.StringIO

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> RawAnswer:
        """Send a request; a Host header is added unless one is given."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return RawAnswer(response.status, response.read().decode(), response.headers)
        finally:
            connection.close()

    def page(self, path: str) -> str:
        """Get a page that must be there."""
        answer = self.ask(path)
        assert answer.status == 200, answer.text
        return answer.text


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


@contextmanager
def served(environ: Mapping[str, str], clock: Clock, project: str | None = None) -> Iterator[Console]:
    """Serve the page while the block lasts."""
    port, log = free_port(), io.StringIO()
    services = Services(environ, clock, log)
    server = Server(create_app(services, port=port, project=project), port)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield Console(port, log)
    finally:
        server.stop()
        thread.join()
        services.close()
