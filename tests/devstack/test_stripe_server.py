"""The Stripe stand-in over HTTP, as the real SDK meets it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.util
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import stripe
from stripe import StripeClient

from devstack.guardian import StartError
from devstack.stripe_account import Account
from devstack.stripe_objects import ERROR_REPORT, NO_METER_FOUND
from devstack.stripe_server import StripeServer
from shared.clock import format_rfc3339
from tests.support.clock import NOON, ManualClock
from tests.support.wait import until

REPOSITORY = Path(__file__).parents[2]
# Lies beside the repository where the project is worked on, and is no part of it.
STRIPE_API = Path(__file__).parents[3] / "shared/stripe-api"
HOUR = timedelta(hours=1)
ALWAYS = (NOON - timedelta(days=400), NOON + timedelta(days=400))
AT_NOON = int(NOON.timestamp())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def account(clock: ManualClock) -> Account:
    made = Account(clock)
    made.add_customer("cus_1")
    return made


@pytest.fixture
def server(account: Account) -> Iterator[StripeServer]:
    with StripeServer(account) as started:
        yield started


@pytest.fixture
def client(server: StripeServer) -> Iterator[StripeClient]:
    with connected(server) as made:
        yield made


@contextlib.contextmanager
def connected(server: StripeServer, key: str | None = None) -> Iterator[StripeClient]:
    """An SDK client that does not retry, so that each test sees every answer."""
    transport = stripe.RequestsClient()
    yield StripeClient(
        key or server.account.secret_key,
        base_addresses={"api": server.url},
        http_client=transport,
        max_network_retries=0,
    )
    transport.close()  # type: ignore[no-untyped-call]


def send(
    client: StripeClient, identifier: str | None = None, *, customer: str = "cus_1", key: str | None = None
) -> stripe.billing.MeterEvent:
    params: dict[str, Any] = {"event_name": "pages", "payload": {"stripe_customer_id": customer, "value": "3"}}
    if identifier is not None:
        params["identifier"] = identifier
    return client.v1.billing.meter_events.create(
        params,  # type: ignore[arg-type]
        {} if key is None else {"idempotency_key": key},
    )


def counted(account: Account) -> int:
    return account.counted(None, *ALWAYS)


def plainly(
    server: StripeServer, method: str, target: str, headers: Mapping[str, str] | None = None, body: str | None = None
) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
    """A request without the SDK: status, JSON object, headers."""
    sent = {"Authorization": f"Bearer {server.account.secret_key}"} | dict(headers or {})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, target, body, sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers


class InFlight:
    """A call in a thread of its own; `error` is what it ended with."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  the test asks for it
            self.error = error

    @property
    def lasts(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> BaseException | None:
        self._thread.join(30)
        assert not self.lasts
        return self.error


# What the SDK reads.


def test_a_meter_event_is_accepted_and_counts(account: Account, client: StripeClient) -> None:
    event = client.v1.billing.meter_events.create(
        {
            "event_name": "pages",
            "identifier": "a",
            "payload": {"stripe_customer_id": "cus_1", "value": "3"},
            "timestamp": AT_NOON - 60,
        }
    )
    assert (event.object, event.identifier, event.event_name) == ("billing.meter_event", "a", "pages")
    assert (event.created, event.timestamp, event.livemode) == (AT_NOON, AT_NOON - 60, False)
    assert event.payload["value"] == "3"
    [received] = account.events
    assert (received.customer, received.value, received.timestamp) == ("cus_1", 3, NOON - timedelta(minutes=1))


def test_a_duplicate_is_refused_in_stripes_words_until_it_is_forgotten(
    account: Account, client: StripeClient, clock: ManualClock
) -> None:
    send(client, "a")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        send(client, "a")
    assert caught.value.http_status == 400
    assert caught.value.user_message == "An event already exists with identifier a."
    assert caught.value.code is None
    assert caught.value.headers is not None
    assert caught.value.headers["Stripe-Should-Retry"] == "false"
    assert caught.value.json_body == {
        "error": {"type": "invalid_request_error", "message": "An event already exists with identifier a."}
    }
    clock.advance(hours=24)
    send(client, "a")
    assert counted(account) == 6


def test_an_event_that_is_too_old_is_refused_in_stripes_words(client: StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="cannot be more than 35 days in past") as caught:
        client.v1.billing.meter_events.create(
            {
                "event_name": "pages",
                "payload": {"stripe_customer_id": "cus_1", "value": "3"},
                "timestamp": AT_NOON - 35 * 86400 - 1,
            }
        )
    assert (caught.value.http_status, caught.value.code) == (400, None)


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ({"payload[stripe_customer_id]": "cus_1", "payload[value]": "3"}, "event_name", "parameter_missing"),
        ({"event_name": "pages"}, "payload", "parameter_missing"),
        ({"event_name": "pages", "payload[value]": "3"}, "payload", None),
        ({"event_name": "pages", "payload[stripe_customer_id]": "cus_1", "payload[value]": "x"}, "payload", None),
        ({"event_name": "x" * 101, "payload[value]": "3"}, "event_name", None),
        ({"event_name": "pages", "payload[value]": "3", "timestamp": "now"}, "timestamp", "parameter_invalid_integer"),
        ({"event_name": "pages", "payload[value]": "3", "idempotency": "a"}, "idempotency", "parameter_unknown"),
    ],
)
def test_a_malformed_event_is_refused_and_its_key_stays_free(
    account: Account, server: StripeServer, client: StripeClient, form: Mapping[str, str], param: str, code: str | None
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Idempotency-Key": "k"}
    status, body, _ = plainly(server, "POST", "/v1/billing/meter_events", headers, urlencode(form))
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert (body["error"]["param"], body["error"].get("code")) == (param, code)
    assert account.events == []
    send(client, key="k")


def test_meters_can_be_read(account: Account, client: StripeClient) -> None:
    meter = client.v1.billing.meters.retrieve(account.meter.id)
    assert (meter.id, meter.event_name, meter.status, meter.livemode) == (account.meter.id, "pages", "active", False)
    assert (meter.default_aggregation.formula, meter.event_time_window) == ("sum", None)
    assert meter.customer_mapping.event_payload_key == "stripe_customer_id"
    assert meter.value_settings.event_payload_key == "value"
    other = account.add_meter("words")
    other.status = "inactive"
    assert [each.id for each in client.v1.billing.meters.list().data] == [other.id, account.meter.id]
    assert [each.id for each in client.v1.billing.meters.list({"status": "active"}).data] == [account.meter.id]
    with pytest.raises(stripe.InvalidRequestError, match="No such billing meter: 'mtr_none'") as caught:
        client.v1.billing.meters.retrieve("mtr_none")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


def test_totals_can_be_read_page_by_page(account: Account, client: StripeClient) -> None:
    start = NOON - timedelta(days=20)
    for hour in range(250):
        payload = {"stripe_customer_id": "cus_1", "value": str(hour)}
        account.receive("pages", payload, None, int((start + hour * HOUR).timestamp()))
    first, end = int(start.timestamp()), int((start + 250 * HOUR).timestamp())
    pages = client.v1.billing.meters.event_summaries.list(
        account.meter.id,
        {"customer": "cus_1", "start_time": first, "end_time": end, "value_grouping_window": "hour", "limit": 100},
    )
    assert (len(pages.data), pages.has_more) == (100, True)
    assert [found.aggregated_value for found in pages.auto_paging_iter()] == list(range(249, -1, -1))
    whole = client.v1.billing.meters.event_summaries.list(
        account.meter.id, {"customer": "cus_1", "start_time": first, "end_time": end}
    )
    assert [(each.start_time, each.end_time, each.aggregated_value) for each in whole.data] == [
        (first, end, sum(range(250)))
    ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"limit": 101}, "limit"),
        ({"limit": 0}, "limit"),
        ({"start_time": 1}, "start_time"),
        ({"customer": "x"}, "customer"),
        ({"starting_after": "x"}, "starting_after"),
    ],
)
def test_wrong_questions_for_totals_are_refused(
    account: Account, client: StripeClient, change: Mapping[str, Any], param: str
) -> None:
    params: Any = {"customer": "cus_1", "start_time": AT_NOON - 3600, "end_time": AT_NOON, **change}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.billing.meters.event_summaries.list(account.meter.id, params)
    assert (caught.value.http_status, caught.value.param) == (400, param)


