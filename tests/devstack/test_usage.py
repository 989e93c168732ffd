"""Seeded usage becomes what its kind says, whenever the demo is run."""

from __future__ import annotations

from datetime import datetime

import pytest

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from devstack.usage import KINDS, Standing, period_start, seed_usage, takeover_setting
from devstack.usage_observing import blocked, counted_by_period, observe_usage
from shared.outcome import Status
from tests.conftest import MakeEnvironment
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase

USERS = 3
# By its moments, a period of the demo's may look like a calendar month, or lie across the end of one.
MOMENTS = (
    "2026-11-24T11:30:12.5Z",
    "2026-01-01T00:05:00Z",
    "2024-02-29T23:59:59.999Z",
    "2026-03-01T00:45:00Z",
    "2026-11-11T00:00:00Z",
    "2026-05-01T05:00:00Z",
    "2026-04-30T00:00:00Z",
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_event_ends_where_it_must(
    database: TestDatabase, make_environment: MakeEnvironment, clock: ManualClock, moment: str
) -> None:
    now = datetime.fromisoformat(moment)
    clock.set(now)
    account = Account(clock)
    with database.engine.begin() as connection:
        used = seed_usage(connection, account, USERS, now)
    assert len(used) == USERS * sum(len(kind.used) for kind in KINDS.values())
    with StripeServer(account) as server:
        settings = {
            "STRIPE_SECRET_KEY": account.secret_key,
            "STRIPE_METER_PAGES": account.meter.id,
            "STRIPE_API_BASE": server.url,
            "STRIPE_TAKEOVER_AT": takeover_setting(now),
        }
        outcome = make_environment(settings, virtual=True).run("stripe_reconcile")
    assert (outcome.status, outcome.success, outcome.counts["late_count"]) == (Status.COMPLETED, True, 0)
    with database.engine.begin() as connection:
        seen = observe_usage(connection, account, used)
        reasons = [each.reason for each in blocked(connection)]
    assert [(each.kind, seen.standings[each.id]) for each in used] == [(each.kind, each.goal) for each in used]
    assert seen.at_stripe == seen.by_customer(lambda each: each.goal is Standing.BILLED)
    assert reasons == ["no_customer"]
    of_last_period = [each for each in used if each.kind == "paid, end of last period"]
    pages = sum(each.pages for each in of_last_period)
    assert counted_by_period(account, of_last_period, period_start(of_last_period[0].kind, now)) == (pages, 0)
