"""The service beside the job, as far as usage goes: users, plans, periods, usage, and its own sends to Stripe."""

import uuid
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta

from devstack.stripe_account import Account
from devstack.stripe_objects import Refused
from tests.stripe.model import Event, Ledger
from tests.support.clock import MovableClock
from tests.support.database import TestDatabase

_PERIOD = timedelta(days=30)
_SNAPSHOT = ("usage_events", "usage_counters", "maintenance.meter_sends", "maintenance.drift", "maintenance.cursors")


@dataclass
class User:
    """A user as the service has it. `subscription` is the running one at Stripe."""

    name: str
    customer: str | None = None
    subscription: str | None = None
    start: datetime | None = None
    end: datetime | None = None


class Service:
    """Does to database, Stripe and ledger what the service does, at the clock's time; each act takes seven seconds."""

    def __init__(self, database: TestDatabase, stripe: Account, clock: MovableClock, ledger: Ledger) -> None:
        self.database = database
        self.stripe = stripe
        self.clock = clock
        self.ledger = ledger
        self.users: list[User] = []
        self.sends_identifiers = False
        self._made = 0
        self._snapshot: set[str] | None = None

    def sign_up(self) -> None:
        """A new free user."""
        self._made += 1
        user = User(f"user{self._made}")
        self.database.execute("INSERT INTO users (id, email) VALUES (:u, :u)", u=user.name)
        self.database.execute(
            "INSERT INTO billing_accounts (user_id, plan_code, status) VALUES (:u, 'free', 'active')", u=user.name
        )
        self.users.append(user)
        self._calendar_month(user)

    def start_checkout(self, user: User, *, replaced: bool) -> None:
        """The customer is made, or a new one in its place, although nothing is paid yet."""
        if user.subscription is not None or (user.customer is not None and not replaced):
            return
        self._made += 1
        user.customer = self.stripe.add_customer(f"cus_{user.name}_{self._made}")
        self._write(user)

    def upgrade(self, user: User) -> None:
        """Checkout is completed: the plan, Stripe's period, and the subscription from now on."""
        if user.subscription is not None:
            return
        if user.customer is None:
            self.start_checkout(user, replaced=False)
        assert user.customer is not None
        user.start = self._now()
        user.end = user.start + _PERIOD
        user.subscription = self.stripe.add_subscription(user.customer, start=user.start)
        self._write(user)

    def downgrade(self, user: User) -> None:
        """The subscription is deleted: the free plan, and the calendar month."""
        if user.subscription is None:
            return
        self.stripe.end_subscription(user.subscription, self._now())
        user.subscription = None
        self._calendar_month(user)

    def renew(self) -> None:
        """Stripe's webhooks have told of new periods, and free users' months have rolled over."""
        self.renew_paid()
        for user in self.users:
            if user.subscription is None:
                self._calendar_month(user)

    def renew_paid(self) -> None:
        """Stripe's webhooks have told of new periods."""
        for user in self.users:
            if user.subscription is not None:
                while user.end is not None and user.end <= self.clock.now():
                    user.start, user.end = user.end, user.end + _PERIOD
                self._write(user)

    def look_up(self) -> None:
        """Read each user's period, as the service does before it counts pages."""
        for user in self.users:
            user.start, user.end = self.database.period(user.name)

    def delete(self, user: User) -> None:
        """The account goes with all its rows. Its customer stays at Stripe, without a running subscription."""
        if user.subscription is not None:
            self.stripe.end_subscription(user.subscription, self._now())
        self.database.execute("DELETE FROM users WHERE id = :u", u=user.name)
        self.users.remove(user)
        for event in self.ledger.events.values():
            event.is_lost = event.is_lost or event.user == user.name

    def use(self, user: User, pages: int, fate: str) -> None:
        """Use pages. Of a paid user the service sends them: `marked`, `unmarked` (it died before), or `lost`."""
        now = self._now()
        paying = user.subscription is not None
        event = Event(str(uuid.uuid4()), user.name, now, pages, user.customer if paying else None)
        self.ledger.events[event.key] = event
        self.database.execute(
            "INSERT INTO usage_events (id, user_id, occurred_at, source, pages) VALUES (:k, :u, :t, 'x', :p)",
            k=event.key,
            u=user.name,
            t=now,
            p=pages,
        )
        self.database.execute(
            "INSERT INTO usage_counters (user_id, period_start, period_end, pages_total) VALUES (:u, :s, :e, :p) "
            "ON CONFLICT (user_id, period_start) DO UPDATE SET pages_total = usage_counters.pages_total + :p",
            u=user.name,
            s=user.start,
            e=user.end,
            p=pages,
        )
        if paying and pages and fate != "lost":
            self._send(event, mark=fate == "marked")

    def keep_a_copy(self) -> None:
        """Back the database up, as far as usage and the job's memory go."""
        self.database.execute("DROP SCHEMA IF EXISTS copy CASCADE")
        self.database.execute("CREATE SCHEMA copy")
        for table in _SNAPSHOT:
            self.database.execute(f"CREATE TABLE copy.{table.split('.')[-1]} AS TABLE {table}")
        self._snapshot = set(self.ledger.events)

    def restore_the_copy(self) -> None:
        """Go back to the copy. What came after it is lost here, and stands at Stripe."""
        if self._snapshot is None:
            return
        for table in _SNAPSHOT:
            self.database.execute(f"TRUNCATE {table}")
            copy = f"copy.{table.split('.')[-1]}"
            where = " WHERE user_id IN (SELECT id FROM users)" if table.startswith("usage") else ""
            self.database.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {copy}{where}")
        for key, event in self.ledger.events.items():
            event.is_lost = event.is_lost or key not in self._snapshot

    def _send(self, event: Event, *, mark: bool) -> None:
        """Some seconds after the event, with the time of sending."""
        assert event.customer is not None
        identifier = event.key if self.sends_identifiers else None
        at = event.at + timedelta(seconds=3)
        payload = {"stripe_customer_id": event.customer, "value": str(event.pages)}
        try:
            taken = self.stripe.receive("pages", payload, identifier, int(at.timestamp()))
        except Refused:
            return
        event.service_identifier = taken.identifier
        if mark:
            self.database.execute(
                "UPDATE usage_events SET stripe_reported = true, stripe_record_id = :i WHERE id = :k",
                i=taken.identifier,
                k=event.key,
            )

    def _calendar_month(self, user: User) -> None:
        start = self.clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        last = monthrange(start.year, start.month)[1]
        user.start, user.end = start, start.replace(day=last, hour=23, minute=59, second=59)
        self._write(user)

    def _write(self, user: User) -> None:
        self.database.execute(
            "UPDATE billing_accounts SET plan_code = :p, stripe_customer_id = :c, stripe_subscription_id = :b, "
            "current_period_start = :s, current_period_end = :e WHERE user_id = :u",
            u=user.name,
            p="pro" if user.subscription else "free",
            c=user.customer,
            b=user.subscription,
            s=user.start,
            e=user.end,
        )

    def _now(self) -> datetime:
        self.clock.advance(seconds=7)
        return self.clock.now()
