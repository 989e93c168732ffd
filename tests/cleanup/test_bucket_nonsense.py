"""A server in the bucket's place that answers with nothing to the point: nothing is taken for gone, nothing for old."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.bucket_calls import Answer, Deletion
from shared.cleanup_settings import cleanup_settings
from shared.errors import Unavailable
from shared.gcs import GcsBucket

# Each is no answer to a listing and, unless it is about items, none to a look at the bucket.
NOTHING = ["<html>We are down</html>", "", "[]", "7", '"text"', '{"items": [']
LISTINGS = [
    *NOTHING,
    '{"items": 7}',
    '{"items": [7]}',
    '{"items": [{}]}',
    '{"items": [{"name": "n"}]}',
    '{"items": [{"name": "n", "generation": "x", "timeCreated": "2026-01-01T00:00:00Z"}]}',
    '{"items": [{"name": "n", "generation": "1", "timeCreated": "long ago"}]}',
]
STATES = [*NOTHING, '{"softDeletePolicy": 7}', '{"softDeletePolicy": {"retentionDurationSeconds": "long"}}']


@pytest.fixture
def saying() -> Iterator[tuple[GcsBucket, list[bytes]]]:
    """The adapter, and the body that it is answered with, whatever it asks."""
    bodies = [b""]

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(bodies[0])))
            self.end_headers()
            self.wfile.write(bodies[0])

        do_GET = answer  # noqa: N815  a name of the library's

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        bucket = GcsBucket(cleanup_settings({"GCS_BUCKET_NAME": "abc", "STORAGE_EMULATOR_HOST": url}), connections=1)
        yield bucket, bodies
        bucket.close()
        server.shutdown()


@pytest.mark.parametrize("body", LISTINGS)
def test_a_listing_that_is_none_tells_of_no_object_and_of_no_absence(
    saying: tuple[GcsBucket, list[bytes]], body: str
) -> None:
    bucket, bodies = saying
    bodies[0] = body.encode()
    told = bucket.find("n")
    assert isinstance(told, Deletion)
    assert told.answer is Answer.BUSY
    with pytest.raises(Unavailable):
        list(bucket.pages(None))


@pytest.mark.parametrize("body", STATES)
def test_a_bucket_that_says_nothing_of_itself_is_unavailable(saying: tuple[GcsBucket, list[bytes]], body: str) -> None:
    bucket, bodies = saying
    bodies[0] = body.encode()
    with pytest.raises(Unavailable):
        bucket.state()
