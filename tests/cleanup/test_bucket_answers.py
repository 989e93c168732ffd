"""What the bucket answers, and what a person is told of it: a right that is missing is no hold, and the reverse."""

import threading

import pytest
from google.auth.exceptions import RefreshError, TransportError

from shared.bucket_calls import Answer, Deletion
from shared.cleanup_settings import cleanup_settings
from shared.errors import Misconfigured
from shared.gcs import GcsBucket
from shared.outcome import Status
from tests.support.cleanup import CleanupWorld

HOLD = "Object 'b/o' is under active Temporary hold and cannot be deleted"


@pytest.mark.parametrize(
    "name", ["1_data-retention-policy.pdf", f"1_{HOLD}.pdf", "1_subject to bucket's retention.pdf"]
)
@pytest.mark.parametrize("permission", ["storage.objects.delete", "storage.objects.list"])
def test_a_missing_right_is_named_whatever_the_object_is_called(
    world: CleanupWorld, name: str, permission: str
) -> None:
    run = world.draft(world.job())
    world.file(run, f"imports/{run}/{name}")
    world.front.forbid(permission)
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, permission in outcome.message) == (Status.MISCONFIGURED, True)
    assert [row["state"] for row in world.outbox()] == ["pending"]


def test_a_missing_right_is_named_though_its_message_names_an_object_that_speaks_of_a_hold(world: CleanupWorld) -> None:
    world.file(world.draft(world.job()))
    message = f"lea@project.iam.gserviceaccount.com does not have storage.objects.delete access to {HOLD}."
    world.front.fail(403, reason="forbidden", message=message)
    assert world.run("abandoned_cleanup").status is Status.MISCONFIGURED
    assert [row["state"] for row in world.outbox()] == ["pending"]


@pytest.mark.parametrize("on", ["object", "list"])
def test_a_bucket_that_vanishes_meanwhile_is_no_object_that_is_gone(world: CleanupWorld, on: str) -> None:
    run = world.draft(world.job())
    world.file(run, f"imports/{run}/1_a.pdf" if on == "list" else None)
    method = "GET" if on == "list" else "DELETE"
    # To a listing there is nothing else that could be missing, in whatever words.
    message = "Not Found" if on == "list" else "The specified bucket does not exist."
    world.front.fail(404, method=method, on=on, message=message)  # type: ignore[arg-type]
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, world.bucket in outcome.message) == (Status.MISCONFIGURED, True)
    assert [row["state"] for row in world.outbox()] == ["pending"]


@pytest.mark.parametrize(
    ("status", "method", "on", "reason"),
    [(400, "GET", "bucket", "required"), (403, "DELETE", "object", "accountDisabled"), (403, "GET", "bucket", "x&'y")],
)
def test_a_bucket_that_refuses_everything_is_not_told_as_a_missing_right(
    world: CleanupWorld, status: int, method: str, on: str, reason: str
) -> None:
    world.file(world.draft(world.job()))
    world.front.fail(status, method=method, on=on, reason=reason, message="secret")  # type: ignore[arg-type]
    outcome = world.run("abandoned_cleanup")
    assert outcome.status is Status.MISCONFIGURED
    assert (world.bucket in outcome.message, "secret" in outcome.message) == (True, False)
    assert (reason if reason.isalnum() else "storage.buckets.get") in outcome.message


def attempt(error: Exception) -> Deletion | None:
    """What comes of a call in which this goes wrong before anything is sent."""
    bucket = GcsBucket(
        cleanup_settings({"GCS_BUCKET_NAME": "abc", "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"}), connections=1
    )

    def call() -> object:
        raise error

    try:
        return bucket._attempt(call, "storage.objects.delete")
    finally:
        bucket.close()


@pytest.mark.parametrize(
    "error",
    [
        TransportError("503"),  # type: ignore[no-untyped-call]
        RefreshError(TransportError("503")),  # type: ignore[no-untyped-call]
        RefreshError("temporarily_unavailable", retryable=True),  # type: ignore[no-untyped-call]
    ],
    ids=["by itself", "wrapped", "that says so"],
)
def test_a_hiccup_of_the_login_service_is_no_wrong_setting(error: Exception) -> None:
    told = attempt(error)
    assert isinstance(told, Deletion)
    assert told.answer is Answer.BUSY


def test_a_login_that_is_refused_for_good_is_a_wrong_setting() -> None:
    with pytest.raises(Misconfigured, match="gcloud auth application-default login"):
        attempt(RefreshError("invalid_grant"))  # type: ignore[no-untyped-call]


def test_objects_that_the_bucket_will_not_delete_are_failures_with_their_reason(world: CleanupWorld) -> None:
    runs = [world.draft(world.job()) for _ in range(3)]
    files = [world.file(run) for run in runs]
    name = world.object_of(files[1])
    world.front.fail(400, name=name, reason="invalid")
    environment = world.environment()
    outcome = environment.run("abandoned_cleanup")
    assert (outcome.status, outcome.counts["failed_count"], outcome.counts["objects_deleted"]) == (
        Status.COMPLETED,
        1,
        2,
    )
    (line,) = [line for line in environment.lines() if line.get("event") == "item"]
    assert "object_deletions" in line["item"]
    assert "400" in line["message"]
    assert name not in environment.log
    # It is tried again each day, and its age tells that it is stuck.
    world.clock.advance(days=3)
    again = world.run("abandoned_cleanup").counts
    assert (again["open_objects"], again["kept_objects"], again["oldest_open_minutes"]) == (1, 0, 3 * 24 * 60)


@pytest.mark.parametrize("is_known", [False, True])
def test_nothing_is_asked_of_the_bucket_in_a_thread_that_outlives_the_call(world: CleanupWorld, is_known: bool) -> None:
    settings = cleanup_settings({"GCS_BUCKET_NAME": world.bucket, "STORAGE_EMULATOR_HOST": world.front.url})
    bucket = GcsBucket(settings, connections=1)
    done = threading.Event()
    try:
        if is_known:
            bucket.state()
        before = {*threading.enumerate()}
        # Who asks for the bucket from now on waits for its answer, and is seen.
        world.front.before("GET", lambda name: name is None and done.wait(30))
        assert bucket.delete("imports/absent.pdf", None) == Deletion(Answer.ABSENT)
        started = {thread for thread in threading.enumerate() if not thread.name.startswith("gcs-front")} - before
        assert not started
    finally:
        done.set()
        bucket.close()
