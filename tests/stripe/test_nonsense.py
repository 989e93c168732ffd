"""A Stripe that answers with too much, with nothing to the point, or with nothing that ends."""

import gzip
import json
import socketserver
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import pytest

from shared import stripe_api
from shared.stripe_api import StripeApi
from shared.stripe_calls import CallFailed, MeterEvent
from shared.stripe_settings import stripe_settings
from tests.support.clock import NOON

EVENT = MeterEvent("pages", {"stripe_customer_id": "cus_1", "value": "5"}, "an-id", NOON - timedelta(hours=1))
TAKEN = b'{"object": "billing.meter_event", "identifier": "an-id"}'
Write = Callable[[BaseHTTPRequestHandler], None]


class Line:
    """A server that answers everything in the way that a test says, and the adapter on it."""

    def __init__(self) -> None:
        self.calls = 0
        self.write: Write = lambda _: None
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                line.calls += 1
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                line.write(self)

            do_GET = do_POST = answer  # noqa: N815  names of the library's

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that has heard enough hangs up."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        settings = {"STRIPE_SECRET_KEY": "sk_test_abcdefghijklmnop", "STRIPE_API_BASE": self.url}
        self.api = StripeApi(stripe_settings(settings), connections=4)

    def reads(self) -> list[Callable[[], object]]:
        return [
            lambda: self.api.meter("mtr_1"),
            lambda: self.api.subscriptions("cus_1"),
            lambda: self.api.usage("mtr_1", "cus_1", NOON - timedelta(hours=1), NOON),
            lambda: self.api.refusal_reports(NOON, None),
        ]


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.api.close()
    line.server.shutdown()
    line.server.server_close()


