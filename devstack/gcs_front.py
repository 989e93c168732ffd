"""A front before fake-gcs-server, which does what that leaves out of Google Cloud Storage, and fails on command.

    with GcsFront(stack.gcs_url) as front:
        front.created["jobs/a.pdf"] = now - timedelta(days=8)
        front.fail(503, times=2)
        storage.Client(..., client_options={"api_endpoint": front.url})

Added: conditions on generations, pages of a listing, a delete's 204, the wording of errors, moments of creation in the
past. A condition is checked first and the request passed on then: an object that is replaced between the two is not
noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

import aiohttp
from aiohttp import web
from yarl import URL

from devstack.gcs_faults import Answer, Faults, On, Target, refusal
from devstack.threaded_server import ThreadedServer
from shared.clock import format_rfc3339

_CALLBACKS: Final = 64
_PAGE: Final = 1000
# Of one connection only; aiohttp writes its own.
_HOP: Final = frozenset({"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"})
_MOMENTS: Final = ("timeCreated", "updated", "timeStorageClassUpdated")

Callback = Callable[[str | None], object]


@dataclass
class Recorded:
    """A request as it was sent; `name` is the object's, or a listing's prefix. `status` None: not answered, or cut."""

    method: str
    path: str
    query: dict[str, str]
    name: str | None
    status: int | None = None


class GcsFront(Faults, ThreadedServer):
    """A reverse proxy on 127.0.0.1 before `upstream`, with faults.

    `requests` has what was sent, in the order of arrival; `created` the moments to tell for objects by name, and
    `default_created` that of all others, None for the true one; `bucket_fields` replace those of a bucket's metadata.
    A callback that fails has its request answered by a 500, and its error raised when the block is left. Raises
    StartError when it cannot listen.
    """

    name = "The front of the storage server"

    def __init__(self, upstream: str) -> None:
        Faults.__init__(self)
        ThreadedServer.__init__(self)
        self.upstream = upstream.rstrip("/")
        self.requests: list[Recorded] = []
        self.created: dict[str, datetime] = {}
        self.default_created: datetime | None = None
        self.bucket_fields: dict[str, Any] = {}
        self._callbacks: list[tuple[str, Callback]] = []
        self._errors: list[Exception] = []

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        super().__exit__(kind)
        if self._errors and kind is None:
            raise self._errors[0]

    def before(self, method: str, callback: Callback) -> None:
        """Have something done, given the object's name, whenever such a request is about to be passed on."""
        with self._lock:
            self._callbacks.append((method, callback))

    def clear(self) -> None:
        """Forget all faults, delays and callbacks: from now on everything goes well."""
        super().clear()
        with self._lock:
            self._callbacks = []

    # --- the server

    @contextlib.asynccontextmanager
    async def _resources(self) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._executor = ThreadPoolExecutor(_CALLBACKS, thread_name_prefix="gcs-front")
        try:
            async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
                yield
        finally:
            self._executor.shutdown(wait=False)

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
            path = _paged(target, query) if target.on == "list" else request.raw_path
            answer = await self._pass_on(target.method, path, headers, body)
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
            return missing(target)
        return None if all(found[field] == value for field, value in wanted.items()) else refusal(412)

    def _as_google(self, target: Target, answer: Answer) -> Answer:
        if answer.status == 404 and target.bucket is not None:
            return missing(target)
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
    path, _, query = raw_path.partition("?")
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
            on, name = "list", dict(parse_qsl(query)).get("prefix")
        elif parts[1] == "o" and len(parts) == 3:
            on, name = "object", unquote(parts[2])
    return Target(method, path, on, bucket, name)


def _paged(target: Target, query: dict[str, str]) -> str:
    """The path of a listing, of which a page has no more objects than Google gives, even if nobody asks for pages."""
    most = min(int(query.get("maxResults") or _PAGE), _PAGE)
    return f"{target.path}?{urlencode({**query, 'maxResults': most})}"


def missing(target: Target) -> Answer:
    """The refusal of a request for what is not there."""
    if target.on != "object":
        return refusal(404, "The specified bucket does not exist.")
    return refusal(404, f"No such object: {target.bucket}/{target.name}")
