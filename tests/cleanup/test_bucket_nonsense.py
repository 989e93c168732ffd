"""A server in the bucket's place that answers anything: nothing is taken for gone that is not, and nothing for old."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.bucket_calls import Answer, Deletion
from shared.cleanup_settings import cleanup_settings
from shared.errors import Misconfigured, Unavailable
from shared.gcs import GcsBucket

# Each is no answer to a listing and, unless it is about items, none to a look at the bucket.
NOTHING = ["<html>We are down</html>", "", "[]", "7", '"text"', '{"items": [', "[" * 100_000]
LISTINGS = [
    *NOTHING,
    '{"items": 7}',
    '{"items": [7]}',
    '{"items": [{}]}',
    '{"items": [{"name": "n"}]}',
    '{"items": [{"name": "n", "generation": "1"}]}',
    '{"items": [{"name": "n", "timeCreated": "2026-01-01T00:00:00Z"}]}',
    '{"items": [{"name": "n", "generation": "x", "timeCreated": "2026-01-01T00:00:00Z"}]}',
    '{"items": [{"name": "n", "generation": "1", "timeCreated": "long ago"}]}',
]
STATES = [
    *NOTHING,
    '{"softDeletePolicy": 7}',
    '{"softDeletePolicy": {"retentionDurationSeconds": "long"}}',
    '{"softDeletePolicy": {"retentionDurationSeconds": "99999999999999999999"}}',
]


class Saying:
    """A server that answers everything with one status and body, and the adapter on it."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.asked: list[str] = []
        saying = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                saying.asked.append(f"{self.command} {self.path}")
                if saying.status == 0:
                    return
                self.send_response(saying.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(saying.body)))
                self.end_headers()
                self.wfile.write(saying.body)

            do_GET = do_DELETE = answer  # noqa: N815  names of the library's

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        settings = cleanup_settings({"GCS_BUCKET_NAME": "abc", "STORAGE_EMULATOR_HOST": url})
        self.bucket = GcsBucket(settings, connections=1)

    def says(self, status: int, body: object) -> None:
        """From now on, this is the answer; with status 0 it hangs up."""
        self.status, self.body = status, json.dumps(body).encode()


@pytest.fixture
def saying() -> Iterator[Saying]:
    said = Saying()
    with said.server as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield said
        said.bucket.close()
        server.shutdown()


@pytest.mark.parametrize("body", LISTINGS)
def test_a_listing_that_is_none_tells_of_no_object_and_of_no_absence(saying: Saying, body: str) -> None:
    saying.body = body.encode()
    told = saying.bucket.find("n")
    assert isinstance(told, Deletion)
    assert told.answer is Answer.BUSY
    with pytest.raises(Unavailable):
        list(saying.bucket.pages(None))


@pytest.mark.parametrize("body", STATES)
def test_a_bucket_that_says_nothing_of_itself_is_unavailable(saying: Saying, body: str) -> None:
    saying.body = body.encode()
    with pytest.raises(Unavailable):
        saying.bucket.state()


def test_an_object_whose_name_only_begins_so_is_another(saying: Saying) -> None:
    saying.says(200, {"items": [{"name": "n2", "generation": "1", "timeCreated": "2026-01-01T00:00:00Z"}]})
    assert saying.bucket.find("n") == Deletion(Answer.ABSENT)


# ---- one deletion


def refusing(*errors: object, message: str = "private.pdf") -> dict[str, object]:
    """The body of an error, as the JSON API words it."""
    return {"error": {"errors": errors, "message": message}}


HELD_TEXT = "Object 'b/private.pdf' is under active Event-Based hold and cannot be deleted"
ANSWERS = {
    "hangs up": (0, {}, Answer.BUSY),
    "timed out": (408, refusing(), Answer.BUSY),
    "conflict": (409, refusing(), Answer.BUSY),
    "too fast": (429, refusing(), Answer.BUSY),
    "broken": (500, refusing(), Answer.BUSY),
    "down": (503, refusing(), Answer.BUSY),
    "wrong": (400, refusing({"reason": "invalid"}), Answer.REFUSED),
    "gone": (404, refusing({"reason": "notFound", "message": "No such object: b/private.pdf"}), Answer.ABSENT),
    "written again": (412, refusing(), Answer.CHANGED),
    "retained, by the reason": (403, refusing({"reason": "retentionPolicyNotMet", "message": "?"}), Answer.HELD),
    "held, by the reason": (403, refusing({"reason": "objectUnderActiveHold", "message": "?"}), Answer.HELD),
    "held, by the message": (403, refusing({"reason": "forbidden", "message": HELD_TEXT}), Answer.HELD),
    "held, as a second error": (403, refusing(7, {"reason": "objectUnderActiveHold"}), Answer.HELD),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_each_answer_to_a_deletion_is_taken_for_what_it_is_and_names_no_object(saying: Saying, kind: str) -> None:
    status, body, answer = ANSWERS[kind]
    saying.says(status, body)
    told = saying.bucket.delete("private.pdf", 7)
    assert (told.answer, told.too_fast) == (answer, status == 429)
    assert "private" not in (told.reason or "")
    # One attempt: the outbox knows when to try again.
    (asked,) = [each for each in saying.asked if each.startswith("DELETE")]
    assert "ifGenerationMatch=7" in asked


@pytest.mark.parametrize("errors", [[], [7], ["forbidden"], [None], [{}], [{"reason": 7}], [{"reason": None}]], ids=str)
def test_a_refusal_that_says_nothing_is_a_missing_right(saying: Saying, errors: list[object]) -> None:
    saying.says(403, refusing(*errors))
    with pytest.raises(Misconfigured):
        saying.bucket.delete("private.pdf", 7)


def test_a_name_that_cannot_be_sent_is_refused_and_tried_no_more(saying: Saying) -> None:
    assert saying.bucket.delete("half a \ud800", 7).answer is Answer.REFUSED
    assert saying.asked == []
