"""A front before fake-gcs-server, which does what that leaves out of Google Cloud Storage, and fails on command.

    with GcsFront(stack.gcs_url) as front:
        front.created["jobs/a.pdf"] = now - timedelta(days=8)
        front.fail(503, times=2)
        storage.Client(..., client_options={"api_endpoint": front.url})

Added: conditions on generations, a delete's 204, the wording of errors, moments of creation in the past. A condition is
checked first and the request passed on then: an object that somebody replaces between the two is not noticed.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote

import aiohttp
from aiohttp import web
from yarl import URL

from devstack import guardian
from devstack.gcs_faults import Answer, Faults, On, Target, refusal
from devstack.guardian import StartError
from shared.clock import format_rfc3339

_HOST: Final = "127.0.0.1"
_START_ATTEMPTS: Final = 5
# How long a stop waits for calls in flight before it cuts them. Not 0, which would mean for ever.
_PATIENCE_S: Final = 0.01
_BACKLOG: Final = 1024
_CALLBACKS: Final = 64
# Of one connection only; aiohttp writes its own.
_HOP: Final = frozenset({"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"})
_MOMENTS: Final = ("timeCreated", "updated", "timeStorageClassUpdated")

Callback = Callable[[str | None], object]


@dataclass
class Recorded:
    """A request as it was sent; `name` is the object's. `status` None: not answered yet, or cut."""

    method: str
    path: str
    query: dict[str, str]
    name: str | None
    status: int | None = None