def test_a_list_has_10_rows_unless_told_and_can_be_read_backwards(account: Account, client: StripeClient) -> None:
    ids = [account.add_subscription("cus_1", start=NOON + timedelta(days=day)) for day in range(12)][::-1]
    assert [each.id for each in client.v1.subscriptions.list().data] == ids[:10]
    before = client.v1.subscriptions.list({"ending_before": ids[9], "limit": 4})
    assert ([each.id for each in before.data], before.has_more) == (ids[5:9], True)
    assert [each.id for each in before.auto_paging_iter()] == ids[8::-1]


def test_subscriptions_can_be_read(account: Account, client: StripeClient) -> None:
    start = NOON - timedelta(days=40)
    id_ = account.add_subscription("cus_1", start=start, items=2)
    gone = account.add_subscription("cus_1", start=start - HOUR, ended_at=NOON - HOUR)
    [found] = client.v1.subscriptions.list({"customer": "cus_1"}).data
    assert (found.id, found.customer, found.status) == (id_, "cus_1", "active")
    assert (found.start_date, found.created, found.ended_at) == (int(start.timestamp()), int(start.timestamp()), None)
    items = found["items"].data
    assert [item.price.recurring.meter for item in items] == [None, account.meter.id]
    assert [item.price.recurring.usage_type for item in items] == ["licensed", "metered"]
    assert items[0].current_period_start <= AT_NOON < items[0].current_period_end
    every = client.v1.subscriptions.list({"customer": "cus_1", "status": "all", "limit": 1}).auto_paging_iter()
    assert [each.id for each in every] == [id_, gone]
    ended = client.v1.subscriptions.retrieve(gone)
    assert (ended.status, ended.ended_at, ended.canceled_at) == ("canceled", AT_NOON - 3600, AT_NOON - 3600)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.subscriptions.list({"customer": "cus_none", "status": "all"})
    assert (caught.value.http_status, caught.value.code) == (400, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="Invalid status"):
        client.v1.subscriptions.list({"status": "over"})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.subscriptions.retrieve("sub_none")
    assert caught.value.http_status == 404


