"""Events that must not be sent blindly are looked for at Stripe, those with the soonest invoice first."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter

from functions.stripe_reconcile.evidence import Finding, Known, Question, look
from functions.stripe_reconcile.reading import ReadRefused
from functions.stripe_reconcile.run_state import RunState, some, statements
from functions.stripe_reconcile.settling import note_accepted
from shared.postgres import Row
from shared.stripe_calls import Grouping, Stripe

_STATEMENTS = statements("evidence.sql")
# So many are looked at between two looks at what may be sent; together they bound what is held in memory.
_CUSTOMERS_A_ROUND, _EVENTS_A_CUSTOMER = 100, 100
_MARGIN = timedelta(hours=2)
_BETWEEN_LOOKS = timedelta(hours=24)


def prove_next(state: RunState) -> bool:
    """Look for the next customers' events in question, and note what was found; give whether there were any."""
    times = state.times()
    with state.ctx.reading() as transaction:
        rows = transaction.rows(
            _STATEMENTS["customers_in_question"],
            **some(times, "run_id", "event_name", "blind_after", "settled_before", "known_after", "now"),
            passed_by=sorted(state.passed_by),
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
                most=_most(state, customers),
            )
        )
        known = _by_customer(transaction.rows(_STATEMENTS["known_pages"], **_ranges(questions)))
    read: set[str] = set()

    def look_at(_: Stripe, customer: str) -> Mapping[str, Finding]:
        return _look(state, customer, questions.get(customer, ()), known.get(customer, ()))

    for customer, findings in state.reader.each(customers, look_at, str):
        read.add(customer)
        _note(state, questions.get(customer, ()), {} if isinstance(findings, ReadRefused) else findings)
    state.passed_by.update(set(customers).difference(read))
    return True


def _look(state: RunState, customer: str, questions: Sequence[Row], known: Sequence[Row]) -> Mapping[str, Finding]:
    def read(start: datetime, end: datetime, grouping: Grouping | None) -> Mapping[datetime, float]:
        return state.reader.once(lambda stripe: stripe.usage(state.target.meter_id, customer, start, end, grouping))

    return look(
        read,
        [Question(row["key"], row["occurred_at"], row["pages"], by_minutes=row["is_gone"]) for row in questions],
        [Known(row["minute"], int(row["pages"]), row["is_exact"]) for row in known],
    )


def _note(state: RunState, questions: Sequence[Row], findings: Mapping[str, Finding]) -> None:
    """Note the findings about one customer's events.

    What was not asked about is only noted where Stripe has it, and where no limit is set.
    """
    asked = [row["key"] for row in questions if row["is_asked"]]
    noted = asked if state.ctx.limit is not None else [row["key"] for row in questions]
    present = [key for key in noted if findings.get(key) is Finding.PRESENT]
    absent = [key for key in asked if findings.get(key) is Finding.ABSENT]
    unclear = [key for key in asked if findings.get(key, Finding.UNCLEAR) is Finding.UNCLEAR]
    times = state.times()
    expired = {"expired_count": 0, "expired_pages": 0}
    with state.ctx.batch() as batch:
        note_accepted(batch, state, present, existed=present)
        if absent:
            counts = batch.rows(
                _STATEMENTS["note_absent"],
                keys=absent,
                **some(times, "run_id", "oldest_sendable"),
                at=times["now"],
                a_day_ago=state.ctx.moment() - _BETWEEN_LOOKS,
            )[0]
            expired = {name: int(value) for name, value in counts.items()}
            batch.count(**expired)
        if unclear:
            batch.execute(_STATEMENTS["note_unclear"], keys=unclear, **some(times, "run_id"))
    state.treated += len(present) + expired["expired_count"]
    if expired["expired_count"]:
        state.ctx.log.write(
            "WARNING",
            f"{expired['expired_count']} events with {expired['expired_pages']} pages of customer "
            f"{questions[0]['customer']} were never at Stripe and are too old for it. Somebody must decide about them.",
            event="attention",
            job=state.ctx.job.name,
            run_id=state.run_id,
            customer=questions[0]["customer"],
            **expired,
        )


def _most(state: RunState, customers: Sequence[str]) -> int:
    """How many events of each customer may be asked about."""
    return max(1, state.room(_CUSTOMERS_A_ROUND * _EVENTS_A_CUSTOMER) // len(customers))


def _by_customer(rows: Iterable[Row]) -> dict[str, list[Row]]:
    return {customer: list(group) for customer, group in groupby(rows, key=itemgetter("customer"))}


def _ranges(questions: Mapping[str, Sequence[Row]]) -> dict[str, object]:
    """For each customer, the time around its events in question."""
    return {
        "customers": list(questions),
        "starts": [rows[0]["occurred_at"] - _MARGIN for rows in questions.values()],
        "ends": [rows[-1]["occurred_at"] + _MARGIN for rows in questions.values()],
    }
