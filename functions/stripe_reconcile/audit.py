"""Our accepted pages against Stripe's sums: for customers that were touched lately, and in turn for all."""

import enum
from datetime import timedelta
from typing import Any

from functions.stripe_reconcile.reading import ReadRefused
from functions.stripe_reconcile.run_state import RunState, some, statements
from shared.postgres import Row
from shared.stripe_calls import Stripe

_STATEMENTS = statements("audit.sql")
_TOUCHED_FOR = timedelta(days=3)
# Periods that ended longer ago are held against Stripe's sums only where something was accepted in them since.
_PERIODS_FOR = timedelta(days=35)
# A run's share: half a minute of reads at the full rate.
_TOUCHED_A_RUN, _IN_TURN_A_RUN = 200, 50


class Comparison(enum.Enum):
    """What a sum of Stripe's says about our pages."""

    EQUAL = "as it should be"
    DIFFERENT = "a difference that nothing under way explains"
    OPEN = "nothing, as long as something is under way"


def compare(theirs: float, settled: int, undecided: int) -> Comparison:
    """Hold Stripe's sum against ours: `settled` must be in it, `undecided` may be."""
    if not settled <= theirs <= settled + undecided:
        return Comparison.DIFFERENT
    return Comparison.OPEN if undecided else Comparison.EQUAL


def audit(state: RunState) -> None:
    """Hold this run's share of customers against Stripe's sums. Raises Unavailable or Misconfigured."""
    times = state.times()
    now = state.ctx.moment()
    with state.ctx.reading() as transaction:
        touched = transaction.rows(
            _STATEMENTS["customers_touched"],
            **some(times, "settled_before"),
            since=now - _TOUCHED_FOR,
            size=_TOUCHED_A_RUN,
        )
        in_turn = [
            str(row["customer"]) for row in transaction.rows(_STATEMENTS["customers_in_turn"], size=_IN_TURN_A_RUN)
        ]
        customers = list(dict.fromkeys([*(str(row["customer"]) for row in touched), *in_turn]))
        periods = transaction.rows(
            _STATEMENTS["periods"],
            **some(times, "now", "settled_before", "event_name"),
            customers=customers,
            since=now - _PERIODS_FOR,
        )

    def read(_: Stripe, period: Row) -> float:
        usage = state.reader.once(
            lambda stripe: stripe.usage(state.target.meter_id, period["customer"], period["starts"], period["ends"])
        )
        return sum(usage.values())

    found: dict[Comparison, list[tuple[Row, float]]] = {each: [] for each in Comparison}
    for period, theirs in state.reader.each(periods, read, lambda period: str(period["customer"])):
        if not isinstance(theirs, ReadRefused):
            found[compare(theirs, int(period["settled"]), int(period["open"]))].append((period, theirs))
    _note(state, found[Comparison.EQUAL], found[Comparison.DIFFERENT])
    if state.ctx.time_left() > 0:
        with state.ctx.batch() as batch:
            batch.execute(_STATEMENTS["move_cursor"], value=in_turn[-1] if len(in_turn) == _IN_TURN_A_RUN else "")


def _note(state: RunState, equal: list[tuple[Row, float]], different: list[tuple[Row, float]]) -> None:
    at = state.ctx.moment()
    with state.ctx.batch() as batch:
        if equal:
            row = batch.rows(
                _STATEMENTS["note_equal"],
                **_columns([period for period, _ in equal]),
                **some(state.times(), "settled_before"),
                at=at,
            )[0]
            batch.count(verified_count=int(row["verified_count"]))
        if different:
            row = batch.rows(
                _STATEMENTS["note_drift"],
                **_columns([period for period, _ in different]),
                ours=[int(period["settled"]) for period, _ in different],
                theirs=[round(theirs) for _, theirs in different],
                at=at,
            )[0]
            batch.count(drift_count=int(row["drift_count"]))


def _columns(periods: list[Row]) -> dict[str, Any]:
    return {
        "customers": [period["customer"] for period in periods],
        "starts": [period["starts"] for period in periods],
        "ends": [period["ends"] for period in periods],
    }