def test_customers_can_be_read_also_when_they_are_deleted(account: Account, client: StripeClient) -> None:
    customer = client.v1.customers.retrieve("cus_1")
    assert (customer.id, customer.object, getattr(customer, "deleted", None)) == ("cus_1", "customer", None)
    account.delete_customer("cus_1")
    assert client.v1.customers.retrieve("cus_1").deleted is True
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_none'") as caught:
        client.v1.customers.retrieve("cus_none")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")


def test_refusals_can_be_read_as_thin_events(account: Account, client: StripeClient) -> None:
    send(client, "a")
    send(client, "b", customer="cus_none")
    account.refuse_later("a", message="Too odd.")
    account.receive("words", {}, "c", None)
    none_found, later, unknown = client.v2.core.events.list().data
    assert isinstance(none_found, stripe.events.V1BillingMeterNoMeterFoundEvent)
    assert none_found.data.reason.error_types[0].code == "no_meter"
    assert isinstance(later, stripe.events.V1BillingMeterErrorReportTriggeredEvent)
    assert (later.related_object.id, later.related_object.type) == (account.meter.id, "billing.meter")
    assert later.data.reason.error_count == 1
    [error] = later.data.reason.error_types
    assert (error.code, error.error_count) == ("meter_event_invalid_value", 1)
    assert error.sample_errors[0].error_message == "Too odd."
    assert error.sample_errors[0].request.identifier == "a"
    assert later.fetch_related_object().event_name == "pages"
    again = client.v2.core.events.retrieve(unknown.id)
    assert isinstance(again, stripe.events.V1BillingMeterErrorReportTriggeredEvent)
    assert again.data.reason.error_types[0].code == "meter_event_customer_not_found"
    assert (again.created, again.livemode) == ("2026-05-15T12:00:00.000Z", False)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v2.core.events.retrieve("evt_none")
    assert (caught.value.http_status, caught.value.code) == (404, "not_found")


def test_thin_events_are_listed_page_by_page(
    account: Account, server: StripeServer, client: StripeClient, clock: ManualClock
) -> None:
    for number in range(23):
        send(client, str(number))
        account.refuse_later(str(number))
        account.receive("words", {}, None, None)
        clock.advance(seconds=1)
    newest = [f"2026-05-15T12:00:{second:02}.000Z" for second in range(22, -1, -1)]
    pages = client.v2.core.events.list({"limit": 5, "types": [ERROR_REPORT], "object_id": account.meter.id})
    assert [event.created for event in pages.data] == newest[:5]
    server.requests.clear()
    assert [event.created for event in pages.auto_paging_iter()] == newest
    assert len(server.requests) == 4
    assert len(client.v2.core.events.list().data) == 10


