"""The stand-in with many objects lists them as a real server would, and each page is as its names say."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import urllib3
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from devstack.buckets import names, object_url
from devstack.gcs_listing import ListingServer, Objects
from devstack.serving import REPOSITORY


@contextlib.contextmanager
def connected(url: str) -> Iterator[Client]:
    with contextlib.closing(
        Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})  # type: ignore[no-untyped-call]
    ) as client:
        yield client


@pytest.mark.parametrize("count", [0, 1, 9, 10, 41, 5_003])
def test_names_are_in_order_and_found_by_number(count: int) -> None:
    objects = Objects(count)
    every = list(objects)
    assert len(every) == len(objects) == count
    assert every == sorted(set(every))
    assert [objects.find(name) for name in every] == list(range(count))
    assert objects.find("jobs/") is None
    assert (objects.first(""), objects.first("zzz")) == (0, count)


def test_every_kind_of_object_is_there() -> None:
    kinds = {"/".join(part for part in name.split("/")[:-1] if "-" not in part) for name in Objects(1000)}
    assert kinds == {"imports", "jobs/runs", "jobs/conversions", "temp_uploads"}


def test_paging_gives_what_the_names_say() -> None:
    with ListingServer(2_345) as server, connected(server.url) as client:
        every = list(server.objects)
        listing = client.list_blobs("any", fields="items(name,generation,timeCreated,size),nextPageToken")
        pages = [list(page) for page in listing.pages]
        assert [len(page) for page in pages] == [1000, 1000, 345]
        blobs = [blob for page in pages for blob in page]
        assert [blob.name for blob in blobs] == every
        assert {blob.updated for blob in blobs} == {None}
        again = client.bucket("any").blob(blobs[1].name)
        again.reload()
        assert (again.generation, again.time_created, again.size) == (
            blobs[1].generation,
            blobs[1].time_created,
            blobs[1].size,
        )
        assert again.updated is not None
        assert server.counts.pages == 3
        for start in (every[1234], every[1234] + "!", "é"):
            listed = [blob.name for blob in client.list_blobs("any", start_offset=start, page_size=300)]
            assert listed == [name for name in every if name >= start]
        assert names(server.url, "any", "jobs/8") == {name for name in every if name.startswith("jobs/8")}
        assert names(server.url, "any", "none/") == set()
        with pytest.raises(exceptions.NotFound):
            client.bucket("any").blob("none").reload()
        assert client.get_bucket("any").versioning_enabled is False


def test_deletes_are_counted_and_take_their_time() -> None:
    with ListingServer(10) as server, urllib3.PoolManager(retries=False, timeout=30) as pool:
        for name in server.objects:
            assert pool.request("DELETE", object_url(server.url, "any", name)).status == 204
        assert server.counts.deleted == 10
        server.delay = 3600
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            pool.request("DELETE", object_url(server.url, "any", "a"), timeout=0.2)
        assert server.counts.deleted == 10


@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM, signal.SIGINT])
def test_a_process_tells_its_address_first_and_ends_with_its_owner(how: str | signal.Signals) -> None:
    command = [sys.executable, "-m", "devstack.gcs_listing", "--objects", "20", "--delay", "0.001"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as started:
        try:
            assert started.stdout is not None
            assert started.stdin is not None
            url = os.fsdecode(started.stdout.readline().strip())
            assert names(url, "any") == set(Objects(20))
            with urllib3.PoolManager(retries=False, timeout=30) as pool:
                pool.request("DELETE", object_url(url, "any", "a"))
                counts = pool.request("GET", f"{url}/standin/counts").json()
            assert counts == {"deleted": 1, "pages": 1, "looked": 0}
            if isinstance(how, signal.Signals):
                started.send_signal(how)
            else:
                started.stdin.close()
            assert started.wait(30) == 0
        finally:
            started.kill()
