"""Sending what is ready, the soonest invoice first: attempts are put on record, made, and what came of them is noted.

Invariants:

- No attempt is made that is not on record, durably, before it is made.
- What is on record is taken back only where this process knows that nothing left it.
- What a killed run has on record as under way is in doubt, and is sent again only under the identifier it had, and only
  while Stripe knows that identifier.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from functions.stripe_reconcile.courier import LAST_CALL_SECONDS, Courier, Send
from functions.stripe_reconcile.reading import OutOfTime
from functions.stripe_reconcile.run_state import RunState, some, statements
from functions.stripe_reconcile.settling import Settler
from shared.errors import LockLost, Unavailable
from shared.pace import Pacing
from shared.postgres import Row
from shared.stripe_calls import MeterEvent

_STATEMENTS = statements("sending.sql")
# Enough to keep up the rate while an answer takes half a second, as far as one process can make use of them.
_MOST_THREADS = 128
_FEWEST_AHEAD = 16
# Rows that fit into a socket's buffer, so that a process that is stopped does not keep a transaction open.
_ROWS_A_TRANSACTION = 250
_CUSTOMERS_A_LOOK = 1_000
# One customer's calls come one after the other: so many events are a second's worth.
_EVENTS_A_LANE = 10
# So much work lies ready for the threads, in seconds: enough to work through while a transaction lasts, and no more,
# because a kill leaves it in doubt.
_SECONDS_AHEAD = 2
_SETTLE_SECONDS = 0.2


def send_ready(state: RunState, pace: Pacing) -> None:
    """Send all that is ready, for as long as there is time.

    Raises Unavailable when Stripe fails call after call, and Misconfigured when it refuses everybody's events.
    """
    lanes = _Lanes(state)
    if not lanes.open(1):
        return
    threads = max(1, min(_MOST_THREADS, state.settings.rate // 2))
    ahead = max(_FEWEST_AHEAD, _SECONDS_AHEAD * state.settings.rate)
    courier = Courier(state.reader.stripe, pace, state.ctx.timer, lambda: state.ctx.time_left() > 0, threads)
    settler = Settler(state)
    with courier:
        while True:
            more = courier.stopped_by is None and state.may_go_on() and lanes.open(2 * threads)
            room = min(_ROWS_A_TRANSACTION, ahead - courier.under_way)
            put: Sequence[Send] = ()
            if more and room >= min(_ROWS_A_TRANSACTION, ahead) // 2:
                try:
                    put = lanes.next_sends(state.room(room), courier.waiting())
                except LockLost as error:
                    # Somebody works on our table by hand. What is under way is noted all the same.
                    courier.stop(
                        Unavailable("postgres", f"Another session holds rows of meter_sends: {error}. Try again.")
                    )
                courier.put(put)
            # As long as the threads could do with more, nothing is waited for.
            back = courier.collect(_ROWS_A_TRANSACTION, 0.0 if 2 * len(put) >= _ROWS_A_TRANSACTION else _SETTLE_SECONDS)
            stop = settler.settle(back)
            if stop is not None:
                courier.stop(stop)
            is_over = not courier.under_way or state.ctx.time_left() < -LAST_CALL_SECONDS
            if not more and not back and is_over:
                break
    for stopped_by in (settler.finish(), courier.stopped_by):
        # Where there was no time left to look at the meter, nothing is wrong: the next attempt goes on.
        if stopped_by is not None and not isinstance(stopped_by, OutOfTime):
            raise stopped_by


class _Lanes:
    """The customers that are sent for now, and those that come next."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._open: list[str] = []
        self._next: list[str] = []
        self._is_over = False

    def open(self, wanted: int) -> bool:
        """Let so many customers be sent for at once, as far as there are any; give whether there is one."""
        while len(self._open) < wanted:
            if not self._next and not self._is_over:
                self._next = self._look()
                self._is_over = not self._next
            if not self._next:
                break
            self._open.append(self._next.pop())
        return bool(self._open)

    def next_sends(self, most: int, waiting: Mapping[str, int]) -> list[Send]:
        """Freeze the next events, put their attempts on record, and give them to be sent."""
        customers: list[str] = []
        rooms: list[int] = []
        for customer in self._open:
            room = min(_EVENTS_A_LANE - waiting.get(customer, 0), most - sum(rooms))
            if room > 0:
                customers.append(customer)
                rooms.append(room)
        if not customers:
            return []
        rows = self._intend(customers, rooms)
        chosen = Counter(row["customer"] for row in rows)
        emptied = {customer for customer, room in zip(customers, rooms, strict=True) if chosen[customer] < room}
        self._open = [customer for customer in self._open if customer not in emptied]
        place = {customer: number for number, customer in enumerate(customers)}
        rows = sorted(rows, key=lambda row: (place[row["customer"]], row["occurred_at"]))
        going = [self._send(row) for row in rows if row["is_going"]]
        self._state.treated += len(going)
        return going

    def _look(self) -> list[str]:
        state = self._state
        with state.ctx.reading() as transaction:
            rows = transaction.rows(
                _STATEMENTS["customers_ready"],
                **some(state.times(), "now", "run_id", "event_name", "blind_after", "known_after"),
                under_way=self._open,
                **state.ctx.share.keys,
                size=_CUSTOMERS_A_LOOK,
            )
        # The last one is taken first.
        return [str(row["customer"]) for row in reversed(rows)]

    def _intend(self, customers: list[str], rooms: list[int]) -> Sequence[Row]:
        state = self._state
        times = state.times()
        with state.ctx.batch() as batch:
            chosen = batch.rows(
                _STATEMENTS["lock_next"],
                **some(times, "run_id", "event_name", "blind_after", "known_after"),
                customers=customers,
                rooms=rooms,
            )
            keys = {
                "chosen": [row["key"] for row in chosen],
                "locked": [row["key"] for row in chosen if row["is_locked"]],
            }
            if len(keys["locked"]) < len(keys["chosen"]):
                batch.execute(_STATEMENTS["forget_gone"], **keys)
            return batch.rows(
                _STATEMENTS["intend"],
                **keys,
                **some(times, "run_id"),
                at=times["now"],
                event_name=state.target.event_name,
            )

    def _send(self, row: Row) -> Send:
        target = self._state.target
        event = MeterEvent(
            event_name=row["event_name"],
            payload={target.customer_key: row["customer"], target.value_key: str(row["value"])},
            identifier=row["identifier"],
            timestamp=row["occurred_at"],
        )
        return Send(row["key"], row["customer"], row["value"], event, doubtful=row["doubtful"])
