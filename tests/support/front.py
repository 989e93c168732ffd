"""What stands in front of several function processes, as Cloud Run's front end does: it gives each request to one."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from devstack.serving import Served

# Gives, for a request's body, the process that is to serve it.
Route = Callable[[bytes], Served]

_THREADS = 16
_PATIENCE_SECONDS = 0.2
_LATER = 503, b"{}"


class Front:
    """Serves on a port of its own while the `with` block lasts.

    gcloud-tasks-emulator delivers one task of a queue after the other. So that tasks run side by side, as they do on
    Cloud Tasks, a task is told to come again while its first delivery is being served, and gets that one's answer.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self._pool = ThreadPoolExecutor(_THREADS)
        self._served: dict[bytes, Future[tuple[int, bytes]]] = {}
        self._lock = threading.Lock()
        front = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, answer = front._answer(dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._pool.shutdown()

    def _answer(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if not body:
            return self._deliver(headers, body)
        with self._lock:
            served = self._served.get(body)
            if served is None:
                served = self._served[body] = self._pool.submit(self._deliver, headers, body)
        wait_for([served], _PATIENCE_SECONDS)
        with self._lock:
            if not served.done():
                return _LATER
            self._served.pop(body, None)
        return served.result()

    def _deliver(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        served = self._route(body)
        request = urllib.request.Request(f"{served.url}/", body, dict(headers))  # noqa: S310  the test's own
        try:
            with urllib.request.urlopen(request, timeout=100) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except OSError:
            return _LATER
