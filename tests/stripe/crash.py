"""Runs that die between any two steps, in this process: for breadth. tests/stripe/test_killed.py kills real ones."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from io import StringIO

from shared.clock import Clock, Timer
from shared.postgres import Database, Transaction
from shared.services import STRIPE_CONNECTIONS, Services
from shared.stripe_api import StripeApi
from shared.stripe_calls import Answer, MeterEvent


class Died(BaseException):
    """As final as a SIGKILL: nothing in the job catches it."""


class Death:
    """When to die: at the so-manyth step. Never, as long as `at` is None."""

    def __init__(self) -> None:
        self.at: int | None = None
        self._steps = 0
        self._lock = threading.Lock()
        self.has_come = False

    def comes_after(self, steps: int) -> None:
        """Die after so many steps from now on."""
        with self._lock:
            self._steps, self.at, self.has_come = 0, steps, False

    def step(self) -> None:
        """One step of the main thread."""
        with self._lock:
            self._steps += 1
            if self.at is not None and (self.has_come or self._steps > self.at):
                self.has_come = True
                self.at = None
                raise Died

    def step_of_a_thread(self) -> bool:
        """One step of a sending thread: whether it was the last. The main thread dies at its own next step."""
        with self._lock:
            self._steps += 1
            if self.at is not None and self._steps > self.at:
                self.has_come = True
            return self.has_come


class _Database(Database):
    """Dies before a transaction, before its commit, or after it."""

    death: Death

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """As the parent's."""
        self.death.step()
        with super().transaction(read_only=read_only) as transaction:
            yield transaction
            self.death.step()
        self.death.step()


class _Stripe(StripeApi):
    """Dies before an event has left, or after it has arrived."""

    death: Death

    def send(self, event: MeterEvent, idempotency_key: str) -> Answer:
        """As the parent's; nobody hears the answer of a process that died."""
        if self.death.step_of_a_thread():
            return Answer(None)
        answer = super().send(event, idempotency_key)
        return Answer(None) if self.death.step_of_a_thread() else answer


class MortalServices(Services):
    """The services of production, which die when told to."""

    def __init__(self, environ: Mapping[str, str], clock: Clock, timer: Timer, death: Death) -> None:
        self.stream = StringIO()
        super().__init__(environ, clock, self.stream, timer)
        self._death = death

    @cached_property
    def database(self) -> _Database:
        """As the parent's."""
        database = _Database(self.settings.database)
        database.death = self._death
        return database

    @cached_property
    def stripe(self) -> _Stripe:
        """As the parent's."""
        stripe = _Stripe(self.settings.stripe, STRIPE_CONNECTIONS)
        stripe.death = self._death
        return stripe

    def close(self) -> None:
        """Close what was made."""
        super().close()
        for made in ("database", "stripe"):
            if made in self.__dict__:
                client = self.__dict__[made]
                (client.dispose if made == "database" else client.close)()
