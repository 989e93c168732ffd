"""Buckets and objects of a storage server, over Google's JSON API: for tests, the demo and benchmarks.

    bucket = create_bucket(stack.gcs_url, "files")
    put_many(stack.gcs_url, bucket, [f"jobs/{number}.pdf" for number in range(1000)])
    assert names(stack.gcs_url, bucket, "jobs/1") == …

Any name works, whatever is in it. Errors: urllib3's HTTPError where nobody answers, RuntimeError for every answer that
is not what was wanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

_THREADS: Final = 16
_TIMEOUT: Final = urllib3.Timeout(30)


def create_bucket(url: str, name: str) -> str:
    """Make a bucket and return its name; one that is there already is left as it is."""
    with _pool() as pool:
        body = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        _ask(pool, "POST", f"{url}/storage/v1/b?project=devstack", body, headers, also=(409,))
    return name


def put(url: str, bucket: str, name: str, data: bytes = b"x") -> None:
    """Upload an object, over one of the same name if there is one."""
    with _pool() as pool:
        _put(pool, url, bucket, name, data)


def put_many(url: str, bucket: str, names: Iterable[str], threads: int = _THREADS) -> None:
    """Upload an object of one byte for each name."""
    with _pool(threads) as pool, ThreadPoolExecutor(threads) as executor:
        for _ in executor.map(lambda name: _put(pool, url, bucket, name, b"x"), names):
            pass


def names(url: str, bucket: str, prefix: str = "") -> set[str]:
    """The names of all objects that begin so."""
    with _pool() as pool:
        return set(_listed(pool, url, bucket, prefix))


def empty(url: str, bucket: str) -> None:
    """Delete all objects; those that another is faster to delete are fine."""
    with _pool(_THREADS) as pool, ThreadPoolExecutor(_THREADS) as executor:
        found = list(_listed(pool, url, bucket, ""))
        for _ in executor.map(lambda name: _ask(pool, "DELETE", object_url(url, bucket, name), also=(404,)), found):
            pass


def drop_bucket(url: str, name: str) -> None:
    """Delete a bucket with all that is in it, if it exists."""
    with _pool() as pool:
        if _ask(pool, "GET", _bucket_url(url, name), also=(404,)).get("name") is None:
            return
        empty(url, name)
        _ask(pool, "DELETE", _bucket_url(url, name), also=(404,))


def object_url(url: str, bucket: str, name: str) -> str:
    """The address of an object's metadata."""
    return f"{_bucket_url(url, bucket)}/o/{quote(name, safe='')}"


def _bucket_url(url: str, bucket: str) -> str:
    return f"{url}/storage/v1/b/{quote(bucket, safe='')}"


@contextmanager
def _pool(size: int = 1) -> Iterator[urllib3.PoolManager]:
    manager = urllib3.PoolManager(maxsize=size, block=True, retries=False, timeout=_TIMEOUT)
    try:
        yield manager
    finally:
        # Left to itself, it closes its connections when it is collected, in a finalizer, and there Ctrl-C is lost.
        for key in manager.pools.keys():  # noqa: SIM118  it is no dict, and cannot be gone over itself
            manager.pools[key].close()


def _put(pool: urllib3.PoolManager, url: str, bucket: str, name: str, data: bytes) -> None:
    query = urlencode({"uploadType": "media", "name": name})
    headers = {"Content-Type": "application/octet-stream"}
    _ask(pool, "POST", f"{url}/upload/storage/v1/b/{quote(bucket, safe='')}/o?{query}", data, headers)


def _listed(pool: urllib3.PoolManager, url: str, bucket: str, prefix: str) -> Iterator[str]:
    query = {"prefix": prefix, "fields": "items(name),nextPageToken"}
    while True:
        page = _ask(pool, "GET", f"{_bucket_url(url, bucket)}/o?{urlencode(query)}")
        yield from (item["name"] for item in page.get("items") or ())
        if not page.get("nextPageToken"):
            return
        query["pageToken"] = page["nextPageToken"]


def _ask(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    also: tuple[int, ...] = (),
) -> Any:
    answer = pool.request(method, url, body=body, headers=headers)
    if not (200 <= answer.status < 300 or answer.status in also):
        raise RuntimeError(f"{method} {url} was answered with {answer.status}: {answer.data.decode(errors='replace')}")
    return json.loads(answer.data or b"null")
