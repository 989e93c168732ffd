"""The server of the page: waitress, on loopback.

Its end is our own. Waitress closes under the hands of whatever is at work, or after five seconds; but a page that is
being made has a connection to the database, and nobody would close that one any more.
"""

import logging
import socket
import threading
import time

from flask import Flask
from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.wasyncore import close_all, dispatcher, loop  # type: ignore[import-untyped]

from ops.console.app import HOST
from shared.errors import Misconfigured, Unavailable

# A person and a few tabs; what one page asks of the database keeps one of them busy.
_THREADS = 6
_LOOKS_SECONDS, _LAST_LOOKS_SECONDS = 1.0, 0.05
# Longer than the database's adapter waits for any answer.
_LONGEST_SECONDS = 90.0


class Server:
    """Serves an app on a port of this machine that nobody else can reach.

    Raises Unavailable where the port is taken, and Misconfigured where it is not for everybody.
    """

    def __init__(self, app: Flask, port: int) -> None:
        # What it has to say is a stack trace of what its client was told in a sentence.
        logging.getLogger("waitress").addHandler(logging.NullHandler())
        logging.getLogger("waitress").propagate = False
        self._server = create_server(
            app, sockets=[_listening(port)], threads=_THREADS, ident=None, clear_untrusted_proxy_headers=True
        )

        self._stopping = threading.Event()
        # One that a signal's handler may take in the middle of what it keeps out.
        self._closing = threading.RLock()
        self._is_closed = False

    def serve(self) -> None:
        """Serve until `stop` is called; answer what was asked until then, and let go of the port.

        A KeyboardInterrupt breaks off, within seconds.
        """
        try:
            while not self._stopping.is_set():
                self._look(_LOOKS_SECONDS)
            self._answer_the_last()
        finally:
            self._server.task_dispatcher.shutdown()
            with self._closing:
                self._is_closed = True
                close_all(self._server._map, ignore_all=True)

    def stop(self) -> None:
        """Let `serve` come to its end, from another thread or from the handler of a signal; later nothing happens."""
        self._stopping.set()
        with self._closing:
            # Closed, its number may be another file's by now.
            if not self._is_closed:
                self._server.trigger.pull_trigger()

    def _look(self, seconds: float) -> None:
        loop(seconds, map=self._server._map, count=1)

    def _answer_the_last(self) -> None:
        # The port alone: the server's own way closes what wakes this thread, too.
        dispatcher.close(self._server)
        end = time.monotonic() + _LONGEST_SECONDS
        while self._is_busy() and time.monotonic() < end:
            self._look(_LAST_LOOKS_SECONDS)

    def _is_busy(self) -> bool:
        # Who asked may be gone, and the answer is still being made.
        tasks = self._server.task_dispatcher
        unsent = any(each.total_outbufs_len for each in self._server.active_channels.values())
        return bool(unsent or tasks.queue or tasks.active_count)


def _listening(port: int) -> socket.socket:
    """A socket on loopback. Made here, because waitress closes none that it cannot bind."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((HOST, port))
    except OSError as error:
        made.close()
        if isinstance(error, PermissionError):
            said = f"Port {port} is not for everybody. Name one from 1024 on with --port."
            raise Misconfigured("port", said) from error
        said = f"Port {port} is taken, by another console perhaps. Name another with --port, or end what has it."
        raise Unavailable("port", said) from error
    return made
