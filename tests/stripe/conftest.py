"""The stand-in, and a world around it."""

from collections.abc import Callable, Iterator

import pytest
from click.testing import Result

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.conftest import MakeEnvironment
from tests.support.clock import ManualClock
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.stripe import StripeWorld


@pytest.fixture
def world(database: TestDatabase, make_environment: MakeEnvironment, clock: ManualClock) -> Iterator[StripeWorld]:
    """A service with usage, and a Stripe account that it is reported to."""
    account = Account(clock)
    with StripeServer(account) as server:
        yield StripeWorld(database, server, account, make_environment, clock)


@pytest.fixture
def ops(environ: dict[str, str]) -> Callable[..., Result]:
    """The command line, on the test's servers; None takes a setting away."""

    def run(*arguments: str, **changes: str | None) -> Result:
        settings = {**environ, **changes}
        return run_command(*arguments, environ={name: value for name, value in settings.items() if value is not None})

    return run
