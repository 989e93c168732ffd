"""An HTTP server on 127.0.0.1 in a thread of this process: what the stand-ins for others' services have in common."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from typing import Any, Final, Self

from aiohttp import web

from devstack import guardian
from devstack.guardian import StartError

_HOST: Final = "127.0.0.1"
_START_ATTEMPTS: Final = 5
# How long a stop waits for calls in flight before it cuts them. Not 0, which would mean for ever.
_PATIENCE_S: Final = 0.01
_BACKLOG: Final = 1024


class ThreadedServer:
    """Serves while the `with` block lasts, or from `start` to `stop`. Raises StartError when it cannot listen.

    A port of 0 stands for a free one, which stays the same from the first start on.
    """

    name = "The server"
    # Whether a client that gives up ends its call at once.
    cancels_calls = False

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._thread: threading.Thread | None = None
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{_HOST}:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and come back when connections are accepted. Twice is fine."""
        if self._thread is not None:
            return
        listening: Future[None] = Future()
        thread = threading.Thread(target=asyncio.run, args=(self._serve(listening),), name=self.name, daemon=True)
        thread.start()
        try:
            listening.result()
        except (OSError, StartError) as error:
            thread.join()
            raise StartError(f"{self.name} cannot listen on {self.url}: {error}.") from error
        self._thread = thread

    def stop(self) -> None:
        """Cut what is in flight and refuse connections from now on. Twice is fine."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
            self._thread = None

    def down(self) -> None:
        """Cut all connections and refuse new ones, until `up`."""
        self._run(self._unlisten())

    def up(self) -> None:
        """Listen again, on the same port."""
        self._run(self._listen())

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def _resources(self) -> AsyncIterator[None]:
        """Hold what is needed as long as the server runs."""
        yield

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _serve(self, listening: Future[None]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._server = web.Server(self._handle, access_log=None, handler_cancellation=self.cancels_calls)
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=_PATIENCE_S)
        async with self._resources():
            try:
                await self._runner.setup()
                await self._listen()
            except Exception as error:  # noqa: BLE001  whatever it is, it is the starter's
                listening.set_exception(error)
            else:
                listening.set_result(None)
                await self._stopped.wait()
            finally:
                self._site = None
                await self._runner.cleanup()

    async def _listen(self) -> None:
        any_port = self.port == 0
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self._site is not None:
                return
            port = guardian.free_port() if any_port else self.port
            site = web.TCPSite(self._runner, _HOST, port, backlog=_BACKLOG)
            try:
                await site.start()
            except OSError:
                # Another process was faster to take it.
                await site.stop()
                if not any_port or attempt == _START_ATTEMPTS:
                    raise
            else:
                self.port, self._site = port, site

    async def _unlisten(self) -> None:
        if self._site is not None:
            await self._site.stop()
            self._site = None
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()
