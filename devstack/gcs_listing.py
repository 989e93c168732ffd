"""A storage server with any number of objects and none in memory, for sweeps of a million: names come from numbers.

    python -m devstack.gcs_listing --objects 1000000 --delay 0.04

prints its address as its first line, and ends with Ctrl-C, SIGTERM or the end of its standard input, so that it never
outlives its owner. Every bucket has the same objects. A delete takes its time and is counted, but the object stays: the
next listing has it again. `GET /standin/counts` tells what was done.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from devstack.gcs_faults import Target
from devstack.gcs_front import missing, read_target
from devstack.guardian import StartError
from devstack.standalone import asked_to_end
from devstack.threaded_server import ThreadedServer
from shared.clock import format_rfc3339

PAGE: Final = 1000
# Objects of one job, of one import, of one user's uploads.
_TOGETHER: Final = 4
_GENERATION: Final = 1_700_000_000_000_000
_OLDEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
_AGES: Final = 90 * 86_400
# An odd number, so that no two numbers are spread to the same UUID.
_SPREAD: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835


def _id(number: int, count: int, salt: int) -> uuid.UUID:
    """An identifier that looks random, yet is in order with a number below `count`."""
    spread = (salt + 1) * _SPREAD % 2**128
    high = number * 2**32 // count + (spread >> 96) % (2**32 // count)
    return uuid.UUID(int=(high << 96) | spread % 2**96, version=4)


class Objects:
    """The names of so many objects, in order: a tenth imports, a tenth uploads, and jobs, every other one converted."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._jobs_start, self._jobs_end = count // 10, count - count // 10

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(self._count))

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index < self._jobs_start:
            number, owner, file = _identify(index, 0, self._jobs_start)
            return f"imports/{owner}/{file}_statement {number}.pdf"
        if index < self._jobs_end:
            number, owner, file = _identify(index, self._jobs_start, self._jobs_end)
            return f"jobs/{owner}/conversions/{file}.pdf" if number % 2 else f"jobs/{owner}/runs/{file}/{file}.pdf"
        number, owner, file = _identify(index, self._jobs_end, self._count)
        return f"temp_uploads/{owner}/{1_700_000_000 + index}_{file}_scan.pdf"

    def find(self, name: str) -> int | None:
        """The number of an object; None if there is none of that name."""
        index = self.first(name)
        return index if index < self._count and self[index] == name else None

    def first(self, name: str) -> int:
        """The number of the first object whose name is that or comes after it."""
        return bisect.bisect_left(self, name)

    def described(self, index: int) -> dict[str, str]:
        """What a listing tells of an object. They are created within 90 days, in no order."""
        created = _OLDEST + timedelta(seconds=index * 7_919 % _AGES)
        return {
            "kind": "storage#object",
            "name": self[index],
            "size": str(10_000 + index % 90_000),
            "generation": str(_GENERATION + index),
            "metageneration": "1",
            "timeCreated": format_rfc3339(created),
            "updated": format_rfc3339(created),
        }


def _identify(index: int, start: int, end: int) -> tuple[int, uuid.UUID, uuid.UUID]:
    """The number of an object's group among those of its kind, the group's identifier and the object's own."""
    number, place = divmod(index - start, _TOGETHER)
    owner = _id(number, -(-(end - start) // _TOGETHER), start + number)
    return number, owner, _id(place, _TOGETHER, index)


@dataclass
class Counts:
    """What was asked for: objects deleted, pages listed, objects and buckets looked at."""

    deleted: int = 0
    pages: int = 0
    looked: int = 0


class ListingServer(ThreadedServer):
    """Serves so many objects; a delete takes `delay` seconds. Raises StartError when it cannot listen."""

    name = "The listing stand-in"

    def __init__(self, objects: int, *, delay: float = 0.0) -> None:
        super().__init__()
        self.objects = Objects(objects)
        self.delay = delay
        self.counts = Counts()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        if request.path == "/standin/counts":
            return _json(asdict(self.counts))
        target = read_target(request.method, request.raw_path)
        query = dict(parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True))
        match target.method, target.on:
            case "DELETE", "object":
                if self.delay:
                    await asyncio.sleep(self.delay)
                self.counts.deleted += 1
                return web.Response(status=204)
            case "GET", "list":
                self.counts.pages += 1
                return _json(self._page(query))
            case "GET", "bucket":
                self.counts.looked += 1
                return _json({"kind": "storage#bucket", "name": target.bucket, "versioning": {"enabled": False}})
            case "GET", "object":
                self.counts.looked += 1
                return self._object(target)
        return web.Response(status=501)

    def _object(self, target: Target) -> web.Response:
        index = self.objects.find(target.name or "")
        if index is not None:
            return _json(self.objects.described(index))
        answer = missing(target)
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    def _page(self, query: dict[str, str]) -> dict[str, Any]:
        prefix = query.get("prefix", "")
        start = max(self.objects.first(prefix), self.objects.first(query.get("startOffset", "")))
        start = int(query.get("pageToken") or start)
        # After every name that begins so: no character is greater.
        stop = self.objects.first(prefix + chr(sys.maxunicode)) if prefix else len(self.objects)
        end = min(stop, start + min(int(query.get("maxResults") or PAGE), PAGE))
        wanted = re.search(r"items\(([^)]*)\)", query.get("fields", ""))
        keys = None if wanted is None else wanted[1].split(",")
        items = []
        for index in range(start, end):
            told = self.objects.described(index)
            items.append(told if keys is None else {key: told[key] for key in keys if key in told})
        page: dict[str, Any] = {"kind": "storage#objects", "items": items} if items else {}
        return page | ({"nextPageToken": str(end)} if end < stop else {})


def _json(told: object) -> web.Response:
    return web.Response(body=json.dumps(told).encode(), content_type="application/json")


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C, SIGTERM or the end of standard input; give the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m devstack.gcs_listing", description="A bucket with many objects.")
    parser.add_argument("--objects", type=int, required=True, metavar="N", help="how many there are")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="what every delete takes")
    given = parser.parse_args(arguments)
    ended = asked_to_end()
    try:
        with ListingServer(given.objects, delay=given.delay) as server:
            sys.stdout.write(server.url + "\n")
            sys.stdout.flush()
            ended.wait()
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
