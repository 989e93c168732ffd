"""Which events are to be billed: decided in batches, by what our tables tell and what Stripe says of subscriptions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from functions.stripe_reconcile.billable import paying_spans
from functions.stripe_reconcile.reading import ReadRefused
from functions.stripe_reconcile.run_state import RunState, some, statements
from shared.errors import DataRejected, LockLost
from shared.stripe_calls import Stripe, Subscription

_STATEMENTS = statements("classify.sql")
# Batches grow and shrink so that each takes about this long.
_SECONDS_A_BATCH = 0.5
_FIRST_SIZE, _SMALLEST_SIZE, _LARGEST_SIZE = 2_000, 250, 20_000
# So many customers are asked about between two looks at what may be sent: some seconds' worth of reads.
_CUSTOMERS_A_ROUND = 200
# Finding them reads the whole backlog, so many are found at once.
_CUSTOMERS_A_LOOK = 2_000
_SINCE = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_ALL = {"after": _SINCE, "after_id": "00000000-0000-0000-0000-000000000000"}


@dataclass
class Asked:
    """What Stripe said of some customers: when they were paying, and of whom nothing can be said."""

    customers: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    span_customers: list[str] = field(default_factory=list)
    span_starts: list[datetime] = field(default_factory=list)
    span_ends: list[datetime | None] = field(default_factory=list)

    def add(
        self, customer: str, users: Sequence[str], subscriptions: Sequence[Subscription] | ReadRefused, meter_id: str
    ) -> None:
        """Note one customer's subscriptions. Nothing can be said of a customer that Stripe does not know."""
        self.customers.append(customer)
        self.users.extend(users)
        spans = None if isinstance(subscriptions, ReadRefused) else paying_spans(subscriptions, meter_id)
        if spans is None:
            self.unclear.append(customer)
            return
        for span in spans:
            self.span_customers.append(customer)
            self.span_starts.append(span.start)
            self.span_ends.append(span.end)

    def extend(self, more: "Asked") -> None:
        """Take over what Stripe said of others."""
        for name in ("customers", "users", "unclear", "span_customers", "span_starts", "span_ends"):
            getattr(self, name).extend(getattr(more, name))

    def parameters(self) -> dict[str, object]:
        """As the SQL takes it."""
        return {
            "asked": self.customers,
            "asked_users": self.users,
            "unclear": self.unclear,
            "span_customers": self.span_customers,
            "span_starts": self.span_starts,
            "span_ends": self.span_ends,
        }


def decide_from_tables(state: RunState) -> None:
    """Decide all events that our own tables tell enough about."""
    _sweep(state, Asked(), only_asked=False)


def decide_by_asking(state: RunState) -> bool:
    """Ask Stripe about the next customers and decide their events; give whether there were any."""
    asked = ask_next(state, sorted(state.passed_by))
    if asked is None:
        return False
    if asked.customers:
        _sweep(state, asked, only_asked=True)
    return True


def ask_next(state: RunState, passed_by: Sequence[str]) -> Asked | None:
    """Read the subscriptions of the next customers, those passed by aside. None where there is none left."""
    if not state.to_ask:
        found = _customers_to_ask(state, passed_by)
        # Asked about since the last look, and still something to decide: the service holds their events, or the limit
        # is reached.
        again = state.asked_last.intersection(found)
        state.passed_by.update(again)
        state.to_ask = {customer: users for customer, users in found.items() if customer not in again}
        state.asked_last = set()
        if not state.to_ask:
            return Asked() if again else None
    customers = list(state.to_ask)[:_CUSTOMERS_A_ROUND]
    users = {customer: state.to_ask.pop(customer) for customer in customers}
    state.asked_last.update(customers)
    asked = Asked()

    def read(_: Stripe, customer: str) -> Sequence[Subscription]:
        return state.reader.once(lambda stripe: stripe.subscriptions(customer))

    for customer, subscriptions in state.reader.each(customers, read, str):
        asked.add(customer, users[customer], subscriptions, state.target.meter_id)
    state.passed_by.update(set(customers).difference(asked.customers))
    return asked