def test_thin_events_are_filtered(account: Account, client: StripeClient, clock: ManualClock) -> None:
    for number in range(3):
        send(client, str(number))
        account.refuse_later(str(number))
        clock.advance(seconds=1)
    account.receive("words", {}, None, None)

    def seconds(params: Any) -> list[int]:
        return [int(event.created[17:19]) for event in client.v2.core.events.list(params).data]

    one = format_rfc3339(NOON + timedelta(seconds=1))
    assert seconds({"created": {"gt": one}}) == [3, 2]
    assert seconds({"created": {"gte": one}}) == [3, 2, 1]
    assert seconds({"created": {"lt": one}}) == [0]
    assert seconds({"created": {"lte": one}}) == [1, 0]
    assert seconds({"created": {"gt": one, "lt": format_rfc3339(NOON + timedelta(seconds=3))}}) == [2]
    assert seconds({"types": [NO_METER_FOUND]}) == [3]
    assert seconds({"types": [NO_METER_FOUND, ERROR_REPORT]}) == [3, 2, 1, 0]
    assert seconds({"object_id": account.meter.id}) == [2, 1, 0]
    assert seconds({"object_id": "mtr_none"}) == []
    for wrong in ({"created": {"gt": "noon"}}, {"types": ["a"] * 21}, {"limit": 101}):
        with pytest.raises(stripe.InvalidRequestError):
            seconds(wrong)


def test_a_list_of_thin_events_can_be_without_their_data(account: Account, client: StripeClient) -> None:
    account.list_data = False
    send(client, customer="cus_none")
    [event] = client.v2.core.events.list().data
    assert not hasattr(event, "data")
    assert client.v2.core.events.retrieve(event.id)["data"]["reason"]["error_count"] == 1


# Keys and forms.


def test_a_wrong_key_is_refused_and_shown_only_in_part(server: StripeServer) -> None:
    key = "sk_test_1234567890abcdefWXYZ"
    with connected(server, key) as stranger, pytest.raises(stripe.AuthenticationError) as caught:
        send(stranger)
    assert caught.value.http_status == 401
    assert caught.value.user_message == f"Invalid API Key provided: sk_test_{'*' * 16}WXYZ"
    with connected(server, "short") as stranger, pytest.raises(stripe.AuthenticationError, match=r": \*{5}$"):
        send(stranger)
    assert server.account.events == []


@pytest.mark.parametrize(("status", "error"), [(401, stripe.AuthenticationError), (403, stripe.PermissionError)])
def test_a_key_can_be_refused(
    account: Account, client: StripeClient, status: int, error: type[stripe.StripeError]
) -> None:
    account.key_refused = status
    for call in (lambda: send(client), lambda: client.v1.customers.retrieve("cus_1"), client.v2.core.events.list):
        with pytest.raises(error) as caught:
            call()
        assert caught.value.http_status == status
        assert account.secret_key not in str(caught.value)
    account.faults.clear()
    send(client)
    assert counted(account) == 3


def test_a_key_may_also_come_as_a_user_name(server: StripeServer) -> None:
    written = base64.b64encode(f"{server.account.secret_key}:".encode()).decode()
    target = "/v1/customers/cus_1"
    assert plainly(server, "GET", target, {"Authorization": f"Basic {written}"})[0] == 200
    assert plainly(server, "GET", target, {"Authorization": "Basic x"})[0] == 401
    status, body, _ = plainly(server, "GET", target, {"Authorization": ""})
    assert (status, body["error"]["message"]) == (401, "You did not provide an API key.")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/v1/invoices"),
        ("GET", "/v1/billing/meter_events"),
        ("POST", "/v1/customers/cus_1"),
        ("DELETE", "/v1/customers/cus_1"),
        ("POST", "/v2/billing/meter_events"),
    ],
)
def test_other_paths_are_answered_in_stripes_form(server: StripeServer, method: str, target: str) -> None:
    status, body, headers = plainly(server, method, target, {"Stripe-Version": "x"})
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    assert body["error"]["message"] == f"Unrecognized request URL ({method}: {target})."
    assert headers["Request-Id"].startswith("req_")
    assert headers["Content-Type"] == "application/json"


