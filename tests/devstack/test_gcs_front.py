"""The front before the storage server does what Google documents, and fails as Google does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from devstack import guardian
from devstack.buckets import names, object_url, put, put_many
from devstack.gcs import GcsServer
from devstack.gcs_front import GcsFront
from devstack.guardian import StartError
from devstack.stack import Stack
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
    # The client looks after the bucket in a thread of its own upon a 404: the newest request may be that one.
    assert "generation" in [each.query for each in gcs_front.requests if each.method == "DELETE"][-1]
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
    assert "media" in [each.query.get("alt") for each in gcs_front.requests]


def test_a_listing_comes_in_pages_of_a_thousand(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    wanted = {f"jobs/{number:04} é&=" for number in range(1001)}
    put_many(gcs_front.upstream, bucket, wanted)
    assert names(gcs_front.url, bucket, "jobs/") == wanted
    assert [each.query.get("maxResults") for each in gcs_front.requests] == [None, None]
    assert len({each.query.get("pageToken") for each in gcs_front.requests}) == 2
    pages = client.list_blobs(bucket, page_size=5000, start_offset="jobs/0001").pages
    assert [len(list(page)) for page in pages] == [1000]
    pages = client.list_blobs(bucket, page_size=600).pages
    assert [len(list(page)) for page in pages] == [600, 401]


# --- what goes wrong on command


def deletes(gcs_front: GcsFront, bucket: str, *objects: str) -> list[int | str]:
    """Delete objects one after another; the statuses, "cut" for a connection that died."""
    statuses: list[int | str] = []
    for name in objects:
        try:
            statuses.append(ask("DELETE", object_url(gcs_front.url, bucket, name)).status)
        except urllib3.exceptions.ProtocolError:
            statuses.append("cut")
    return statuses


def test_a_fault_takes_what_matches_as_often_as_it_says(gcs_front: GcsFront, bucket: str) -> None:
    put_many(gcs_front.upstream, bucket, "abcdef")
    gcs_front.fail(503, name="a")
    gcs_front.fail(429, name=lambda name: name in "bc", times=1)
    assert deletes(gcs_front, bucket, *"aabbcd") == [503, 503, 429, 204, 204, 204]
    assert [each.status for each in gcs_front.requests] == [503, 503, 429, 204, 204, 204]
    assert names(gcs_front.url, bucket) == {"a", "e", "f"}
    gcs_front.clear()
    assert deletes(gcs_front, bucket, "a") == [204]
    gcs_front.fail(500, share=0.5)
    assert deletes(gcs_front, bucket, *"eeff") == [204, 500, 204, 500]


def test_a_fault_is_for_one_kind_of_request(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    put(gcs_front.upstream, bucket, "a")
    gcs_front.fail(method="GET", on="list")
    client.bucket(bucket).blob("a").reload()
    client.get_bucket(bucket)
    with pytest.raises(exceptions.ServiceUnavailable):
        list(client.list_blobs(bucket, retry=None))


def test_errors_are_worded_as_by_google(gcs_front: GcsFront, bucket: str) -> None:
    def told(**options: Any) -> tuple[int, str, str]:
        gcs_front.clear()
        gcs_front.fail(**options)
        return error(ask("DELETE", object_url(gcs_front.url, bucket, "a")))

    assert told()[:2] == (503, "backendError")
    assert told(status=429)[:2] == (429, "rateLimitExceeded")
    assert told(status=401)[:2] == (401, "authError")
    assert told(status=403, reason="userProjectAccountProblem", message="No money.") == (
        403,
        "userProjectAccountProblem",
        "No money.",
    )
    gcs_front.clear()
    gcs_front.fail(429, retry_after=2)
    assert ask("DELETE", object_url(gcs_front.url, bucket, "a")).headers["Retry-After"] == "2"


@pytest.mark.parametrize(
    ("permission", "what", "call"),
    [
        ("storage.objects.delete", "object", lambda bucket: bucket.delete_blob("a")),
        ("storage.objects.get", "object", lambda bucket: bucket.blob("a").reload()),
        ("storage.objects.list", "bucket", lambda bucket: list(bucket.list_blobs())),
        ("storage.objects.create", "bucket", lambda bucket: bucket.blob("b").upload_from_string("x")),
        ("storage.buckets.get", "bucket", lambda bucket: bucket.reload()),
    ],
)
def test_a_missing_permission_refuses_what_needs_it(
    gcs_front: GcsFront, bucket: str, client: Client, permission: str, what: str, call: Callable[[Any], object]
) -> None:
    put(gcs_front.upstream, bucket, "a")
    gcs_front.forbid(permission)
    with pytest.raises(
        exceptions.Forbidden,
        match=f"does not have {permission} access to the Google Cloud Storage {what}. "
        rf"Permission '{permission}' denied on resource \(or it may not exist\).",
    ):
        call(client.bucket(bucket))
    assert [each.status for each in gcs_front.requests].count(403) == 1
    assert names(gcs_front.upstream, bucket) == {"a"}


def test_held_and_retained_objects_stay(gcs_front: GcsFront, bucket: str) -> None:
    put_many(gcs_front.upstream, bucket, "abcd")
    gcs_front.hold("a")
    gcs_front.hold("b", kind="Event-Based", reason="objectUnderActiveHold")
    gcs_front.retain("c", NOON)
    answers = [error(ask("DELETE", object_url(gcs_front.url, bucket, name))) for name in "abc"]
    end = "hold and cannot be deleted, overwritten or archived until hold is removed."
    kept = "is subject to bucket's retention policy or object retention and cannot be deleted or overwritten until"
    assert answers == [
        (403, "forbidden", f"Object '{bucket}/a' is under active Temporary {end}"),
        (403, "objectUnderActiveHold", f"Object '{bucket}/b' is under active Event-Based {end}"),
        (403, "retentionPolicyNotMet", f"Object '{bucket}/c' {kept} 2026-05-15T12:00:00Z"),
    ]
    refused = ask("DELETE", object_url(gcs_front.url, bucket, "a") + "?ifGenerationMatch=1")
    assert error(refused)[:2] == (412, "conditionNotMet")
    assert deletes(gcs_front, bucket, "d") == [204]
    assert names(gcs_front.upstream, bucket) == {"a", "b", "c"}


def test_a_connection_dies_before_or_after_the_deed(gcs_front: GcsFront, bucket: str) -> None:
    put_many(gcs_front.upstream, bucket, "abc")
    gcs_front.cut("before", name="a")
    gcs_front.cut("after", name="b")
    assert deletes(gcs_front, bucket, *"ab") == ["cut", "cut"]
    assert names(gcs_front.upstream, bucket) == {"a", "c"}
    assert [each.status for each in gcs_front.requests] == [None, None]
    assert deletes(gcs_front, bucket, *"ab") == [204, 404]


def test_down_nobody_answers_and_up_everything_is_as_before(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    put(gcs_front.upstream, bucket, "a")
    before = gcs_front.url
    client.get_bucket(bucket)
    for _ in range(2):
        gcs_front.down()
        # Neither over the connection that is there, nor over a new one.
        with pytest.raises(requests.ConnectionError):
            client.get_bucket(bucket, retry=None)
        with pytest.raises(urllib3.exceptions.NewConnectionError):
            ask("GET", gcs_front.url)
        gcs_front.up()
        assert gcs_front.url == before
        assert client.bucket(bucket).get_blob("a") is not None


def test_a_server_that_is_gone_cuts_connections(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = GcsServer(tmp_path)
    request.addfinalizer(server.remove)
    server.start()
    with GcsFront(server.url) as front:
        server.stop()
        assert deletes(front, "a-bucket", "a") == ["cut"]


def test_a_delay_holds_back_a_kind_of_request(gcs_front: GcsFront, bucket: str) -> None:
    put_many(gcs_front.upstream, bucket, "ab")
    gcs_front.delay(3600, "DELETE")
    with (
        urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=30, read=0.2)) as impatient,
        pytest.raises(urllib3.exceptions.ReadTimeoutError),
    ):
        impatient.request("DELETE", object_url(gcs_front.url, bucket, "a"))
    assert names(gcs_front.url, bucket) == {"a", "b"}
    gcs_front.delay(0, "DELETE")
    assert deletes(gcs_front, bucket, "b") == [204]


def test_something_is_done_before_a_request_is_passed_on(gcs_front: GcsFront, bucket: str, client: Client) -> None:
    put_many(gcs_front.upstream, bucket, "ab")
    seen = client.bucket(bucket).get_blob("a")
    came: list[str | None] = []

    def replace(name: str | None) -> None:
        came.append(name)
        put(gcs_front.upstream, bucket, "a", b"newer")

    gcs_front.before("DELETE", replace)
    with pytest.raises(exceptions.PreconditionFailed):
        client.bucket(bucket).delete_blob("a", if_generation_match=seen.generation)
    assert client.bucket(bucket).blob("a").download_as_bytes() == b"newer"
    assert came == ["a"]
    gcs_front.clear()
    assert deletes(gcs_front, bucket, "a") == [204]
    assert came == ["a"]


def test_callbacks_hold_up_only_their_own_requests(gcs_front: GcsFront, bucket: str) -> None:
    """Thirty-two wait for one another, which they could not do one by one."""
    put_many(gcs_front.upstream, bucket, map(str, range(32)))
    barrier = threading.Barrier(32, timeout=30)
    gcs_front.before("DELETE", lambda _: barrier.wait())
    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(lambda name: deletes(gcs_front, bucket, name), map(str, range(32))))
    assert statuses == [[204]] * 32


def test_a_callback_may_take_the_front_down(gcs_front: GcsFront, bucket: str) -> None:
    put(gcs_front.upstream, bucket, "a")
    gcs_front.before("DELETE", lambda _: gcs_front.down())
    assert deletes(gcs_front, bucket, "a") == ["cut"]
    gcs_front.up()


def test_a_callback_s_error_is_told(stack: Stack, bucket: str) -> None:
    def fail(name: str | None) -> None:
        raise ZeroDivisionError(name)

    def leave() -> None:
        with GcsFront(stack.gcs_url) as front:
            front.before("DELETE", fail)
            assert deletes(front, bucket, "a") == [500]

    with pytest.raises(ZeroDivisionError, match="a"):
        leave()


def test_a_taken_port_is_replaced_and_none_told(
    stack: Stack, gcs_front: GcsFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [guardian.free_port(), gcs_front.port]
    monkeypatch.setattr(guardian, "free_port", ports.pop)
    with GcsFront(stack.gcs_url) as front:
        assert front.port != gcs_front.port
    monkeypatch.setattr(guardian, "free_port", lambda: gcs_front.port)
    with (
        pytest.raises(StartError, match=r"front of the storage server cannot listen on .*in use"),
        GcsFront("http://x"),
    ):
        pass
