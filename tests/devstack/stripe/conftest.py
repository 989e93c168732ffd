"""A Stripe account, the stand-in that serves it, and a client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stripe import StripeClient

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.devstack.stripe.calls import connected
from tests.support.clock import NOON, ManualClock


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
