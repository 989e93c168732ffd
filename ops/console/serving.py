"""The server of the page: waitress, on loopback."""

import logging
import socket

from flask import Flask
from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.wasyncore import close_all  # type: ignore[import-untyped]

from ops.console.app import HOST
from shared.errors import Misconfigured, Unavailable

# A person and a few tabs; what one page asks of the database keeps one of them busy.
_THREADS = 6


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

    def serve(self) -> None:
        """Serve until Ctrl-C, or until `stop` is called; then let go of the port."""
        try:
            self._server.run()
        finally:
            self._server.task_dispatcher.shutdown()
            self._close()

    def stop(self) -> None:
        """Let `serve` come to its end, from another thread."""
        self._server.trigger.pull_trigger(self._close)

    def _close(self) -> None:
        close_all(self._server._map, ignore_all=True)


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
