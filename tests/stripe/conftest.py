"""The stand-in, and a world around it."""

from collections.abc import Iterator

import pytest

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.conftest import MakeEnvironment
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase
from tests.support.stripe import StripeWorld


@pytest.fixture
def world(database: TestDatabase, make_environment: MakeEnvironment, clock: ManualClock) -> Iterator[StripeWorld]:
    """A service with usage, and a Stripe account that it is reported to."""
    account = Account(clock)
    with StripeServer(account) as server:
        yield StripeWorld(database, server, account, make_environment, clock)
