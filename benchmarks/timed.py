"""The services of production with a stopwatch: how long transactions take, and how often Stripe is read from.

And what is measured with them: a job, and beside it one statement.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import text

from benchmarks.arena import connected
from functions.registry import JOBS
from shared.clock import SystemClock
from shared.invocation import Invocation
from shared.outcome import Outcome
from shared.postgres import Database, Transaction
from shared.runner import run_job
from shared.services import STRIPE_CONNECTIONS, Services
from shared.stripe_api import StripeApi
from shared.stripe_calls import Grouping, Subscription

# The audit asks for whole periods; what decides about an event is never wider than this, unless it is in hours.
_WIDEST_WINDOW = timedelta(hours=4)

Measured = dict[str, float]


class TimedDatabase(Database):
    """Times every transaction, from before its connection is fetched until its commit has been answered."""

    longest: dict[str, float]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.longest = {"reading": 0.0, "writing": 0.0}

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """As the parent's."""
        began = time.perf_counter()
        with super().transaction(read_only=read_only) as transaction:
            yield transaction
        kind = "reading" if read_only else "writing"
        self.longest[kind] = max(self.longest[kind], time.perf_counter() - began)


class CountedStripe(StripeApi):
    """Counts what is read, by kind: `hours` and `minutes` of events in question, `periods`, `subscriptions`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reads: Counter[str] = Counter()

    def usage(
        self, meter_id: str, customer: str, start: datetime, end: datetime, grouping: Grouping | None = None
    ) -> Mapping[datetime, float]:
        """As the parent's."""
        narrow = "minutes" if end - start <= _WIDEST_WINDOW else "periods"
        self.reads["hours" if grouping is not None else narrow] += 1
        return super().usage(meter_id, customer, start, end, grouping)

    def subscriptions(self, customer: str) -> list[Subscription]:
        """As the parent's."""
        self.reads["subscriptions"] += 1
        return list(super().subscriptions(customer))


class TimedServices(Services):
    """The services of production, with these two."""

    @cached_property
    def database(self) -> TimedDatabase:
        """As the parent's."""
        return TimedDatabase(self.settings.database)

    @cached_property
    def stripe(self) -> CountedStripe:
        """As the parent's."""
        return CountedStripe(self.settings.stripe, STRIPE_CONNECTIONS)


def run_timed(services_class: type[TimedServices], name: str, slot: datetime | None = None) -> tuple[Outcome, Measured]:
    """Run a job as it runs in production, through the runner, with every guard, on the servers of the environment.

    Without a slot it is that of this minute. Gives its outcome, and how long it and its longest transactions took.
    """
    with open(os.devnull, "w", encoding="utf-8") as log:
        services = services_class(os.environ, SystemClock(), log)
        database = services.database
        slot = slot or services.clock.now().astimezone(UTC).replace(second=0, microsecond=0)
        began, cpu_began = time.perf_counter(), time.process_time()
        outcome = run_job(services, JOBS[name], Invocation(trigger="schedule", slot=slot))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        database.dispose()
    longest = {f"longest_{kind}": value for kind, value in database.longest.items()}
    return outcome, {"seconds": took, "cpu_seconds": cpu, **longest}


def timed_statement(statement: str, **parameters: object) -> Measured:
    """One statement in one transaction on the database of the environment: how long, and how many rows it was about."""
    with connected(os.environ["DATABASE_URL"]) as connection:
        began = time.perf_counter()
        done = connection.execute(text(statement), parameters)
        connection.commit()
        took = time.perf_counter() - began
    return {"seconds": took, "done": done.rowcount, "longest_writing": took, "longest_reading": 0.0}
