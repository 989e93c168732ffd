"""The Stripe stand-in as a server, and as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import stripe
from stripe import StripeClient

from devstack.guardian import StartError
from devstack.serving import REPOSITORY
from devstack.stripe_account import Account
from devstack.stripe_objects import ERROR_REPORT, NO_METER_FOUND
from devstack.stripe_server import StripeServer
from shared.clock import format_rfc3339
from tests.devstack.stripe.calls import connected, counted, send
from tests.support.clock import NOON, ManualClock

# Lies beside the repository where the project is worked on, and is no part of it.
STRIPE_API = REPOSITORY.parent / "shared/stripe-api"
AT_NOON = int(NOON.timestamp())


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
