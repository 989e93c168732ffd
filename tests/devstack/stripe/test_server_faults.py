"""The Stripe stand-in plays its faults over HTTP, as the real SDK meets them."""

from __future__ import annotations

import pytest
import stripe
from stripe import StripeClient

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.devstack.stripe.calls import InFlight, counted, send
from tests.support.wait import until


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
