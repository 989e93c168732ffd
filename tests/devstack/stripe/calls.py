"""Calls to the Stripe stand-in over HTTP: with the real SDK, and without it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import stripe
from stripe import StripeClient

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.support.clock import NOON

ALWAYS = (NOON - timedelta(days=400), NOON + timedelta(days=400))


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
