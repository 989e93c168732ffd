"""The Stripe stand-in for a test, and short ways to fill the service's tables with usage and run the job."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from click.testing import Result

from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from shared.clock import format_rfc3339
from shared.outcome import Outcome
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase

# Long before anything in a test happens: the service sends identifiers of its own, or nothing.
TAKEOVER = "2020-01-01T00:00:00Z"
DAY = timedelta(days=1)
PERIOD_START = NOON - timedelta(days=10)
PERIOD_END = NOON + timedelta(days=20)


class StripeWorld:
    """The service's users and usage, the stand-in, and the job that stands between them."""

    def __init__(
        self, database: TestDatabase, server: StripeServer, account: Account, make: MakeEnvironment, clock: ManualClock
    ) -> None:
        self.database = database
        self.server = server
        self.stripe = account
        self.clock = clock
        self._make = make
        self._environment: Environment | None = None
        self._users = 0

    def settings(self, changes: Mapping[str, str | None] | None = None) -> dict[str, str | None]:
        """The settings of the job, with changes."""
        return {
            "STRIPE_SECRET_KEY": self.stripe.secret_key,
            "STRIPE_METER_PAGES": self.stripe.meter.id,
            "STRIPE_API_BASE": self.server.url,
            "STRIPE_TAKEOVER_AT": TAKEOVER,
            "STRIPE_RATE": "1000",
            "STRIPE_READ_RATE": "1000",
            **(changes or {}),
        }

    def environment(self, changes: Mapping[str, str | None] | None = None) -> Environment:
        """An environment with those settings, on the test's clock, where waiting takes no time."""
        return self._make(self.settings(changes), clock=self.clock, virtual=True)

    def run(self, slot: datetime | None = None, environment: Environment | None = None, **fields: object) -> Outcome:
        """Run the job, by hand unless a slot is given."""
        if self._environment is None:
            self._environment = self.environment()
        return (environment or self._environment).run("stripe_reconcile", slot=slot, **fields)

    @property
    def log(self) -> str:
        """What the usual environment has logged."""
        assert self._environment is not None
        return self._environment.log

    def user(
        self, name: str, plan: str = "pro", *, customer: str | None = "", paying_since: datetime | None = None
    ) -> str:
        """Add a user. `customer` is made at Stripe unless it is None; a paid one gets a subscription."""
        if customer == "":
            customer = f"cus_{name}"
        if customer is not None:
            self.stripe.add_customer(customer)
            if plan != "free":
                self.stripe.add_subscription(customer, start=paying_since or PERIOD_START - timedelta(days=60))
        if plan == "free":
            start, end = NOON.replace(day=1, hour=0), NOON.replace(day=31, hour=23, minute=59, second=59)
        else:
            start, end = PERIOD_START, PERIOD_END
        self.database.account(name, plan, start, end, stripe_customer_id=customer)
        return customer or ""

    def usage(self, user: str, pages: int = 5, at: datetime | None = None, **columns: object) -> str:
        """Add a usage event, an hour ago unless `at` is given; give its id."""
        key = str(uuid.uuid4())
        values = {
            "id": key,
            "user_id": user,
            "pages": pages,
            "occurred_at": at or self.clock.now() - timedelta(hours=1),
            "source": "extraction",
            **columns,
        }
        self.database.execute(
            f"INSERT INTO usage_events ({', '.join(values)}) VALUES ({', '.join(f':{name}' for name in values)})",
            **values,
        )
        return key

    def event(self, key: str) -> tuple[bool, str | None]:
        """Whether an event is reported, and under which record."""
        row = self.database.row("SELECT stripe_reported r, stripe_record_id i FROM usage_events WHERE id = :k", k=key)
        return row["r"], row["i"]

    def state(self, key: str) -> str | None:
        """Where an event is on its way; None where it has no row."""
        rows = self.database.rows("SELECT state FROM maintenance.meter_sends WHERE usage_event_id = :k", k=key)
        return rows[0]["state"] if rows else None

    def send(self, key: str) -> Mapping[str, object]:
        """An event's row."""
        return self.database.row("SELECT * FROM maintenance.meter_sends WHERE usage_event_id = :k", k=key)

    def counted(self, customer: str) -> int:
        """All that Stripe counts for a customer."""
        return self.stripe.counted(customer, NOON - timedelta(days=400), NOON + timedelta(days=400))

    def posts(self) -> int:
        """How many meter events were posted, whatever came of them."""
        return sum(1 for each in self.server.requests if each.method == "POST")


def at(moment: datetime) -> str:
    """A time as a setting."""
    return format_rfc3339(moment)


def add_send(database: TestDatabase, state: str, *, event: bool = True, **columns: Any) -> str:
    """An event of the user `ann` in a state; give its id. With `event`, the service has it too."""
    key = str(uuid.uuid4())
    values = {
        "usage_event_id": key,
        "user_id": "ann",
        "stripe_customer_id": "cus_ann",
        "identifier": key,
        "occurred_at": datetime.now(UTC) - DAY,
        "value": 5,
        "state": state,
        "invoice_closes_at": datetime.now(UTC) + DAY,
        **columns,
    }
    database.execute(
        f"INSERT INTO maintenance.meter_sends ({', '.join(values)}) "
        f"VALUES ({', '.join(f':{name}' for name in values)})",
        **values,
    )
    if event:
        add_event(database, values["occurred_at"], id=key, stripe_reported=state == "accepted")
    return key


def state_of(database: TestDatabase, key: str) -> str:
    """Where an event is on its way."""
    return str(database.value("SELECT state FROM maintenance.meter_sends WHERE usage_event_id = :k", k=key))


def add_event(database: TestDatabase, at: datetime, **columns: object) -> str:
    """A usage event of the user `ann`; give its id."""
    values = {"id": str(uuid.uuid4()), "user_id": "ann", "source": "x", "pages": 5, "occurred_at": at, **columns}
    database.execute(
        f"INSERT INTO usage_events ({', '.join(values)}) VALUES ({', '.join(f':{name}' for name in values)})", **values
    )
    return str(values["id"])


def recorded(database: TestDatabase) -> list[tuple[str, list[dict[str, str]], str]]:
    """What was recorded of operators: the action, the events and the reason."""
    rows = database.rows("SELECT action, arguments, reason FROM maintenance.operator_actions ORDER BY id")
    return [(row["action"], row["arguments"]["events"], row["reason"]) for row in rows]


def told(result: Result) -> Any:
    """What a command printed as JSON, if it said nothing else."""
    assert result.stderr == ""
    return json.loads(result.stdout)
