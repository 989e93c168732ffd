"""The state of one Stripe account, as usage reporting meets it. No HTTP, no I/O; time comes from the clock it is given.

It is as unhelpful as Stripe's documentation says Stripe is:

* An identifier is unique for 24 hours. After that it is forgotten: the same event is accepted again and counts twice.
* An event for a customer or a meter that does not exist is accepted, and refused later in an error report.
* A report shows only samples, and never changes what an identifier is: it stays taken.
* Totals lag behind by `summary_lag`.

`counted()` tells the truth; no client of Stripe has that. Every public method may be called from any thread.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from devstack.stripe_checks import bucket_of, occurred_at, read_payload
from devstack.stripe_faults import Faults
from devstack.stripe_limits import IdempotencyKeys, Rate
from devstack.stripe_objects import (
    ERROR_REPORT,
    NO_METER_FOUND,
    REPORT_WINDOW,
    Answer,
    Meter,
    ReceivedEvent,
    Refused,
    Report,
    Subscription,
    Summary,
    epoch,
    invalid,
    random_id,
    to_milliseconds,
)
from shared.clock import Clock

DEFAULT_METER: Final = "the account's own meter"
IDENTIFIER_LIFETIME: Final = timedelta(hours=24)
EVENTS_KEPT: Final = timedelta(days=30)


class Account:
    """One account with one meter. Set its attributes to play another state of Stripe's; each says what is usual.

    events_per_second    meter events accepted in any one second; None: no limit
    calls_per_second     other calls accepted in any one second; None: no limit
    one_call_a_customer  a second meter event for a customer whose first is in flight is refused
    retry_after          the header Retry-After of refusals because of a rate; None: none
    summary_lag          how old (since receipt) an event is before totals see it
    omit_empty_buckets   grouped totals leave out hours or days with nothing in them
    sample_limit         how many identifiers an error report shows for each code
    list_data            a list of thin events has their data; otherwise only a retrieved one has
    any_customer         every customer id is taken for an existing one
    """

    def __init__(self, clock: Clock, *, livemode: bool = False) -> None:
        self.clock = clock
        self.livemode = livemode
        self.secret_key = f"sk_{'live' if livemode else 'test'}_{secrets.token_hex(16)}"
        self.events_per_second: int | None = None
        self.calls_per_second: int | None = None
        self.one_call_a_customer = True
        self.retry_after: int | None = None
        self.summary_lag = timedelta(0)
        self.omit_empty_buckets = True
        self.sample_limit = 10
        self.list_data = True
        self.any_customer = False
        self.faults = Faults()
        self.events: list[ReceivedEvent] = []
        self.meters: list[Meter] = []
        self._customers: dict[str, bool] = {}  # whether they are deleted
        self._subscriptions: dict[str, Subscription] = {}
        self._by_identifier: dict[str, ReceivedEvent] = {}
        self._by_customer: dict[str, list[ReceivedEvent]] = defaultdict(list)
        self._reports: list[Report] = []
        # Reports that still take refusals in, by type and meter: until their window is over or someone has read them.
        self._open: dict[tuple[str, str | None], Report] = {}
        self._event_rate = Rate()
        self._call_rate = Rate()
        self._in_flight: set[tuple[str, str]] = set()
        self._keys = IdempotencyKeys()
        self._lock = threading.RLock()
        self.meter = self.add_meter("pages")

    @property
    def key_refused(self) -> int | None:
        """The status, 401 or 403, that every request is answered with; None: the key is good."""
        return self.faults.key_refused

    @key_refused.setter
    def key_refused(self, status: int | None) -> None:
        self.faults.key_refused = status

    # What the account has.

    def add_meter(self, event_name: str) -> Meter:
        """Add an active meter for events of this name."""
        with self._lock:
            self.meters.append(Meter(self.clock.now(), self.livemode, event_name))
            return self.meters[-1]

    def find_meter(self, id_: str) -> Meter:
        """The meter with this id. Raises `Refused` (404) if there is none."""
        with self._lock:
            for meter in self.meters:
                if meter.id == id_:
                    return meter
        raise _missing("billing meter", id_, "id", 404)

    def add_customer(self, id_: str | None = None) -> str:
        """Add a customer, or bring a deleted one back; give the id."""
        with self._lock:
            id_ = id_ or random_id("cus")
            self._customers[id_] = False
            return id_

    def delete_customer(self, id_: str) -> None:
        """Delete a customer: what subscriptions it has end now, and can still be listed. Raises KeyError."""
        with self._lock:
            if id_ not in self._customers and not self.any_customer:
                raise KeyError(id_)
            self._customers[id_] = True
            now = self.clock.now()
            for subscription in self._subscriptions.values():
                if subscription.customer == id_ and (subscription.ended_at is None or subscription.ended_at > now):
                    subscription.ended_at = now

    def is_deleted(self, customer: str, *, status: int = 400, param: str = "customer") -> bool:
        """Whether a customer that there was is deleted. Raises `Refused` if there never was one."""
        with self._lock:
            deleted = self._customers.get(customer)
            if deleted is None and not self.any_customer:
                raise _missing("customer", customer, param, status)
            return bool(deleted)

    def add_subscription(
        self,
        customer: str,
        *,
        start: datetime,
        ended_at: datetime | None = None,
        status: str = "active",
        meter_id: str | None = DEFAULT_METER,
        items: int = 1,
    ) -> str:
        """Add a subscription of `items` prices, the last of them metered unless `meter_id` is None; give its id."""
        with self._lock:
            if status in ("canceled", "incomplete_expired") and ended_at is None:
                ended_at = self.clock.now()
            meter_id = self.meter.id if meter_id == DEFAULT_METER else meter_id
            added = Subscription(customer, start, self.livemode, status, ended_at, meter_id, items)
            self._subscriptions[added.id] = added
            return added.id

    def end_subscription(self, id_: str, at: datetime) -> None:
        """End a subscription, or plan its end when `at` is still to come. Raises KeyError."""
        with self._lock:
            self._subscriptions[id_].ended_at = at

    def find_subscription(self, id_: str) -> Subscription:
        """The subscription with this id. Raises `Refused` (404) if there is none."""
        with self._lock:
            if id_ not in self._subscriptions:
                raise _missing("subscription", id_, "id", 404)
            return self._subscriptions[id_]

    def subscriptions(self, customer: str | None = None, status: str | None = None) -> list[Subscription]:
        """Subscriptions, newest first: those that are not canceled, those of one status, or `all`.

        Raises `Refused` for a customer that there never was.
        """
        with self._lock:
            if customer is not None:
                self.is_deleted(customer)
            now = self.clock.now()
            found = [
                subscription
                for subscription in reversed(self._subscriptions.values())
                if customer in (None, subscription.customer) and _listed(subscription.status(now), status)
            ]
            return sorted(found, key=lambda subscription: subscription.start, reverse=True)

    # Meter events.

    def receive(
        self, event_name: str, payload: Mapping[str, str], identifier: str | None, timestamp: int | None
    ) -> ReceivedEvent:
        """Accept a meter event, whether or not it will be refused later. Raises `Refused`."""
        with self._lock:
            now = self.clock.now()
            named = [meter for meter in self.meters if meter.event_name == event_name]
            meter = next((meter for meter in named if meter.status == "active"), None)
            customer, value = read_payload(payload, meter)
            occurred = occurred_at(timestamp, now)
            if identifier is None:
                identifier = str(uuid.uuid4())
            elif not identifier or len(identifier) > 100:
                raise invalid("Invalid identifier: it must have 1 to 100 characters.", param="identifier")
            earlier = self._by_identifier.get(identifier)
            if earlier is not None and now - earlier.received_at < IDENTIFIER_LIFETIME:
                message = f"An event already exists with identifier {identifier}."
                raise Refused(400, "invalid_request_error", None, message, should_retry=False)
            event = ReceivedEvent(identifier, event_name, customer, value, occurred, now)
            self.events.append(event)
            self._by_identifier[identifier] = event
            self._by_customer[customer].append(event)
            if meter is None:
                self._refuse(event, NO_METER_FOUND, None, "archived_meter" if named else "no_meter")
            elif self._customers.get(customer, not self.any_customer):
                self._refuse(event, ERROR_REPORT, meter.id, "meter_event_customer_not_found")
            return event

    def counted(self, customer: str | None, start: datetime, end: datetime) -> int:
        """The truth without lag: what was accepted and not refused, with start <= timestamp < end. None: everyone."""
        with self._lock:
            events = self.events if customer is None else self._by_customer.get(customer, ())
            return _total(event for event in events if start <= event.timestamp < end)

    def received_per_second(self) -> dict[int, int]:
        """How many events were received in each whole second (since 1970) that had any."""
        with self._lock:
            return dict(Counter(epoch(event.received_at) for event in self.events))

    def refuse_later(
        self,
        identifiers: str | Collection[str],
        code: str = "meter_event_invalid_value",
        message: str | None = None,
    ) -> Report:
        """Refuse events that were accepted, in one report; they count no longer. Raises KeyError for unknown ones."""
        with self._lock:
            events = [self._by_identifier[name] for name in _as_list(identifiers)]
            meters = {meter.event_name: meter.id for meter in self.meters}
            type_ = NO_METER_FOUND if code == "no_meter" else ERROR_REPORT
            report = self._report(type_, meters.get(events[0].event_name) if type_ == ERROR_REPORT else None)
            for event in events:
                event.refused_code = code
                report.add(code, event.identifier, message)
            return report

    def _refuse(self, event: ReceivedEvent, type_: str, meter_id: str | None, code: str) -> None:
        event.refused_code = code
        report = self._open.get((type_, meter_id))
        if report is None or event.received_at - report.created >= REPORT_WINDOW:
            report = self._open[type_, meter_id] = self._report(type_, meter_id)
        report.add(code, event.identifier)

    def _report(self, type_: str, meter_id: str | None) -> Report:
        now = to_milliseconds(self.clock.now())
        self._reports.append(Report(type_, now, self.livemode, meter_id, self.sample_limit))
        return self._reports[-1]

    def thin_events(self) -> list[Report]:
        """The reports of the last 30 days, newest first. What has been read here does not change any more."""
        with self._lock:
            self._open.clear()
            now = self.clock.now()
            return [report for report in reversed(self._reports) if now - report.created <= EVENTS_KEPT]

    def summaries(
        self, meter_id: str, customer: str, start: datetime, end: datetime, grouping: str | None = None
    ) -> list[Summary]:
        """What the meter counted for the customer, as far as totals see it by now, newest first.

        Raises `Refused` for a meter or customer that there is not, and for times that do not fit the grouping.
        """
        with self._lock:
            meter = self.find_meter(meter_id)
            self.is_deleted(customer)
            bucket = bucket_of(start, end, grouping)
            seen_until = self.clock.now() - self.summary_lag
            events = [
                event
                for event in self._by_customer.get(customer, ())
                if event.event_name == meter.event_name
                and start <= event.timestamp < end
                and event.received_at <= seen_until
                and event.refused_code is None
            ]
            if grouping is None:
                return [Summary(meter_id, customer, start, end, _total(events), self.livemode)]
            grouped: dict[int, list[ReceivedEvent]] = {}
            if not self.omit_empty_buckets:
                grouped = {number: [] for number in range((end - start) // bucket)}
            for event in events:
                grouped.setdefault((event.timestamp - start) // bucket, []).append(event)
            return [
                Summary(meter_id, customer, at, at + bucket, _total(grouped[number]), self.livemode)
                for number in sorted(grouped, reverse=True)
                for at in [start + number * bucket]
            ]

    # What is refused before a request is looked at.

    def admit(self, *, event: bool) -> None:
        """Count a call against its rate. Raises `Refused` (429) if there were too many in this second."""
        with self._lock:
            limit, rate = (
                (self.events_per_second, self._event_rate) if event else (self.calls_per_second, self._call_rate)
            )
            if limit is not None:
                rate.take(limit, self.clock.now(), self.retry_after)

    def begin_event(self, event_name: str, customer: str) -> None:
        """Begin a call for a customer. Raises `Refused` (429) while another one for it is in flight."""
        with self._lock:
            if (event_name, customer) in self._in_flight and self.one_call_a_customer:
                message = "There are too many concurrent requests for this customer and meter."
                raise Refused(429, "invalid_request_error", "too_many_concurrent_requests", message)
            self._in_flight.add((event_name, customer))

    def end_event(self, event_name: str, customer: str) -> None:
        """End a call that was begun."""
        with self._lock:
            self._in_flight.discard((event_name, customer))

    def begin_key(self, key: str, parameters: Hashable) -> Answer | None:
        """Begin a request with an Idempotency-Key; give the saved answer of an earlier one. Raises `Refused`."""
        with self._lock:
            return self._keys.begin(key, parameters, self.clock.now())

    def end_key(self, key: str, answer: Answer | None) -> None:
        """End it, and save its answer if there is one to keep."""
        with self._lock:
            self._keys.end(key, answer)


def _missing(kind: str, id_: str, param: str, status: int) -> Refused:
    return invalid(f"No such {kind}: '{id_}'", code="resource_missing", param=param, status=status)


def _as_list(identifiers: str | Collection[str]) -> list[str]:
    return [identifiers] if isinstance(identifiers, str) else list(identifiers)


def _total(events: Iterable[ReceivedEvent]) -> int:
    return sum(event.value for event in events if event.refused_code is None)


def _listed(status: str, wanted: str | None) -> bool:
    match wanted:
        case None:
            return status != "canceled"
        case "all":
            return True
        case "ended":
            return status in ("canceled", "incomplete_expired")
        case _:
            return status == wanted
