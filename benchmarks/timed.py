"""The services of production with a stopwatch: how long transactions take, and how often Stripe is read from."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from shared.postgres import Database, Transaction
from shared.services import STRIPE_CONNECTIONS, Services
from shared.stripe_api import StripeApi
from shared.stripe_calls import Grouping, Subscription

# The audit asks for whole periods; what decides about an event is never wider than this, unless it is in hours.
_WIDEST_WINDOW = timedelta(hours=4)


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
