"""Events that must not be sent blindly are looked for at Stripe, those with the soonest invoice first."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter

from functions.stripe_reconcile.evidence import HOURS_A_READ, Finding, Pages, Question, floor, look
from functions.stripe_reconcile.reading import OutOfTime, ReadRefused
from functions.stripe_reconcile.run_state import RunState, some, statements
from functions.stripe_reconcile.settling import note_accepted
from shared.postgres import Row
from shared.stripe_calls import Grouping, Stripe

_STATEMENTS = statements("evidence.sql")
# So many are looked at between two looks at what may be sent; together they bound what is held in memory.
_CUSTOMERS_A_ROUND, _EVENTS_A_CUSTOMER = 50, 200
# A customer with many windows to be read takes several rounds, so that the others do not wait for it.
_READS_A_CUSTOMER = 30
_BETWEEN_LOOKS = timedelta(hours=24)
_HOUR = timedelta(hours=1)
# Two hours fewer than a read covers: the hours of the first and the last event are read as a whole.
_SPAN = f"{HOURS_A_READ - 2} hours"


def prove_next(state: RunState) -> bool:
    """Look for the next customers' events in question, and note what was found; give whether there were any."""
    times = state.times()
    with state.ctx.reading() as transaction:
        rows = transaction.rows(
            _STATEMENTS["customers_in_question"],
            **some(times, "run_id", "event_name", "blind_after", "settled_before", "known_after", "now"),
            passed_by=sorted(state.passed_by),
            **state.ctx.share.keys,
            size=state.room(_CUSTOMERS_A_ROUND),
        )
        customers = [str(row["customer"]) for row in rows]
        if not customers:
            return False
        questions = _by_customer(
            transaction.rows(
                _STATEMENTS["questions"],
                **some(times, "run_id", "event_name", "blind_after", "settled_before", "known_after"),
                customers=customers,
                most=_most(state, len(customers)),
                span=_SPAN,
            )
        )
        others = _by_customer(
            transaction.rows(
                _STATEMENTS["surroundings"],
                **some(times, "event_name", "settled_before", "known_after"),
                **_asked(questions),
            )
        )
    read: set[str] = set()

    def look_at(_: Stripe, customer: str) -> Mapping[str, Finding]:
        return _look(state, customer, questions.get(customer, ()), others.get(customer, ()))

    for customer, findings in state.reader.each(customers, look_at, str):
        read.add(customer)
        asked = questions.get(customer, ())
        if isinstance(findings, ReadRefused):
            # Stripe does not tell of this customer: nobody knows whether it has the events.
            findings = {row["key"]: Finding.UNCLEAR for row in asked}
        _note(state, customer, asked, findings)
    state.passed_by.update(set(customers).difference(read))
    return True


class _EnoughError(Exception):
    """A customer has had its share of this round's reads."""


def _look(state: RunState, customer: str, questions: Sequence[Row], others: Sequence[Row]) -> Mapping[str, Finding]:
    """What could be found out in this round. Raises ReadRefused, Misconfigured or Unavailable."""
    reads = 0

    def read(start: datetime, end: datetime, grouping: Grouping | None) -> Mapping[datetime, float]:
        nonlocal reads
        if reads == _READS_A_CUSTOMER:
            raise _EnoughError
        reads += 1
        return state.reader.once(lambda stripe: stripe.usage(state.target.meter_id, customer, start, end, grouping))

    asked = [Question(row["key"], row["occurred_at"], row["pages"], by_minutes=row["is_gone"]) for row in questions]
    around = [
        Pages(row["minute"], int(row["pages"]), exact=row["is_exact"], is_sure=row["is_sure"], is_fresh=row["is_fresh"])
        for row in others
    ]
    found: dict[str, Finding] = {}
    try:
        for key, finding in look(read, asked, around) if asked else ():
            found[key] = finding
    except (_EnoughError, OutOfTime):
        return found
    return found


def _note(state: RunState, customer: str, asked: Sequence[Row], findings: Mapping[str, Finding]) -> None:
    """Note the findings about one customer's events."""
    of: dict[Finding, list[str]] = {finding: [] for finding in Finding}
    for row in asked:
        if row["key"] in findings:
            of[findings[row["key"]]].append(row["key"])
    times = state.times()
    expired = {"expired_count": 0, "expired_pages": 0}
    with state.ctx.batch() as batch:
        note_accepted(batch, state, of[Finding.PRESENT], existed=of[Finding.PRESENT])
        if of[Finding.ABSENT]:
            counts = batch.rows(
                _STATEMENTS["note_absent"],
                keys=of[Finding.ABSENT],
                **some(times, "run_id", "oldest_sendable"),
                at=times["now"],
                a_day_ago=state.ctx.moment() - _BETWEEN_LOOKS,
            )[0]
            expired = {name: int(value) for name, value in counts.items()}
            batch.count(**expired)
        for finding, statement in ((Finding.UNCLEAR, "note_unclear"), (Finding.OPEN, "note_open")):
            if of[finding]:
                batch.execute(_STATEMENTS[statement], keys=of[finding], **some(times, "run_id"))
    state.treated += len(of[Finding.PRESENT]) + expired["expired_count"]
    if expired["expired_count"]:
        state.ctx.attention(
            f"{expired['expired_count']} events with {expired['expired_pages']} pages of customer {customer} were "
            "never at Stripe and are too old for it. Somebody must decide about them.",
            customer=customer,
            **expired,
        )


def _most(state: RunState, customers: int) -> int:
    """How many events of each customer may be asked about."""
    return max(1, state.room(customers * _EVENTS_A_CUSTOMER) // customers)


def _by_customer(rows: Iterable[Row]) -> dict[str, list[Row]]:
    return {customer: list(group) for customer, group in groupby(rows, key=itemgetter("customer"))}


def _asked(questions: Mapping[str, Sequence[Row]]) -> dict[str, object]:
    """What is asked about, and for each customer the whole hours around it, with the minutes that reach into them."""
    users = {(customer, row["user_id"]) for customer, rows in questions.items() for row in rows}
    return {
        "customers": list(questions),
        "starts": [floor(rows[0]["occurred_at"], _HOUR) - timedelta(minutes=2) for rows in questions.values()],
        "ends": [floor(rows[-1]["occurred_at"], _HOUR) + 2 * _HOUR for rows in questions.values()],
        "asked": [row["key"] for rows in questions.values() for row in rows],
        "asked_customers": [customer for customer, _ in users],
        "asked_users": [user for _, user in users],
    }