def test_the_second_version_wants_to_be_told_its_version(server: StripeServer) -> None:
    assert plainly(server, "GET", "/v2/core/events")[0] == 400
    assert plainly(server, "GET", "/v2/core/events", {"Stripe-Version": "2026-05-27.dahlia"})[0] == 200


def test_an_unknown_parameter_of_a_read_is_refused(server: StripeServer) -> None:
    for target in ("/v1/customers/cus_1", "/v1/subscriptions", f"/v1/billing/meters/{server.account.meter.id}"):
        assert plainly(server, "GET", f"{target}?expand[0]=x")[0] == 200
        status, body, _ = plainly(server, "GET", f"{target}?colour=red")
        assert (status, body["error"]["code"]) == (400, "parameter_unknown")


def test_every_answer_has_a_request_id_of_its_own(client: StripeClient) -> None:
    ids = set()
    for number in range(3):
        response = send(client, str(number)).last_response
        assert response is not None
        ids.add(response.request_id)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        send(client, "0")
    ids.add(caught.value.request_id)
    assert len(ids) == 4
    assert None not in ids


# Idempotency-Keys.


def test_a_key_replays_the_answer_until_it_is_forgotten(
    account: Account, server: StripeServer, client: StripeClient, clock: ManualClock
) -> None:
    first, second = send(client, key="k"), send(client, key="k")
    assert first.identifier == second.identifier
    assert first.last_response is not None
    assert second.last_response is not None
    assert second.last_response.headers["Idempotent-Replayed"] == "true"
    assert second.last_response.headers["Original-Request"] == first.last_response.request_id
    assert counted(account) == 3
    clock.advance(hours=24)
    assert send(client, key="k").identifier != first.identifier
    assert counted(account) == 6
    assert [request.headers["Idempotency-Key"] for request in server.requests] == ["k"] * 3


@pytest.mark.parametrize(("kind", "accepted"), [("500_before", 0), ("500_after", 3)])
def test_a_key_replays_a_500_too_and_a_new_one_with_the_same_identifier_tells_the_truth(
    account: Account, client: StripeClient, kind: str, accepted: int
) -> None:
    account.faults.add(kind)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as caught:
            send(client, "a", key="k")
        assert (caught.value.http_status, counted(account)) == (500, accepted)
    if accepted:
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            send(client, "a", key="l")
    else:
        send(client, "a", key="l")
    assert counted(account) == 3


def test_a_key_replays_a_duplicate_as_it_was(client: StripeClient) -> None:
    send(client, "a")
    for replayed in (None, "true"):
        with pytest.raises(stripe.InvalidRequestError, match="already exists") as caught:
            send(client, "a", key="k")
        assert caught.value.headers is not None
        assert caught.value.headers["Stripe-Should-Retry"] == "false"
        assert caught.value.headers.get("Idempotent-Replayed") == replayed


def test_a_key_with_other_parameters_is_refused(account: Account, client: StripeClient) -> None:
    send(client, "a", key="k")
    with pytest.raises(stripe.IdempotencyError) as caught:
        send(client, "b", key="k")
    assert caught.value.http_status == 400
    assert counted(account) == 3


def test_the_same_key_after_a_lost_connection_tells_what_became_of_it(account: Account, client: StripeClient) -> None:
    account.faults.add("cut_after")
    with pytest.raises(stripe.APIConnectionError):
        send(client, "a", key="k")
    assert send(client, "a", key="k").identifier == "a"
    assert counted(account) == 3


# Limits.


def test_what_is_in_flight_holds_its_customer_and_its_key(account: Account, server: StripeServer) -> None:
    account.add_customer("cus_2")
    account.faults.add("hang")
    with connected(server) as first, connected(server) as second:
        hanging = InFlight(lambda: send(first, "a", key="k"))
        until(lambda: server.requests, "the first call is in flight")
        with pytest.raises(stripe.RateLimitError) as busy:
            send(second, "b")
        assert busy.value.http_status == 429
        assert busy.value.error is not None
        assert busy.value.error.code == "too_many_concurrent_requests"
        with pytest.raises(stripe.APIError) as conflict:
            send(second, "a", key="k")
        assert conflict.value.http_status == 409
        send(second, "c", customer="cus_2")
        account.one_call_a_customer = False
        send(second, "d")
        assert counted(account) == 9
        server.stop()
        assert isinstance(hanging.join(), stripe.APIConnectionError)


