"""Services that die between any two steps, in this process: for breadth, beside the tests that kill real processes."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

from shared.bucket_calls import Answer as BucketAnswer
from shared.bucket_calls import BucketState, Deletion, StoredObject
from shared.clock import Clock, Timer
from shared.gcs import GcsBucket
from shared.postgres import Database, Transaction
from shared.services import BUCKET_CONNECTIONS, STRIPE_CONNECTIONS, Services
from shared.stripe_api import StripeApi
from shared.stripe_calls import Answer, MeterEvent


class Died(BaseException):
    """As final as a SIGKILL: nothing in the job catches it."""


class Death:
    """When to die: at the so-manyth step. Never, as long as `after` is None. Who is dead stays so until revived."""

    def __init__(self) -> None:
        self.after: int | None = None
        self.steps = 0
        self.has_come = False
        self._lock = threading.Lock()

    def comes_after(self, steps: int) -> None:
        """Die after so many steps from now on."""
        with self._lock:
            self.steps, self.after, self.has_come = 0, steps, False

    def is_over(self) -> None:
        """Live, from now on."""
        with self._lock:
            self.steps, self.after, self.has_come = 0, None, False

    def step(self) -> None:
        """One step of the main thread."""
        if self.step_of_a_thread():
            raise Died

    def step_of_a_thread(self) -> bool:
        """One step of a working thread: whether it was the last. The main thread dies at its own next step."""
        with self._lock:
            self.steps += 1
            if self.after is not None and self.steps > self.after:
                self.has_come = True
            return self.has_come


class _Database(Database):
    """Dies before a statement, before a commit, or after it."""

    death: Death

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """As the parent's."""
        self.death.step()
        with super().transaction(read_only=read_only) as transaction:
            run = transaction._run

            def mortal(sql: str, parameters: Mapping[str, object]) -> Any:
                self.death.step()
                return run(sql, parameters)

            transaction._run = mortal  # type: ignore[method-assign]
            yield transaction
            self.death.step()
        self.death.step()


class _Bucket(GcsBucket):
    """Dies before a call has left, or after it was done and before anybody heard of it."""

    death: Death

    def state(self) -> BucketState:
        """As the parent's."""
        self.death.step()
        return super().state()

    def pages(self, start: str | None) -> Iterator[Sequence[StoredObject]]:
        """As the parent's."""
        for page in super().pages(start):
            self.death.step()
            yield page

    def find(self, name: str) -> StoredObject | Deletion:
        """As the parent's."""
        return Deletion(BucketAnswer.BUSY) if self.death.step_of_a_thread() else super().find(name)

    def delete(self, name: str, generation: int | None) -> Deletion:
        """As the parent's."""
        if self.death.step_of_a_thread():
            return Deletion(BucketAnswer.BUSY)
        done = super().delete(name, generation)
        return Deletion(BucketAnswer.BUSY) if self.death.step_of_a_thread() else done


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

    @property
    def database(self) -> Database:
        """As the parent's."""
        with self._making:
            if self._database is None:
                database = _Database(self.settings.database)
                database.death = self._death
                self._database = database
            return self._database

    @property
    def bucket(self) -> GcsBucket:
        """As the parent's."""
        with self._making:
            if self._bucket is None:
                bucket = _Bucket(self.settings.cleanup, BUCKET_CONNECTIONS)
                bucket.death = self._death
                self._bucket = bucket
            return self._bucket

    @property
    def stripe(self) -> StripeApi:
        """As the parent's."""
        with self._making:
            if self._stripe is None:
                stripe = _Stripe(self.settings.stripe, STRIPE_CONNECTIONS)
                stripe.death = self._death
                self._stripe = stripe
            return self._stripe