def _customers_to_ask(state: RunState, passed_by: Sequence[str]) -> dict[str, Sequence[str]]:
    with state.ctx.reading() as transaction:
        rows = transaction.rows(
            _STATEMENTS["customers_to_ask"],
            **_parameters(state),
            grace=_interval(state),
            now=state.ctx.now,
            passed_by=list(passed_by),
            **state.ctx.share.keys,
            size=_CUSTOMERS_A_LOOK,
        )
    return {row["customer"]: row["users"] for row in rows}


def would_classify(state: RunState, asked: Asked) -> Sequence[Mapping[str, Any]]:
    """The verdicts on all events, for a dry run: events, pages and customers each."""
    with state.ctx.reading() as transaction:
        return transaction.rows(
            _STATEMENTS["would_classify"],
            **_parameters(state),
            **asked.parameters(),
            **some(state.times(), "blind_after", "known_after"),
        )


def _sweep(state: RunState, asked: Asked, *, only_asked: bool) -> None:
    """Decide batch after batch, in the order of time, until there is none left.

    A batch that loses a lock, or that the database refuses, is halved, down to one event, which is then passed by.
    """
    size = good_size = _FIRST_SIZE
    after: dict[str, object] = dict(_BEFORE_ALL)
    while state.may_go_on():
        parameters = {**_parameters(state), **asked.parameters(), **after, "only_asked": only_asked}
        left = state.ctx.time_left()
        try:
            row = _batch(state, parameters, size)
        except (LockLost, DataRejected) as error:
            if size > 1:
                size //= 2
                continue
            passed_by = _pass_by(state, parameters, error)
            if passed_by is None:
                return
            after = passed_by
            continue
        if row["found"] < size:
            return
        after = {"after": row["last_at"], "after_id": row["last_id"]}
        if size >= _SMALLEST_SIZE:
            seconds = max(left - state.ctx.time_left(), 0.001)
            good_size = max(_SMALLEST_SIZE, min(_LARGEST_SIZE, int(size * min(2.0, _SECONDS_A_BATCH / seconds))))
        size = min(2 * size, good_size)


def _batch(state: RunState, parameters: Mapping[str, object], size: int) -> Mapping[str, Any]:
    # Not durable: what a crash of the server loses is decided again.
    with state.ctx.batch(durable=False) as batch:
        row = batch.rows(
            _STATEMENTS["classify_batch"], **parameters, grace=_interval(state), size=size, room=state.room(size)
        )[0]
        marked = {name: int(value) for name, value in row.items() if name.endswith(("_count", "_pages"))}
        batch.count(**marked, **_in_all(marked))
    state.treated += sum(count for name, count in marked.items() if name.endswith("_count"))
    return row


def _pass_by(
    state: RunState, parameters: Mapping[str, object], error: LockLost | DataRejected
) -> dict[str, object] | None:
    """Leave the next event as it is, and say why; give its place, None where there is none."""
    with state.ctx.reading() as transaction:
        row = transaction.row(_STATEMENTS["next_key"], **parameters)
    if row is None:
        return None
    state.ctx.item_failed(row["last_id"], error.reason)
    return {"after": row["last_at"], "after_id": row["last_id"]}


def _in_all(marked: Mapping[str, int]) -> dict[str, int]:
    """Of all reasons together: events and pages that are not to be billed."""
    return {
        f"not_billable_{unit}": sum(value for name, value in marked.items() if name.endswith(f"_{unit}"))
        for unit in ("count", "pages")
    }


def _parameters(state: RunState) -> dict[str, object]:
    return {
        "free_plans": list(state.ctx.settings.free_plan_codes),
        "since": _SINCE,
        "before": state.ctx.now - state.settings.min_age,
        "run_id": state.run_id,
    }


def _interval(state: RunState) -> str:
    return f"{int(state.settings.invoice_grace.total_seconds())} seconds"