def test_a_customer_is_free_again_when_the_client_gives_up(account: Account, server: StripeServer) -> None:
    account.faults.add("hang", accept=False)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    with contextlib.closing(connection):
        body = urlencode({"event_name": "pages", "payload[stripe_customer_id]": "cus_1", "payload[value]": "3"})
        connection.request("POST", "/v1/billing/meter_events", body, {"Authorization": f"Bearer {account.secret_key}"})
        until(lambda: server.requests, "the first call is in flight")

    with connected(server) as client:

        def sent() -> bool:
            with contextlib.suppress(stripe.RateLimitError):
                send(client)
                return True
            return False

        until(sent, "the customer is free")
    assert counted(account) == 3


def test_rates_are_limited(account: Account, client: StripeClient, clock: ManualClock) -> None:
    account.events_per_second, account.calls_per_second, account.retry_after = 2, 1, 4
    send(client)
    send(client)
    client.v1.customers.retrieve("cus_1")
    for call in (lambda: send(client), lambda: client.v1.customers.retrieve("cus_1"), client.v2.core.events.list):
        with pytest.raises(stripe.RateLimitError) as caught:
            call()
        assert caught.value.headers is not None
        assert caught.value.headers["Retry-After"] == "4"
        assert caught.value.error is not None
        assert caught.value.error.code == "rate_limit"
    clock.advance(seconds=1)
    send(client)
    assert counted(account) == 9


# Faults.


@pytest.mark.parametrize(
    ("kind", "error", "status", "accepted"),
    [
        ("429", stripe.RateLimitError, 429, 0),
        ("409", stripe.APIError, 409, 0),
        ("500_before", stripe.APIError, 500, 0),
        ("500_after", stripe.APIError, 500, 3),
        ("cut_before", stripe.APIConnectionError, None, 0),
        ("cut_after", stripe.APIConnectionError, None, 3),
        ("unreadable", stripe.APIError, 200, 3),
    ],
)
def test_a_fault_is_played_once(
    account: Account,
    server: StripeServer,
    client: StripeClient,
    kind: str,
    error: type[stripe.StripeError],
    status: int | None,
    accepted: int,
) -> None:
    account.faults.add(kind, identifier="a")
    send(client, "other")
    with pytest.raises(error) as caught:
        send(client, "a")
    assert caught.value.http_status == status
    assert counted(account) == 3 + accepted
    assert [request.status for request in server.requests] == [200, status]
    if not accepted:
        send(client, "a")
        assert counted(account) == 6


def test_the_options_of_faults_reach_the_answer(account: Account, client: StripeClient) -> None:
    account.faults.add("429", retry_after=9, code="too_many_concurrent_requests", should_retry=True)
    with pytest.raises(stripe.RateLimitError) as caught:
        send(client)
    assert caught.value.headers is not None
    assert (caught.value.headers["Retry-After"], caught.value.headers["Stripe-Should-Retry"]) == ("9", "true")
    assert caught.value.error is not None
    assert caught.value.error.code == "too_many_concurrent_requests"
    account.faults.add("status", status=402, body={"error": {"message": "Pay first."}}, headers={"X-Odd": "1"})
    with pytest.raises(stripe.CardError, match="Pay first") as refused:
        send(client)
    assert refused.value.headers is not None
    assert refused.value.headers["X-Odd"] == "1"
    account.faults.add("status", status=503, body="<html>")
    with pytest.raises(stripe.APIError, match="Invalid response body") as broken:
        send(client)
    assert broken.value.http_status == 503
    assert account.events == []


@pytest.mark.parametrize("kind", ["500_before", "cut_before", "cut_after", "429"])
def test_reads_have_faults_too(account: Account, client: StripeClient, kind: str) -> None:
    account.faults.add(kind, method="GET", path="/v1/billing/meters/*")
    send(client)
    with pytest.raises(stripe.StripeError):
        client.v1.billing.meters.retrieve(account.meter.id)
    assert client.v1.billing.meters.retrieve(account.meter.id).id == account.meter.id


