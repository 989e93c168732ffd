"""Buckets and objects on the dev stack's storage server: any name works, and a prepared environment has a bucket."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
import urllib3
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from devstack import buckets, gcs
from devstack.buckets import create_bucket, drop_bucket, empty, names, put, put_many
from devstack.guardian import StartError
from devstack.prepared import prepare
from devstack.stack import Stack
from devstack.telling import StepFailed, Teller
from tests.support.clock import NOON

HOSTILE = (
    "jobs/a b/ü-日本語-🙂.pdf",
    "/leading/slash",
    "a//b",
    "a/../b",
    ".hidden",
    "#?%&+=;%2F%00",
    "quote\"'\\",
    "tab\tin",
    "x" * 1024,
    "é" * 512,
)


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with contextlib.closing(
        Client("test", AnonymousCredentials(), client_options={"api_endpoint": stack.gcs_url})  # type: ignore[no-untyped-call]
    ) as made:
        yield made


def test_any_name_works_as_it_does_for_google_s_client(stack: Stack, bucket: str, client: Client) -> None:
    put_many(stack.gcs_url, bucket, HOSTILE)
    assert names(stack.gcs_url, bucket) == set(HOSTILE)
    assert {blob.name for blob in client.list_blobs(bucket)} == set(HOSTILE)
    for name in HOSTILE:
        put(stack.gcs_url, bucket, name, name.encode())
        blob = client.bucket(bucket).blob(name)
        assert blob.download_as_bytes() == name.encode()
        blob.delete()
    assert names(stack.gcs_url, bucket) == set()


def test_objects_are_named_by_what_they_begin_with(stack: Stack, bucket: str) -> None:
    put_many(stack.gcs_url, bucket, ("jobs/a", "jobs/b", "job", "temp_uploads/a"), threads=2)
    assert names(stack.gcs_url, bucket, "jobs/") == {"jobs/a", "jobs/b"}


def test_a_bucket_is_kept_when_made_again_and_emptied_and_dropped(stack: Stack, bucket: str) -> None:
    put_many(stack.gcs_url, bucket, HOSTILE)
    assert create_bucket(stack.gcs_url, bucket) == bucket
    assert names(stack.gcs_url, bucket) == set(HOSTILE)
    empty(stack.gcs_url, bucket)
    assert names(stack.gcs_url, bucket) == set()
    put(stack.gcs_url, bucket, "object")
    for _ in range(2):
        drop_bucket(stack.gcs_url, bucket)
        with pytest.raises(RuntimeError, match="404"):
            names(stack.gcs_url, bucket)


def test_a_resumable_upload_comes_back_to_the_same_server(stack: Stack, bucket: str, client: Client) -> None:
    blob = client.bucket(bucket).blob("large", chunk_size=256 * 1024)
    with blob.open("wb") as file:
        file.write(b"x" * 600_000)
    assert blob.download_as_bytes() == b"x" * 600_000
    plain = urllib3.request("GET", f"{stack.gcs_url}/{bucket}/large", retries=False)
    assert plain.data == b"x" * 600_000


def test_a_prepared_environment_has_a_bucket_as_long_as_it_lasts(stack: Stack) -> None:
    given = {
        "DATABASE_URL": stack.database_url,
        "REDIS_URL": stack.redis_url,
        "STORAGE_EMULATOR_HOST": stack.gcs_url,
    }
    with contextlib.ExitStack() as cleanup:
        settings = prepare(given, Teller(), cleanup, purpose="test", per_kind=1, now=NOON).settings
        assert settings["STORAGE_EMULATOR_HOST"] == stack.gcs_url
        assert names(stack.gcs_url, settings["GCS_BUCKET_NAME"]) == set()
        put(stack.gcs_url, settings["GCS_BUCKET_NAME"], "object")
    with pytest.raises(RuntimeError, match="404"):
        names(stack.gcs_url, settings["GCS_BUCKET_NAME"])
    given["STORAGE_EMULATOR_HOST"] = "http://127.0.0.1:1"
    with contextlib.ExitStack() as cleanup, pytest.raises(StepFailed, match="STORAGE_EMULATOR_HOST"):
        prepare(given, Teller(), cleanup, purpose="test", per_kind=1, now=NOON)


def test_a_missing_program_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.access(gcs.binary(), os.X_OK)
    monkeypatch.setattr("platform.system", lambda: "SunOS")
    with pytest.raises(StartError, match="no server for sunos"):
        gcs.binary()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(StartError, match="not installed"):
        gcs.binary()


def test_connections_are_closed_where_ctrl_c_is_noticed(stack: Stack) -> None:
    """And not when they are collected: Python loses what a finalizer raises, and what was interrupted goes on."""
    listed = f"{stack.gcs_url}/storage/v1/b?project=devstack"
    with buckets._pool() as manager:
        manager.request("GET", listed)
        pool = manager.connection_from_url(stack.gcs_url)
    with pytest.raises(urllib3.exceptions.ClosedPoolError):
        pool.request("GET", listed)
