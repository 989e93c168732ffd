"""Keys, Idempotency-Keys and limits of the Stripe stand-in, as the real SDK meets them."""

from __future__ import annotations

import base64
import contextlib
import http.client
from urllib.parse import urlencode

import pytest
import stripe
from stripe import StripeClient

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.devstack.stripe.calls import InFlight, connected, counted, plainly, send
from tests.support.clock import ManualClock
from tests.support.wait import until

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
