"""Carries frozen events to Stripe with many threads: paced, one call a customer at a time, each attempt's meaning kept.

What is known of an event when it comes back is one of three: a final answer, in doubt, or never left. Doubt does not go
away by asking again: after an attempt without an answer, a refusal says nothing about the attempt before it.
"""

import enum
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from functions.stripe_reconcile.breaker import Breaker, backoff
from functions.stripe_reconcile.reading import refused
from functions.stripe_reconcile.verdicts import Verdict, judge
from shared.clock import Timer
from shared.errors import MaintenanceError, Misconfigured, Unavailable
from shared.pace import Pacing
from shared.stripe_calls import Answer, MeterEvent, Stripe

_ATTEMPTS = 3
# So often an event is put off in one run because of too many calls; then it is left for the next.
_PUT_OFF = 8
_LONGEST_WAIT_SECONDS = 30.0
# A call that has begun when everything ends may take so long. What drips on beyond that is left in doubt.
LAST_CALL_SECONDS = 40.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Send:
    """A frozen event on its way. `doubtful`: an earlier attempt has no explanation yet."""

    key: str
    customer: str
    pages: int
    event: MeterEvent
    doubtful: bool


@dataclass(frozen=True)
class Delivery:
    """What became of it. `verdict` is None where it never left."""

    send: Send
    verdict: Verdict | None
    answer: Answer | None


class Turn(enum.Enum):
    """The right to send once."""

    USUAL = "as everybody"
    TRY = "alone, to see whether Stripe is back"


