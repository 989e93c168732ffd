"""Events straight to the stand-in's Stripe account, without HTTP; and what it counted of them."""

from __future__ import annotations

from datetime import datetime, timedelta

from devstack.stripe_account import Account
from devstack.stripe_objects import ReceivedEvent
from tests.support.clock import NOON

HOUR = timedelta(hours=1)
ALWAYS = (NOON - timedelta(days=400), NOON + timedelta(days=400))


def send(
    account: Account,
    identifier: str | None = None,
    value: str = "3",
    at: datetime | None = None,
    customer: str = "cus_1",
    event_name: str = "pages",
) -> ReceivedEvent:
    payload = {"stripe_customer_id": customer, "value": value}
    return account.receive(event_name, payload, identifier, None if at is None else int(at.timestamp()))


def counted(account: Account, customer: str = "cus_1") -> int:
    return account.counted(customer, *ALWAYS)


def summary(account: Account) -> int:
    [only] = account.summaries(account.meter.id, "cus_1", NOON - HOUR, NOON + HOUR)
    return only.value