@pytest.mark.parametrize(("accept", "accepted"), [(True, 3), (False, 0)])
def test_a_call_that_hangs_is_never_answered(
    account: Account, server: StripeServer, client: StripeClient, accept: bool, accepted: int
) -> None:
    account.faults.add("hang", accept=accept)
    hanging = InFlight(lambda: send(client))
    until(lambda: server.requests, "the call is in flight")
    assert (server.requests[0].status, counted(account), hanging.lasts) == (None, accepted, True)
    server.stop()
    assert isinstance(hanging.join(), stripe.APIConnectionError)


@pytest.mark.parametrize("by", ["fault", "latency"])
def test_a_slow_answer_comes_after_the_event_was_accepted(
    account: Account, server: StripeServer, client: StripeClient, by: str
) -> None:
    # An hour stands for "not at once": nobody waits for it.
    if by == "fault":
        account.faults.add("slow", seconds=3600)
    else:
        server.latency = 3600
    waiting = InFlight(lambda: send(client))
    until(lambda: server.requests, "the call is in flight")
    assert (server.requests[0].status, counted(account), waiting.lasts) == (200, 3, True)
    server.stop()
    assert isinstance(waiting.join(), stripe.APIConnectionError)


def test_a_slow_answer_is_an_answer(account: Account, client: StripeClient) -> None:
    account.faults.add("slow", seconds=0.001)
    assert send(client, "a").identifier == "a"


def test_while_it_is_down_nobody_answers(account: Account, server: StripeServer, client: StripeClient) -> None:
    account.faults.down = True
    for call in (lambda: send(client), lambda: client.v1.customers.retrieve("cus_1")):
        with pytest.raises(stripe.APIConnectionError):
            call()
    assert [request.status for request in server.requests] == [None, None]
    account.faults.down = False
    send(client)
    assert counted(account) == 3


def test_random_faults_strike_as_drawn(account: Account, client: StripeClient) -> None:
    account.faults.random(1, {"429": 0.5})
    refused = 0
    for _ in range(20):
        try:
            send(client)
        except stripe.RateLimitError:
            refused += 1
    assert 0 < refused < 20
    assert counted(account) == 3 * (20 - refused)


# The server.


def test_it_can_be_taken_down_and_up_on_the_same_port(account: Account, server: StripeServer) -> None:
    with connected(server) as client:
        send(client)
        before = server.url
        server.stop()
        server.stop()
        with pytest.raises(stripe.APIConnectionError, match="refused"):
            send(client)
        server.start()
        server.start()
        assert server.url == before
        send(client)
    assert counted(account) == 6


def test_a_port_that_is_taken_is_refused_with_a_reason(server: StripeServer) -> None:
    other = StripeServer(server.account, port=server.port)
    for _ in range(2):
        with pytest.raises(StartError, match=f"cannot listen on {server.url}: .*in use"):
            other.start()
    other.stop()


def test_requests_are_recorded_as_they_were_sent(server: StripeServer, client: StripeClient) -> None:
    send(client, "a", key="k")
    client.v1.subscriptions.list({"customer": "cus_1", "status": "all"})
    first, second = server.requests
    assert (first.method, first.target, first.status, first.at) == ("POST", "/v1/billing/meter_events", 200, NOON)
    assert first.body == (b"event_name=pages&payload[stripe_customer_id]=cus_1&payload[value]=3&identifier=a")
    assert first.headers["Idempotency-Key"] == "k"
    assert (second.method, second.target, second.body) == ("GET", "/v1/subscriptions?customer=cus_1&status=all", b"")


def test_recording_can_be_left_out(account: Account) -> None:
    with StripeServer(account, record=False) as server, connected(server) as client:
        send(client)
        assert server.requests == []
    assert counted(account) == 3