class Courier:
    """Threads that send while the `with` block lasts. `may_go_on` is asked before each attempt.

    `stopped_by` is the error that stopped it, None while it goes on.
    """

    def __init__(self, stripe: Stripe, pace: Pacing, timer: Timer, may_go_on: Callable[[], bool], threads: int) -> None:
        self._stripe = stripe
        self._pace = pace
        self._timer = timer
        self._may_go_on = may_go_on
        self._lanes: dict[str, deque[Send]] = {}
        self._free: deque[str] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._under_way = 0
        self._done: SimpleQueue[Delivery] = SimpleQueue()
        self._breaker = Breaker()
        self._given_up: set[str] = set()
        self.stopped_by: MaintenanceError | None = None
        self._threads = [threading.Thread(target=self._work, name="courier", daemon=True) for _ in range(threads)]

    def __enter__(self) -> "Courier":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let nothing more leave, and wait for the calls that are under way, but not for ever."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = self._timer.seconds() + LAST_CALL_SECONDS
        for thread in self._threads:
            thread.join(max(0.1, end - self._timer.seconds()))

    def put(self, sends: Iterable[Send]) -> None:
        """Take events to send: those of one customer in the order given."""
        with self._changed:
            idle = len(self._free)
            for send in sends:
                lane = self._lanes.get(send.customer)
                if lane is None:
                    self._lanes[send.customer] = deque([send])
                    self._free.append(send.customer)
                else:
                    lane.append(send)
                self._under_way += 1
            self._changed.notify(len(self._free) - idle)

    def waiting(self) -> dict[str, int]:
        """How many events of each customer have not come back yet, for customers with any."""
        with self._changed:
            return {customer: len(lane) for customer, lane in self._lanes.items()}

    @property
    def under_way(self) -> int:
        """How many events have not come back yet."""
        with self._changed:
            return self._under_way

    def collect(self, most: int, seconds: float) -> Sequence[Delivery]:
        """What comes back within so many seconds, at most so many; at once when nothing is left to come back."""
        came: list[Delivery] = []
        end = self._timer.seconds() + seconds
        while len(came) < most:
            patience = max(0.0, end - self._timer.seconds()) if self.under_way else 0.0
            try:
                came.append(self._done.get(timeout=patience))
            except Empty:
                break
        return came

    def stop(self, error: MaintenanceError) -> None:
        """Let nothing more leave; what waits comes back as never having left."""
        with self._changed:
            if self.stopped_by is None:
                self.stopped_by = error
            self._changed.notify_all()

    # ---- one thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._free and not self._closing:
                    self._changed.wait()
                if not self._free:
                    return
                customer = self._free.popleft()
                send = self._lanes[customer][0]
            try:
                delivery = self._deliver(send)
            except Exception as error:  # noqa: BLE001  a thread that dies of it would leave its event unaccounted for
                self.stop(CourierBrokeError(f"{type(error).__name__}: {error}"))
                delivery = Delivery(send, Verdict.IN_DOUBT, None)
            with self._changed:
                lane = self._lanes[customer]
                lane.popleft()
                if lane:
                    # This thread takes it, or one that was there before: nobody needs to be woken.
                    self._free.append(customer)
                else:
                    del self._lanes[customer]
                # Together, so that nothing is under way exactly when everything has come back.
                self._under_way -= 1
                self._done.put(delivery)

    def _deliver(self, send: Send) -> Delivery:
        """Send until there is an answer, as often as makes sense. The customer is not sent for by others meanwhile."""
        doubtful, last = send.doubtful, None
        nonce = f"{random.getrandbits(64):016x}"
        attempt = answered_badly = put_off = 0
        while attempt < _ATTEMPTS and put_off < _PUT_OFF and send.customer not in self._given_up:
            turn = self._turn()
            if turn is None:
                break
            # After a lost connection the same key: Stripe answers again what it answered. After an error that it has
            # answered, a new one: it would repeat the error ("Idempotent requests", Stripe API reference).
            last = self._stripe.send(send.event, f"{send.event.identifier}-{nonce}-{answered_badly}")
            verdict = judge(last)
            if verdict is Verdict.MISCONFIGURED:
                self.stop(_misconfigured(last))
                break
            if verdict is Verdict.CUSTOMER_BUSY:
                # Somebody else sends for this customer: that is nobody else's trouble.
                put_off += 1
                if turn is Turn.TRY:
                    # And Stripe is back.
                    with self._changed:
                        self._breaker.succeeded()
                self._timer.wait(min(last.retry_after or backoff(put_off), _LONGEST_WAIT_SECONDS))
                continue
            if verdict is Verdict.THROTTLED:
                put_off += 1
                self._failed(turn)
                self._pace.slow_down(last.retry_after or backoff(attempt))
                continue
            if verdict is Verdict.IN_DOUBT:
                doubtful = True
                attempt += 1
                answered_badly += last.status is not None
                self._failed(turn)
                if attempt < _ATTEMPTS:
                    self._timer.wait(backoff(attempt))
                continue
            with self._changed:
                self._breaker.succeeded()
            if doubtful and verdict in (Verdict.REJECTED, Verdict.TOO_OLD):
                verdict = Verdict.IN_DOUBT
            return Delivery(send, verdict, last)
        if put_off == _PUT_OFF:
            self._given_up.add(send.customer)
        return Delivery(send, Verdict.IN_DOUBT if doubtful else None, last)

    def _turn(self) -> Turn | None:
        """Wait for the right to send once; None where nothing may leave any more."""
        while True:
            with self._changed:
                if self.stopped_by is not None or self._closing or not self._may_go_on():
                    return None
                wait = self._pace.pause
                if not wait and not self._breaker.is_closed:
                    wait = self._breaker.seconds_to_try(self._timer.seconds())
                    if not wait:
                        return Turn.TRY
            wait = wait or self._pace.delay()
            if not wait:
                return Turn.USUAL
            self._timer.wait(min(wait, _POLL_SECONDS))

    def _failed(self, turn: Turn) -> None:
        with self._changed:
            self._breaker.failed(self._timer.seconds(), was_try=turn is Turn.TRY)
            if self._breaker.has_given_up and self.stopped_by is None:
                self.stopped_by = Unavailable(
                    "stripe", "Stripe took no event any more, attempt after attempt. Try again: nothing is sent twice."
                )


class CourierBrokeError(MaintenanceError):
    """A defect of ours in a sending thread."""


def _misconfigured(answer: Answer) -> Misconfigured:
    error = refused(answer)
    if isinstance(error, Misconfigured):
        return error
    return Misconfigured(
        "STRIPE_METER_PAGES",
        f"Stripe takes no meter events here ({answer.status}): {answer.message.rstrip('.')}. Nothing was marked.",
    )
