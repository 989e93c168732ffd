"""Whatever happens, in whatever order: each billable page is at Stripe once, or is shown as what it is.

Hypothesis mixes what users do, what the service sends, what Stripe and the network do, deaths between any two steps,
clocks that jump, repeated firings and restored databases. What Stripe counts is held against tests/stripe/model.py
after every step (never too much) and at the end (nothing missing).
"""

import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
import redis
from hypothesis import event as told
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from devstack.stack import Stack
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from functions.registry import JOBS
from shared.clock import format_rfc3339
from shared.invocation import Invocation
from shared.outcome import Outcome, Status
from shared.runner import run_job
from tests.stripe.model import Counted, Ledger
from tests.stripe.service import Service, User
from tests.support.clock import ManualClock, VirtualTimer
from tests.support.database import TestDatabase
from tests.support.mortal import Death, Died, MortalServices
from tests.support.redis import lose_everything

JOB = JOBS["stripe_reconcile"]
FAULTS = ("429", "409", "500_before", "500_after", "cut_before", "cut_after", "unreadable")
TABLES = "users, maintenance.meter_sends, maintenance.drift, maintenance.cursors, maintenance.runs, maintenance.fences"


class Place:
    """Where all examples run, one after the other."""

    database: TestDatabase
    redis: "redis.Redis"
    redis_url: str
    conceded: Counter[str]