class GcsFront(Faults):
    """A reverse proxy on 127.0.0.1 before `upstream`, with faults.

    `requests` has what was sent, in the order of arrival; `created` the moments to tell for objects by name, and
    `default_created` that of all others, None for the true one; `bucket_fields` replace those of a bucket's metadata.
    A callback that fails has its request answered by a 500, and its error raised when the block is left. Raises
    StartError when it cannot listen.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self.upstream = upstream.rstrip("/")
        self.port = 0
        self.requests: list[Recorded] = []
        self.created: dict[str, datetime] = {}
        self.default_created: datetime | None = None
        self.bucket_fields: dict[str, Any] = {}
        self._callbacks: list[tuple[str, Callback]] = []
        self._errors: list[Exception] = []
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._refused: Exception | None = None

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{_HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="gcs-front", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._refused is not None:
            self._thread.join()
            raise StartError(f"The front of the storage server cannot listen on {self.url}: {self._refused}.")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()
            self._thread = None
        if self._errors and kind is None:
            raise self._errors[0]

    def before(self, method: str, callback: Callback) -> None:
        """Have something done, given the object's name, whenever such a request is about to be passed on."""
        with self._lock:
            self._callbacks.append((method, callback))

    def down(self) -> None:
        """Cut all connections and refuse new ones, until `up`."""
        self._run(self._unlisten())

    def up(self) -> None:
        """Listen again, on the same port."""
        self._run(self._listen())

    def clear(self) -> None:
        """Forget all faults, delays and callbacks: from now on everything goes well."""
        super().clear()
        with self._lock:
            self._callbacks = []

    # --- the server

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._executor = ThreadPoolExecutor(_CALLBACKS, thread_name_prefix="gcs-front")
        self._server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=_PATIENCE_S)
        self._site: web.TCPSite | None = None
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            try:
                await self._runner.setup()
                await self._listen()
            except (OSError, StartError) as error:
                self._refused = error
            else:
                self._started.set()
                await self._stopped.wait()
            finally:
                await self._runner.cleanup()
                self._executor.shutdown(wait=False)
                self._started.set()

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

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        target = read_target(request.method, request.raw_path)
        query = dict(parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True))
        recorded = Recorded(target.method, target.path, query, target.name)
        self.requests.append(recorded)
        delay = self._delay(target.method)
        if delay:
            await asyncio.sleep(delay)
        answer = await self._answer(request, target, query, body)
        if answer is None or request.transport is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)  # goes nowhere
        recorded.status = answer.status
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def _answer(
        self, request: web.BaseRequest, target: Target, query: dict[str, str], body: bytes
    ) -> Answer | None:
        """What the request is answered; None: the connection is cut."""
        fault = self._take(target, "answer", "cut_before")
        if fault is not None:
            return fault.answer and fault.answer(target)
        for method, callback in list(self._callbacks):
            if method in ("*", target.method):
                try:
                    await self._loop.run_in_executor(self._executor, callback, target.name)
                except Exception as error:  # noqa: BLE001 - whatever a test does
                    self._errors.append(error)
                    return refusal(500, f"a callback failed: {error!r}")
        try:
            unmet = await self._unmet(target, query)
            if unmet is not None:
                return unmet
            fault = self._take(target, "refuse", "cut_after")
            if fault is not None and fault.answer is not None:
                return fault.answer(target)
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
            answer = await self._pass_on(target.method, request.raw_path, headers, body)
        except (aiohttp.ClientError, OSError):
            return None
        return self._as_google(target, answer) if fault is None else None

    # --- what the server behind leaves out

    async def _pass_on(self, method: str, raw_path: str, headers: dict[str, str], body: bytes) -> Answer:
        url = URL(self.upstream + raw_path, encoded=True)
        async with self._session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            return Answer(answer.status, await answer.read(), kept)

    async def _unmet(self, target: Target, query: dict[str, str]) -> Answer | None:
        """The refusal of a request whose conditions on generations do not hold; None if they do."""
        wanted = {field: query[asked] for asked, field in _CONDITIONS.items() if asked in query}
        if target.on != "object" or not (wanted or "generation" in query):
            return None
        path = f"/storage/{target.path.partition('/storage/')[2]}"
        answer = await self._pass_on("GET", path, {}, b"")
        found = json.loads(answer.body) if answer.status == 200 else None
        if found is None or query.get("generation", found["generation"]) != found["generation"]:
            return _missing(target)
        return None if all(found[field] == value for field, value in wanted.items()) else refusal(412)

    def _as_google(self, target: Target, answer: Answer) -> Answer:
        if answer.status == 404 and target.bucket is not None:
            return _missing(target)
        if target.method == "DELETE" and answer.status == 200:
            return Answer(204)
        headers = {name: value.replace(self.upstream, self.url) for name, value in answer.headers.items()}
        if not answer.headers.get("Content-Type", "").startswith("application/json"):
            return Answer(answer.status, answer.body, headers)
        body = answer.body.replace(self.upstream.encode(), self.url.encode())
        if answer.status == 200:
            if target.on == "bucket" and self.bucket_fields:
                body = json.dumps(json.loads(body) | self.bucket_fields).encode()
            elif target.on in ("object", "list") and (self.created or self.default_created):
                body = self._backdated(body)
        return Answer(answer.status, body, headers)

    def _backdated(self, body: bytes) -> bytes:
        told = json.loads(body)
        for item in told.get("items") or [told]:
            created = self.created.get(item.get("name", ""), self.default_created)
            if created is not None:
                item.update({moment: format_rfc3339(created) for moment in _MOMENTS if moment in item})
        return json.dumps(told).encode()


_CONDITIONS: Final = {"ifGenerationMatch": "generation", "ifMetagenerationMatch": "metageneration"}


def read_target(method: str, raw_path: str) -> Target:
    """What a request is about, by its path."""
    path = raw_path.partition("?")[0]
    kind, _, rest = path.partition("/storage/v1/b/")
    parts = rest.split("/")
    on: On = "other"
    bucket = unquote(parts[0]) or None
    name = None
    if kind == "/upload":
        on = "upload"
    elif kind in ("", "/download") and bucket is not None:
        if len(parts) == 1:
            on = "bucket"
        elif parts[1:] == ["o"]:
            on = "list"
        elif parts[1] == "o" and len(parts) == 3:
            on, name = "object", unquote(parts[2])
    return Target(method, path, on, bucket, name)


def _missing(target: Target) -> Answer:
    if target.name is None:
        return refusal(404, "The specified bucket does not exist.")
    return refusal(404, f"No such object: {target.bucket}/{target.name}")
