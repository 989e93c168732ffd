"""The adapter: Stripe's SDK, and whatever else may answer in Stripe's place."""

import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

import pytest

from devstack.serving import REPOSITORY
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from shared import stripe_api
from shared.stripe_api import StripeApi
from shared.stripe_calls import CallFailed, MeterEvent
from shared.stripe_settings import stripe_settings
from tests.support.clock import NOON, ManualClock

EVENT = MeterEvent("pages", {"stripe_customer_id": "cus_1", "value": "5"}, "an-id", NOON - timedelta(hours=1))


class Line:
    """An account, its server and the adapter on it."""

    def __init__(self, account: Account, server: StripeServer) -> None:
        self.account = account
        self.server = server
        account.add_customer("cus_1")
        self.api = StripeApi(
            stripe_settings({"STRIPE_SECRET_KEY": account.secret_key, "STRIPE_API_BASE": server.url}), connections=4
        )


@pytest.fixture
def line(clock: ManualClock) -> Iterator[Line]:
    account = Account(clock)
    with StripeServer(account) as server:
        line = Line(account, server)
        yield line
        line.api.close()


def test_an_event_arrives_as_it_was_frozen(line: Line) -> None:
    assert line.api.send(EVENT, "a-key").status == 200
    (event,) = line.account.events
    assert (event.identifier, event.value, event.timestamp) == ("an-id", 5, NOON - timedelta(hours=1))
    (request,) = line.server.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    assert headers["idempotency-key"] == "a-key"
    assert headers["authorization"] == f"Bearer {line.account.secret_key}"


def test_it_is_sent_once_whatever_comes(line: Line) -> None:
    """One retry layer, and this is not it."""
    for kind in ("500_after", "cut_after", "429", "409"):
        line.account.faults.add(kind)
        line.api.send(EVENT, f"key of {kind}")
    assert len(line.server.requests) == 4


NONSENSE = [
    "",
    "{",
    "[]",
    "null",
    "7",
    "<html>We are down</html>",
    '{"object": "billing.meter_event"}',
    '{"object": "billing.meter_event", "identifier": null}',
    '{"object": "billing.meter_event", "identifier": "another"}',
    '{"identifier": {"a": []}}',
    '"text"',
]


@pytest.mark.parametrize("body", NONSENSE)
def test_an_answer_that_is_no_answer_is_not_readable(line: Line, body: str) -> None:
    line.account.faults.add("status", status=200, body=body)
    answer = line.api.send(EVENT, "a-key")
    assert (answer.status, answer.readable) == (200, False)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 502, 301])
@pytest.mark.parametrize("body", ["", "<html>no</html>", "[]", '{"error": "no"}', '{"error": []}'])
def test_an_error_that_is_none_of_stripes_is_not_readable(line: Line, status: int, body: str) -> None:
    line.account.faults.add("status", status=status, body=body)
    answer = line.api.send(EVENT, "a-key")
    assert not answer.readable


@pytest.mark.parametrize("body", NONSENSE)
def test_a_read_of_nonsense_fails_as_a_call(line: Line, body: str) -> None:
    line.account.faults.add("status", status=200, body=body, method="GET", path="*", times=None)
    meter = line.account.meter.id
    reads = (
        lambda: line.api.meter(meter),
        lambda: line.api.subscriptions("cus_1"),
        lambda: line.api.usage(meter, "cus_1", NOON - timedelta(hours=1), NOON),
        lambda: line.api.refusal_reports(NOON, None),
    )
    for read in reads:
        with pytest.raises(CallFailed) as caught:
            read()
        assert not caught.value.answer.readable


def test_an_error_of_stripes_is_told_in_its_words(line: Line) -> None:
    with pytest.raises(CallFailed) as caught:
        line.api.meter("mtr_none")
    answer = caught.value.answer
    assert (answer.status, answer.readable, answer.kind, answer.code) == (
        404,
        True,
        "invalid_request_error",
        "resource_missing",
    )
    assert "mtr_none" in answer.message


def test_retry_after_is_read_in_seconds_and_only_so(line: Line) -> None:
    for value, seconds in (("7", 7.0), ("999999", 3600.0), ("soon", None), ("-1", None), ("", None)):
        body = {"error": {"type": "invalid_request_error", "message": "Slow down."}}
        line.account.faults.add("status", status=429, body=body, headers={"Retry-After": value})
        assert line.api.send(EVENT, "a-key").retry_after == seconds


def test_nobody_there_is_no_answer(line: Line) -> None:
    line.server.stop()
    answer = line.api.send(EVENT, "a-key")
    assert answer.status is None
    with pytest.raises(CallFailed) as caught:
        line.api.meter("mtr_none")
    assert caught.value.answer.status is None


def test_long_lists_are_read_to_their_end(line: Line) -> None:
    for _ in range(230):
        line.account.add_subscription("cus_1", start=NOON - timedelta(days=1))
    assert len(line.api.subscriptions("cus_1")) == 230
    meter = line.account.meter.id
    start = NOON.replace(hour=0) - timedelta(days=20)
    for hour in range(300):
        event = MeterEvent(
            "pages", {"stripe_customer_id": "cus_1", "value": "1"}, f"h{hour}", start + timedelta(hours=hour)
        )
        assert line.api.send(event, f"h{hour}").status == 200
    usage = line.api.usage(meter, "cus_1", start, start + timedelta(days=20), "hour")
    assert (len(usage), sum(usage.values())) == (300, 300)
    assert sum(line.api.usage(meter, "cus_1", start, start + timedelta(days=20)).values()) == 300


def test_prices_that_are_not_all_shown_are_noticed(line: Line) -> None:
    line.account.add_subscription("cus_1", start=NOON, items=30)
    (subscription,) = line.api.subscriptions("cus_1")
    assert not subscription.all_shown
    assert line.account.meter.id not in subscription.meters


def test_reports_come_oldest_first_and_from_the_time_asked_for(line: Line, clock: ManualClock) -> None:
    for number in range(12):
        event = MeterEvent("pages", EVENT.payload, f"e{number}", NOON)
        line.api.send(event, f"e{number}")
        clock.advance(minutes=1)
        line.account.refuse_later(f"e{number}")
    reports = line.api.refusal_reports(NOON - timedelta(days=1), None)
    named = [name for report in reports for refusal in report.refusals or () for name in refusal.named]
    assert named == [f"e{number}" for number in range(12)]
    between = line.api.refusal_reports(reports[4].created, reports[7].created)
    assert between == reports[4:7]
    before = len(line.server.requests)
    assert len(line.api.refusal_reports(NOON - timedelta(days=1), None, 5)) == 5
    assert len(line.server.requests) - before == 1, "what is not asked for is not read"


def test_what_is_hidden_while_the_sdk_is_imported_is_so_for_that_thread_alone() -> None:
    found: list[ModuleSpec | None] = []

    class Finder(MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
            return ModuleSpec(name, None) if name == "this_module_is_hidden" else None

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        with stripe_api._Hidden("this_module_is_hidden"):
            with pytest.raises(ModuleNotFoundError, match="not used"):
                importlib.import_module("this_module_is_hidden")
            thread = threading.Thread(target=lambda: found.append(find_spec("this_module_is_hidden")))
            thread.start()
            thread.join()
    finally:
        sys.meta_path.remove(finder)
    assert found[0] is not None


def test_no_http_library_is_loaded_for_transports_that_are_not_used() -> None:
    told = "import sys, shared.stripe_api; print(*({'requests', 'aiohttp', 'httpx'} & {*sys.modules})); import requests"
    done = subprocess.run([sys.executable, "-c", told], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
