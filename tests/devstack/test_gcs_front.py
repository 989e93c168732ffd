"""The front before the storage server does what Google documents, and fails as Google does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import urllib3
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from devstack.buckets import names, object_url, put, put_many
from devstack.gcs_front import GcsFront
from tests.devstack.test_gcs import HOSTILE
from tests.support.clock import NOON


@pytest.fixture
def client(gcs_front: GcsFront) -> Iterator[Client]:
    with contextlib.closing(
        Client("test", AnonymousCredentials(), client_options={"api_endpoint": gcs_front.url})  # type: ignore[no-untyped-call]
    ) as made:
        yield made


def ask(method: str, url: str) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        return pool.request(method, url)


def error(answer: urllib3.BaseHTTPResponse) -> tuple[int, str, str]:
    """The status, reason and message of an error, which the body tells as well."""
    told: dict[str, Any] = answer.json()["error"]
    (only,) = told["errors"]
    assert (told["code"], told["message"]) == (answer.status, only["message"])
    return answer.status, only["reason"], only["message"]


# --- what is as at Google


def test_every_name_goes_through_unchanged(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    put_many(gcs_front.url, bucket, HOSTILE)
    assert names(gcs_front.upstream, bucket) == set(HOSTILE)
    assert {blob.name for blob in client.list_blobs(bucket)} == set(HOSTILE)
    for name in HOSTILE:
        blob = client.bucket(bucket).get_blob(name)
        assert blob.download_as_bytes() == b"x"
        blob.delete(if_generation_match=blob.generation)
    assert [each.name for each in gcs_front.requests if each.method == "DELETE"] == list(HOSTILE)
    assert names(gcs_front.upstream, bucket) == set()


def test_a_delete_of_another_generation_is_refused(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    put(gcs_front.url, bucket, "a/b")
    seen = client.bucket(bucket).get_blob("a/b")
    put(gcs_front.upstream, bucket, "a/b", b"newer")
    blob = client.bucket(bucket).blob("a/b")
    with pytest.raises(exceptions.PreconditionFailed, match="pre-conditions you specified did not hold"):
        blob.delete(if_generation_match=seen.generation)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.reload(if_generation_match=seen.generation)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.delete(if_metageneration_match=99)
    # A blob that was read asks for its own generation, which is no more.
    with pytest.raises(exceptions.NotFound):
        seen.delete(if_generation_match=seen.generation)
    assert "generation" in gcs_front.requests[-1].query
    assert names(gcs_front.upstream, bucket) == {"a/b"}
    refused = ask("DELETE", object_url(gcs_front.url, bucket, "a/b") + f"?ifGenerationMatch={seen.generation}")
    assert error(refused)[:2] == (412, "conditionNotMet")
    blob.reload()
    client.bucket(bucket).blob("a/b").delete(if_generation_match=blob.generation)
    assert names(gcs_front.upstream, bucket) == set()
    told = ask("DELETE", object_url(gcs_front.url, bucket, "a/b") + f"?ifGenerationMatch={blob.generation}")
    assert error(told) == (404, "notFound", f"No such object: {bucket}/a/b")
    assert error(ask("DELETE", object_url(gcs_front.url, bucket, "a/b"))) == error(told)


def test_a_delete_is_answered_with_204_and_a_missing_bucket_named(gcs_front: GcsFront, bucket: str) -> None:
    put(gcs_front.url, bucket, "a")
    answer = ask("DELETE", object_url(gcs_front.url, bucket, "a"))
    assert (answer.status, answer.data) == (204, b"")
    for path in ("nowhere", "nowhere/o"):
        told = error(ask("GET", f"{gcs_front.url}/storage/v1/b/{path}"))
        assert told == (404, "notFound", "The specified bucket does not exist.")


def test_creation_is_told_as_it_is_wished(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    put_many(gcs_front.url, bucket, ("old/é", "other"))
    true = client.bucket(bucket).get_blob("other").time_created
    old = NOON - timedelta(days=8, microseconds=5)
    gcs_front.created["old/é"] = old
    for other in (None, NOON):
        gcs_front.default_created = other
        listed = {blob.name: (blob.time_created, blob.updated) for blob in client.list_blobs(bucket)}
        assert listed["old/é"] == (old, old)
        assert listed["other"][0] == (other or true)
        for name, moments in listed.items():
            blob = client.bucket(bucket).get_blob(name)
            assert (blob.time_created, blob.updated) == moments
    put(gcs_front.url, bucket, "old/é")
    assert client.bucket(bucket).get_blob("old/é").time_created == old


def test_a_bucket_has_what_it_is_given(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    gcs_front.bucket_fields = {
        "softDeletePolicy": {"retentionDurationSeconds": "604800"},
        "versioning": {"enabled": True},
    }
    told = client.get_bucket(bucket)
    assert told.versioning_enabled is True
    assert told.soft_delete_policy.retention_duration_seconds == 604800
    assert told.name == bucket


def test_an_upload_in_parts_goes_through(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    blob = client.bucket(bucket).blob("large", chunk_size=256 * 1024)
    with blob.open("wb") as file:
        file.write(b"x" * 600_000)
    assert [each.query.get("uploadType") for each in gcs_front.requests].count("resumable") == 4
    blob.reload()
    assert blob.download_as_bytes() == b"x" * 600_000
    assert gcs_front.requests[-1].query["alt"] == "media"