def test_connections_are_kept_alive(server: StripeServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    with contextlib.closing(connection):
        ports = []
        for _ in range(3):
            connection.request("GET", "/v1/customers/cus_1", headers={"Authorization": "Bearer wrong"})
            ports.append(connection.sock.getsockname()[1])
            connection.getresponse().read()
        assert len(set(ports)) == 1


def test_all_that_the_sdk_sends_is_well_formed(
    account: Account, server: StripeServer, client: StripeClient, clock: ManualClock
) -> None:
    if not STRIPE_API.is_dir():
        pytest.skip(f"Stripe's API description is not at {STRIPE_API}")
    spec = importlib.util.spec_from_file_location("check_request", STRIPE_API / "check_request.py")
    assert spec is not None
    assert spec.loader is not None
    check_request = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_request)

    subscription = account.add_subscription("cus_1", start=NOON)
    account.add_subscription("cus_1", start=NOON)
    for number in range(2):
        send(client, str(number))
        account.refuse_later(str(number))
    client.v1.billing.meters.list({"status": "active"})
    client.v1.billing.meters.retrieve(account.meter.id)
    totals = client.v1.billing.meters.event_summaries.list(
        account.meter.id,
        {
            "customer": "cus_1",
            "start_time": AT_NOON - 86400 // 2,
            "end_time": AT_NOON + 86400 // 2,
            "value_grouping_window": "day",
        },
    )
    assert list(totals.auto_paging_iter()) == []
    every = client.v1.subscriptions.list({"customer": "cus_1", "status": "all", "limit": 1})
    assert len(list(every.auto_paging_iter())) == 2
    client.v1.subscriptions.retrieve(subscription)
    client.v1.customers.retrieve("cus_1")
    reports = client.v2.core.events.list(
        {"types": [ERROR_REPORT, NO_METER_FOUND], "created": {"gte": format_rfc3339(clock.now())}, "limit": 1}
    )
    assert [client.v2.core.events.retrieve(report.id).id for report in reports.auto_paging_iter()]
    assert len({request.target for request in server.requests}) >= 11
    for request in server.requests:
        assert request.status == 200
        assert check_request.problems(request.method, request.target, request.headers, request.body) == []


# As a process of its own.


@contextlib.contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """The stand-in as a process, and the line that it prints."""
    command = [sys.executable, "-m", "devstack.stripe_server", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as started:
        try:
            assert started.stdout is not None
            yield started, json.loads(started.stdout.readline())
        finally:
            started.kill()


def ask(url: str, target: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", target)
        read: dict[str, Any] = json.loads(connection.getresponse().read())
        return read


def test_a_process_takes_every_customer_and_tells_what_it_counted() -> None:
    with process("--secret-key", "sk_live_given", "--livemode", "--no-record", "--latency", "0.001") as (_, shown):
        assert shown["secret_key"] == "sk_live_given"
        transport = stripe.RequestsClient()
        client = StripeClient(shown["secret_key"], base_addresses={"api": shown["url"]}, http_client=transport)
        assert client.v1.billing.meters.retrieve(shown["meter"]).livemode is True
        times = [send(client, customer=customer).created for customer in ("cus_a", "cus_a", "cus_b")]
        transport.close()  # type: ignore[no-untyped-call]
        span = {"start": min(times) - 60, "end": max(times) + 60}
        asked = urlencode({"customer": "cus_a", **span})
        assert ask(shown["url"], f"/standin/counted?{asked}") == {"counted": 6}
        assert ask(shown["url"], f"/standin/counted?{urlencode(span)}") == {"counted": 9}
        rates = ask(shown["url"], "/standin/rates")["rates"]
        assert sum(rate["events"] for rate in rates) == 3
        assert {rate["second"] for rate in rates} == set(times)


@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_when_it_is_told_or_its_owner_is_gone(how: str | signal.Signals) -> None:
    with process() as (started, shown):
        if isinstance(how, signal.Signals):
            started.send_signal(how)
        else:
            assert started.stdin is not None
            started.stdin.close()
        assert started.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            ask(shown["url"], "/standin/rates")


def test_a_process_whose_port_is_taken_says_so(server: StripeServer) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "devstack.stripe_server", "--port", str(server.port)],
        stdin=subprocess.PIPE,
        capture_output=True,
        cwd=REPOSITORY,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.decode().startswith(f"The Stripe stand-in cannot listen on {server.url}: ")


def test_questions_to_the_stand_in_itself_are_no_part_of_the_record(server: StripeServer, account: Account) -> None:
    account.faults.down = True
    assert ask(server.url, "/standin/rates") == {"rates": []}
    assert "error" in ask(server.url, "/standin/secrets")
    assert "error" in ask(server.url, "/standin/counted?start=noon&end=1")
    assert server.requests == []


def test_the_clock_is_the_accounts(server: StripeServer, client: StripeClient, clock: ManualClock) -> None:
    later: datetime = NOON + timedelta(days=3, microseconds=5)
    clock.set(later)
    assert send(client).created == int(later.timestamp())
    assert server.requests[0].at == later