def saying(body: bytes, status: int = 200, **headers: str) -> Write:
    """An answer with this body, and with headers whose names have dashes."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


def nothing_to_the_point(line: Line) -> None:
    """Sending is in doubt, and each read failed: nothing of the answer is believed."""
    answer = line.api.send(EVENT, "a-key")
    assert not answer.readable or answer.status is None
    for read in line.reads():
        with pytest.raises(CallFailed) as caught:
            read()
        assert not caught.value.answer.readable or caught.value.answer.status is None


def test_the_stand_in_can_say_yes(line: Line) -> None:
    line.write = saying(TAKEN)
    assert line.api.send(EVENT, "a-key").readable
    line.write = saying(gzip.compress(TAKEN), Content_Encoding="gzip")
    assert line.api.send(EVENT, "a-key").readable


@pytest.mark.parametrize("place", ["/v1/billing/meter_events", "https://127.0.0.1:1/", "//127.0.0.1:1", "javascript:"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(line: Line, status: int, place: str) -> None:
    """Whoever is sent elsewhere takes the key along."""
    line.write = saying(b"", status, Location=place)
    nothing_to_the_point(line)
    assert line.calls == 5


LARGE = 64 * 1024 * 1024
BOMBS = {
    "ten megabytes of HTML": saying(b"<html>" + b"x" * 10_000_000),
    "no end of numbers": saying(b'{"a": ' + b"1" * 5_000_000 + b"}"),
    "lists in lists": saying(b"[" * 1_000_000),
    "objects in objects": saying(b'{"data":' * 100_000 + b"1" + b"}" * 100_000),
    "no JSON, compressed": saying(gzip.compress(b"x" * LARGE), Content_Encoding="gzip"),
    "deflated": saying(zlib.compress(b"x" * LARGE), Content_Encoding="deflate"),
    "compressed twice": saying(gzip.compress(gzip.compress(b"x" * LARGE)), Content_Encoding="gzip, gzip"),
    "not compressed at all": saying(TAKEN, Content_Encoding="gzip"),
    "compressed in a way that nobody knows": saying(b"\x00\x01\x02", Content_Encoding="nonsense"),
    "compressed many times": saying(TAKEN, Content_Encoding=", ".join(["gzip"] * 50)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_too_much_is_nothing_to_the_point(line: Line, kind: str) -> None:
    line.write = BOMBS[kind]
    tracemalloc.start()
    try:
        nothing_to_the_point(line)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(TAKEN)
    handler.close_connection = True


def half_a_chunk(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"zz\r\n" + TAKEN)
    handler.close_connection = True


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n")
    handler.close_connection = True


def many_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    for number in range(5_000):
        handler.send_header(f"X-{number}", "x")
    handler.end_headers()
    handler.close_connection = True


BROKEN = {each.__name__: each for each in (cut, half_a_chunk, no_http, many_headers)}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_answer_that_breaks_off_is_nothing_to_the_point(line: Line, kind: str) -> None:
    line.write = BROKEN[kind]
    nothing_to_the_point(line)


@pytest.mark.parametrize("status", [200, 204, 205, 304])
def test_an_answer_without_a_body_is_nothing_to_the_point(line: Line, status: int) -> None:
    line.write = saying(b"", status)
    nothing_to_the_point(line)


@pytest.mark.parametrize(
    "value",
    ["soon", "-1", "1e9", "inf", "nan", "0x10", "1.5", "٣", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 5000],
)
def test_no_wait_is_longer_than_an_hour_or_shorter_than_none(line: Line, value: str) -> None:
    body = json.dumps({"error": {"type": "invalid_request_error", "message": "Slow down."}}).encode()
    line.write = saying(body, 429, Retry_After=value.encode().decode("latin-1"))
    wait = line.api.send(EVENT, "a-key").retry_after
    assert wait is None or 0 <= wait <= 3600


LIST = {"object": "list", "has_more": False, "url": "/v1/x"}
OTHERS = {
    "a list in place of a meter": (0, {**LIST, "data": []}),
    "a meter without its keys": (0, {"object": "billing.meter", "id": "mtr_1"}),
    "another meter": (0, {"object": "billing.meter", "id": "mtr_2", "event_name": "pages", "status": "active",
                          "default_aggregation": {"formula": "sum"}, "customer_mapping": {"event_payload_key": "c"},
                          "value_settings": {"event_payload_key": "v"}, "livemode": False}),
    "another customer's subscription": (1, {**LIST, "data": [
        {"object": "subscription", "id": "sub_1", "customer": "cus_2", "status": "active", "start_date": 1,
         "ended_at": None, "items": {"object": "list", "data": [], "has_more": False}}]}),
    "a subscription that began in a year without a number": (1, {**LIST, "data": [
        {"object": "subscription", "id": "sub_1", "customer": "cus_1", "status": "active", "start_date": 10**18,
         "ended_at": None, "items": {"object": "list", "data": [], "has_more": False}}]}),
    "usage that is no number": (2, {**LIST, "data": [
        {"object": "billing.meter_event_summary", "id": "a", "meter": "mtr_1", "start_time": 1,
         "aggregated_value": "many"}]}),
    "usage without end": (2, {**LIST, "data": [
        {"object": "billing.meter_event_summary", "id": "a", "meter": "mtr_1", "start_time": 1,
         "aggregated_value": 1e999}]}),
    "usage of another meter": (2, {**LIST, "data": [
        {"object": "billing.meter_event_summary", "id": "a", "meter": "mtr_2", "start_time": 1,
         "aggregated_value": 1}]}),
    "usage in a year without a number": (2, {**LIST, "data": [
        {"object": "billing.meter_event_summary", "id": "a", "meter": "mtr_1", "start_time": 10**18,
         "aggregated_value": 1}]}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_an_answer_about_something_else_is_none(line: Line, kind: str) -> None:
    which, body = OTHERS[kind]
    line.write = saying(json.dumps(body).encode())
    with pytest.raises(CallFailed):
        line.reads()[which]()


def test_a_list_that_has_no_end_is_given_up(line: Line) -> None:
    """Each page says that there is another, and is the same."""
    item = {"object": "subscription", "id": "sub_1", "customer": "cus_1", "status": "active", "start_date": 1,
            "ended_at": None, "items": {"object": "list", "data": [], "has_more": False}}  # fmt: skip
    page = {**LIST, "url": "/v1/subscriptions", "has_more": True, "data": [item] * 100}
    line.write = saying(json.dumps(page).encode())
    with pytest.raises(CallFailed):
        line.api.subscriptions("cus_1")
    assert line.calls == 1


def test_a_list_that_never_repeats_itself_is_given_up_as_well(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_api, "_LONGEST_LIST", 250)

    def write(handler: BaseHTTPRequestHandler) -> None:
        first = line.calls * 100
        items = [{"object": "subscription", "id": f"sub_{number}", "customer": "cus_1", "status": "active",
                  "start_date": 1, "ended_at": None, "items": {"object": "list", "data": [], "has_more": False}}
                 for number in range(first, first + 100)]  # fmt: skip
        saying(json.dumps({**LIST, "url": "/v1/subscriptions", "has_more": line.calls < 10, "data": items}).encode())(
            handler
        )

    line.write = write
    with pytest.raises(CallFailed):
        line.api.subscriptions("cus_1")
    assert line.calls == 3


def test_an_empty_page_that_promises_more_is_given_up(line: Line) -> None:
    line.write = saying(json.dumps({**LIST, "url": "/v1/subscriptions", "has_more": True, "data": []}).encode())
    with pytest.raises(CallFailed):
        line.api.subscriptions("cus_1")
    assert line.calls == 1


# ---- what an error says


KEY = "sk_test_abcdefghijklmnop"


@pytest.mark.parametrize(
    "body", [[], ["error"], 7, "error", None, {"error": 7}, {"error": ["type"]}, {"error": "type"}]
)
@pytest.mark.parametrize("status", [400, 402, 429, 500])
def test_an_error_of_another_form_is_none_of_stripes(line: Line, status: int, body: object) -> None:
    line.write = saying(json.dumps(body).encode(), status)
    nothing_to_the_point(line)


def test_what_an_error_says_can_be_kept_and_does_not_quote_the_key(line: Line) -> None:
    """PostgreSQL keeps no NUL and no half of a character."""
    said = {"type": "invalid_request_error", "code": "a\0b", "message": f"a\0b\ud800c {KEY} " + "x" * 2_000}
    line.write = saying(json.dumps({"error": said}).encode(), 400)
    answer = line.api.send(EVENT, "a-key")
    assert (answer.readable, answer.code) == (True, "a?b")
    assert answer.message.startswith("a?b?c [redacted] xxx")
    assert len(answer.message) == 500


@pytest.mark.parametrize("value", [7, True, ["a"], {"a": 1}, None])
def test_what_should_be_text_and_is_not_is_left_out(line: Line, value: object) -> None:
    said = {"type": "invalid_request_error", "code": value, "message": value}
    line.write = saying(json.dumps({"error": said}).encode(), 400)
    answer = line.api.send(EVENT, "a-key")
    assert (answer.readable, answer.code, type(answer.message)) == (True, None, str)
    line.write = saying(json.dumps({"error": {**said, "type": value}}).encode(), 400)
    answer = line.api.send(EVENT, "a-key")
    assert (answer.readable, answer.kind) == (False, None)


def test_a_wait_in_digits_of_another_kind_is_none(line: Line) -> None:
    line.write = saying(json.dumps({"error": {"type": "rate_limit"}}).encode(), 429, Retry_After="\xb2")
    assert line.api.send(EVENT, "a-key").retry_after is None


def test_a_connection_that_fails_is_told_without_its_address() -> None:
    settings = {"STRIPE_SECRET_KEY": KEY, "STRIPE_API_BASE": "http://127.0.0.1:1"}
    api = StripeApi(stripe_settings(settings), connections=1)
    answer = api.send(EVENT, "a-key")
    api.close()
    assert answer.status is None
    assert "127.0.0.1" not in answer.message
    assert "connection failed" in answer.message


# ---- reports of later refusals


def reporting(data: object) -> Write:
    event = {"object": "v2.core.event", "id": "evt_1", "type": "v1.billing.meter.error_report_triggered",
             "created": "2026-05-15T12:00:00Z", "related_object": {"id": "mtr_1", "type": "billing.meter"},
             "data": data}  # fmt: skip
    return saying(json.dumps({"data": [event], "next_page_url": None}).encode())


REASONS = [{}, {"reason": 7}, {"reason": {}}, {"reason": {"error_types": 7}}, {"reason": {"error_types": [7]}},
           {"reason": {"error_types": [{"code": "x"}]}},
           {"reason": {"error_types": [{"code": "x", "error_count": "y"}]}},
           {"reason": {"error_types": [{"code": "x", "error_count": float("inf")}]}},
           {"reason": {"error_types": [{"code": "x", "error_count": 1, "sample_errors": [7]}]}}]  # fmt: skip


@pytest.mark.parametrize("data", REASONS, ids=str)
def test_a_report_of_another_form_is_kept_as_one_that_nobody_can_read(line: Line, data: object) -> None:
    line.write = reporting(data)
    (report,) = line.api.refusal_reports(NOON, None)
    assert (report.id, report.is_readable, list(report.refusals or ())) == ("evt_1", False, [])


def test_of_a_report_only_identifiers_that_are_text_are_named(line: Line) -> None:
    samples = [
        {"request": {"identifier": each}, "error_message": "m\0" + "x" * 2_000} for each in ("a", 7, ["b"], None, "c\0")
    ]
    line.write = reporting({"reason": {"error_types": [{"code": 7, "error_count": 5, "sample_errors": samples}]}})
    (report,) = line.api.refusal_reports(NOON, None)
    (refusal,) = report.refusals or ()
    assert (report.is_readable, refusal.code, refusal.count, list(refusal.named)) == (True, "unknown", 5, ["a", "c?"])
    assert refusal.named["a"] == "m?" + "x" * 498