class Machine(RuleBasedStateMachine):
    """One service, one Stripe account, one job."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        database = self.place.database
        database.execute(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
        database.execute("DROP SCHEMA IF EXISTS copy CASCADE")
        lose_everything(self.place.redis)
        self.clock = ManualClock()
        self.stripe = Account(self.clock)
        self.server = StripeServer(self.stripe, record=True)
        self.server.start()
        self.ledger = Ledger()
        self.service = Service(database, self.stripe, self.clock, self.ledger)
        self.database = database
        self.death = Death()
        self.takeover: str | None = None
        self.services: MortalServices | None = None
        self.last: Invocation | None = None
        self.logs: list[str] = []
        self.refused_at: datetime | None = None

    @initialize(
        taken_over=st.booleans(),
        plans=st.lists(st.sampled_from(["paid", "paid", "free", "checkout"]), min_size=1, max_size=3),
    )
    def begin(self, taken_over: bool, plans: list[str]) -> None:
        if taken_over:
            self.take_over()
        for plan in plans:
            self.service.sign_up()
            if plan != "free":
                self.service.start_checkout(self.service.users[-1], replaced=False)
            if plan == "paid":
                self.service.upgrade(self.service.users[-1])

    # ---- what users and the service do

    @rule()
    @precondition(lambda self: len(self.service.users) < 4)
    def sign_up(self) -> None:
        self.service.sign_up()

    @rule(number=st.integers(0, 3), replaced=st.booleans())
    def start_checkout(self, number: int, replaced: bool) -> None:
        self._with(number, lambda user: self.service.start_checkout(user, replaced=replaced))

    @rule(number=st.integers(0, 3))
    def upgrade(self, number: int) -> None:
        self._with(number, self.service.upgrade)

    @rule(number=st.integers(0, 3))
    def downgrade(self, number: int) -> None:
        self._with(number, self.service.downgrade)

    @rule(number=st.integers(0, 3))
    @precondition(lambda self: len(self.service.users) > 1)
    def delete(self, number: int) -> None:
        self._with(number, self.service.delete)

    @rule()
    def renew(self) -> None:
        self.service.renew()

    @rule(
        number=st.integers(0, 3),
        pages=st.lists(st.integers(0, 3), min_size=1, max_size=4),
        fate=st.sampled_from(["lost", "lost", "unmarked", "marked"]),
    )
    def use(self, number: int, pages: list[int], fate: str) -> None:
        for each in pages:
            self._with(number, lambda user, each=each: self.service.use(user, each, fate))  # type: ignore[misc]

    @rule(
        number=st.integers(0, 3),
        gaps=st.lists(st.sampled_from([0, 1, 2, 20, 61, 300]), min_size=2, max_size=8),
        fates=st.integers(0, 3**8 - 1),
        wait=st.sampled_from([16, 70, 21 * 60]),
    )
    def a_day_of_use(self, number: int, gaps: list[int], fates: int, wait: int) -> None:
        """Several uses, some minutes apart, of which the service sends some."""
        for gap in gaps:
            self.clock.advance(minutes=gap)
            fate = ("lost", "unmarked", "marked")[fates % 3]
            fates //= 3
            self._with(number, lambda user, gap=gap, fate=fate: self.service.use(user, 1 + gap % 3, fate))  # type: ignore[misc]
        self._wait(timedelta(minutes=wait))

    @rule(kind=st.sampled_from(FAULTS), times=st.sampled_from([1, 3, None]), minutes=st.sampled_from([1, 130, 1500]))
    def a_bad_run(self, kind: str, times: int | None, minutes: int) -> None:
        self.stripe.faults.add(kind, times=times)
        self._run(Invocation(trigger="schedule", slot=self.clock.now()))
        self.mend_the_line()
        self._wait(timedelta(minutes=minutes))

    @rule()
    def take_over(self) -> None:
        if self.takeover is None:
            self.clock.advance(minutes=1)
            self.takeover = format_rfc3339(self.clock.now())
            self.service.sends_identifiers = True
            self._forget_services()

    # ---- what time, Stripe and the network do

    @rule(minutes=st.sampled_from([1, 16, 50, 130, 11 * 60, 19 * 60, 25 * 60, 3 * 1440]))
    def time_passes(self, minutes: int) -> None:
        self._wait(timedelta(minutes=minutes))

    @rule()
    def a_month_passes(self) -> None:
        self._wait(timedelta(days=33))
        self.service.renew()

    @rule(kind=st.sampled_from(FAULTS), times=st.sampled_from([1, 2, 3, 4, None]))
    def break_the_line(self, kind: str, times: int | None) -> None:
        self.stripe.faults.add(kind, times=times)

    @rule(seed=st.integers(0, 1000))
    def break_the_line_at_random(self, seed: int) -> None:
        self.stripe.faults.random(seed, dict.fromkeys(FAULTS, 0.08))

    @rule()
    def break_the_reads(self) -> None:
        self.stripe.faults.add("500_before", times=6, path="*", method="GET")

    @rule()
    def take_stripe_down(self) -> None:
        self.stripe.faults.down = True

    @rule()
    def mend_the_line(self) -> None:
        self.stripe.faults.clear()
        self.stripe.faults.down = False

    @rule(minutes=st.sampled_from([0, 10, 50]))
    def let_sums_lag(self, minutes: int) -> None:
        self.stripe.summary_lag = timedelta(minutes=minutes)

    @rule(number=st.integers(0, 50))
    def refuse_later(self, number: int) -> None:
        counted = [each for each in self.stripe.events if each.refused_code is None]
        if counted:
            self.stripe.refuse_later(counted[number % len(counted)].identifier)
            self.refused_at = self.refused_at or self.clock.now()

    # ---- what the job does

    @rule()
    def run(self) -> None:
        self._run(Invocation(trigger="schedule", slot=self.clock.now()))

    @rule()
    def run_again(self) -> None:
        """The same firing is delivered once more."""
        if self.last is not None:
            self._run(self.last)

    @rule(limit=st.integers(1, 3))
    def run_a_little(self, limit: int) -> None:
        self._run(Invocation(limit=limit))

    @rule()
    def run_dry(self) -> None:
        before, posts = self._fingerprint(), self._posts()
        self._run(Invocation(dry_run=True))
        assert (self._fingerprint(), self._posts()) == (before, posts)

    @rule(steps=st.integers(0, 100))
    def run_and_die(self, steps: int) -> None:
        self.death.comes_after(steps)
        try:
            self._run(Invocation(trigger="schedule", slot=self.clock.now()))
        except Died:
            told("died")
            self._forget_services()
            lose_everything(self.place.redis)
        self.death.is_over()

    @rule()
    def back_up(self) -> None:
        self.service.keep_a_copy()

    @rule()
    def restore(self) -> None:
        self.service.restore_the_copy()
        lose_everything(self.place.redis)

    # ---- what must hold

    @invariant()
    def nothing_is_counted_that_must_not_be(self) -> None:
        assert self.ledger.never_too_much(self._counted()) == []

    def teardown(self) -> None:
        try:
            self._to_the_end()
        finally:
            self._forget_services()
            self.server.stop()
            assert not any(self.stripe.secret_key in log for log in self.logs)

    def _to_the_end(self) -> None:
        """All is well again, and time goes on; in the end everything is there or shown."""
        self.mend_the_line()
        self.stripe.summary_lag = timedelta(0)
        self.service.renew()
        for hours in (2, 2, 25, 25, 25, 2):
            self.clock.advance(hours=hours)
            outcome = self._run(Invocation(trigger="schedule", slot=self.clock.now()))
            assert outcome.status is Status.COMPLETED, outcome
        rows = {
            str(row["id"]): (row["stripe_reported"], row["stripe_record_id"])
            for row in self.database.rows("SELECT id, stripe_reported, stripe_record_id FROM usage_events")
        }
        states = {
            str(row["usage_event_id"]): row["state"]
            for row in self.database.rows("SELECT usage_event_id, state FROM maintenance.meter_sends")
        }
        verdict = self.ledger.in_the_end(self._counted(), rows, states)
        assert verdict.wrong == []
        assert not {"pending", "sending"}.intersection(states.values())
        self.place.conceded["events"] += len(self.ledger.events)
        self.place.conceded["conceded"] += verdict.conceded
        for state in verdict.shown.values():
            self.place.conceded[state] += 1

    # ---- how

    def _with(self, number: int, act: Callable[[User], None]) -> None:
        if self.service.users:
            act(self.service.users[number % len(self.service.users)])

    def _wait(self, time: timedelta) -> None:
        """Let time pass, but not so much that Stripe has thrown away a report of refusals that no run has read."""
        if self.refused_at is None or self.clock.now() + time < self.refused_at + timedelta(days=28):
            self.clock.advance(seconds=time.total_seconds())

    def _run(self, invocation: Invocation) -> Outcome:
        if self.services is None:
            environ = {
                "DATABASE_URL": self.database.url,
                "REDIS_URL": self.place.redis_url,
                "STRIPE_SECRET_KEY": self.stripe.secret_key,
                "STRIPE_METER_PAGES": self.stripe.meter.id,
                "STRIPE_API_BASE": self.server.url,
                "STRIPE_RATE": "10000",
                "STRIPE_READ_RATE": "10000",
                **({"STRIPE_TAKEOVER_AT": self.takeover} if self.takeover else {}),
            }
            self.services = MortalServices(environ, self.clock, VirtualTimer(), self.death)
        if invocation.slot is not None:
            self.last = invocation
        outcome = run_job(self.services, JOB, invocation)
        assert outcome.status in (Status.COMPLETED, Status.REPLAYED, Status.UNAVAILABLE), outcome
        told(f"run: {outcome.status}")
        if outcome.status is Status.COMPLETED and not outcome.dry_run:
            self.refused_at = None
        return outcome

    def _forget_services(self) -> None:
        if self.services is not None:
            self.logs.append(self.services.stream.getvalue())
            self.services.close()
            self.services = None

    def _counted(self) -> list[Counted]:
        return [
            Counted(each.identifier, each.customer, each.value, each.timestamp)
            for each in self.stripe.events
            if each.refused_code is None
        ]

    def _fingerprint(self) -> str:
        rows = "coalesce(string_agg(CAST(t AS text), '|' ORDER BY CAST(t AS text)), '')"
        tables = ("usage_events", "maintenance.meter_sends", "maintenance.drift", "maintenance.cursors")
        return "|".join(self.database.value(f"SELECT {rows} FROM {table} AS t") for table in tables)

    def _posts(self) -> int:
        return sum(1 for each in self.server.requests if each.method == "POST")


@pytest.mark.timeout(int(os.environ.get("EXACTLY_ONCE_TIMEOUT", "300")))
def test_each_page_is_billed_once_or_shown(database: TestDatabase, redis_client: "redis.Redis", stack: Stack) -> None:
    """The form for every day; EXACTLY_ONCE_EXAMPLES asks for more of them, each time others."""
    Place.database, Place.redis, Place.redis_url = database, redis_client, stack.redis_url
    Place.conceded = Counter()
    Machine.place = Place()
    more = int(os.environ.get("EXACTLY_ONCE_EXAMPLES", "0"))
    profile = (
        hypothesis_settings(max_examples=more, stateful_step_count=40, derandomize=False)
        if more
        else hypothesis_settings(max_examples=15, stateful_step_count=30)
    )
    run_state_machine_as_test(Machine, settings=profile)
    print(dict(Place.conceded))  # noqa: T201  how much was conceded is worth seeing
    assert Place.conceded["conceded"] <= Place.conceded["events"] * 0.02
