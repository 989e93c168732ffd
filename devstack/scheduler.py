"""A stand-in for Cloud Scheduler: fires jobs over HTTP, with retries and deadlines, on a clock that tests move.

    jobs = jobs_of_plan(installation_plan())
    scheduler = Scheduler(jobs, {"period-reset": served.url, ...}, clock)
    scheduler.faults.random(7, {"twice": 0.1, "503": 0.1})
    scheduler.run_until(clock.now() + timedelta(days=31))
    assert scheduler.ledger.gaps(jobs, start, clock.now()) == []

`run_until` works through what comes due in the order of time, and sets the clock to each moment before anything is
sent; what comes due at one moment goes in the order of the jobs, one after the other. On that clock an attempt takes no
time unless a fault says so. An attempt that gets no answer within `patience` real seconds has passed its deadline. On a
clock that goes by itself, `devstack.scheduler_keeper` keeps the time, and the true deadlines hold.

What Google documents, and what is made of it. "Never two simultaneously outstanding executions" (reference of
Job.schedule): a firing lasts from its first attempt until one succeeds or no retry is left, and only a forced run goes
beside it ("even if the job is already running", reference of RunJob). Of a time that comes due meanwhile the reference
says that the start is delayed, and "Retry jobs" that it might be skipped: here it is skipped, the harder case. A retry
that comes due in a pause is not made, and its firing has failed; what a pause missed is not made up for.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, Protocol, runtime_checkable

from devstack.scheduler_delivery import Request, deliver, make_request
from devstack.scheduler_faults import Fault, Faults
from devstack.scheduler_jobs import ScheduledJob
from devstack.scheduler_ledger import (
    DEADLINE_EXCEEDED,
    OK,
    UNAVAILABLE,
    Attempt,
    Delivery,
    Firing,
    Ledger,
    Outcome,
    code_of,
)
from devstack.scheduler_times import next_firing, retry_moment
from shared.clock import Clock

_NOW = timedelta(0)


@runtime_checkable
class MovableClock(Clock, Protocol):
    """A clock that stands still until it is set."""

    def set(self, now: datetime) -> None:
        """Make it that time."""
        ...


class StateError(RuntimeError):
    """The job is not in the state that the call needs."""


@dataclass(frozen=True)
class Shown:
    """A job as Google's API shows it: `next_moment` may be a retry's, `code` is the last attempt's."""

    job: ScheduledJob
    paused: bool
    next_moment: datetime | None
    last_attempt: datetime | None
    code: int | None


@dataclass
class _State:
    """A job's state. `due` is its next scheduled time, `retries` the moments for which attempts are planned."""

    job: ScheduledJob
    due: datetime
    paused: bool
    current: Firing | None = None
    retries: dict[int, datetime] = field(default_factory=dict)
    last_attempt: datetime | None = None
    code: int | None = None


class Scheduler:
    """Jobs that fire at their times. `targets` has the local address of each function, by its name (period-reset).

    Fires what comes due after the clock's present time. `faults` are the user's to plan, `ledger` tells what happened.
    Raises ValueError for a function without an address.
    """

    def __init__(
        self, jobs: Iterable[ScheduledJob], targets: Mapping[str, str], clock: Clock, *, patience: float = 60.0
    ) -> None:
        self.clock = clock
        self.faults = Faults()
        self.ledger = Ledger()
        self._patience = patience
        self._targets = dict(targets)
        now = clock.now()
        self._states = {job.id: _State(job, next_firing(job.schedule, now), job.paused) for job in jobs}
        for state in self._states.values():
            if state.job.function not in self._targets:
                raise ValueError(f"{state.job.id} calls {state.job.function}, for which there is no address.")
        self._agenda: list[tuple[datetime, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    @property
    def jobs(self) -> list[ScheduledJob]:
        """All jobs, in their order."""
        return [state.job for state in self._states.values()]

    # --- time

    def run_until(self, moment: datetime) -> None:
        """Work through all that comes due up to and with this moment; then it is that moment."""
        with self._turn:
            while (event := self._take(moment)) is not None:
                due, work = event
                self._move(due)
                work()
            self._move(moment)

    def start_due(self) -> None:
        """Start all that is due now, each in a thread of its own: for a clock that goes by itself."""
        while (event := self._take(self.clock.now())) is not None:
            self._start(event[1])

    def next_moment(self) -> datetime | None:
        """When something comes due next; None: never."""
        with self._lock:
            return self._next_moment()

    def settle(self) -> None:
        """Wait for everything that was started and not waited for: forced runs of the API, attempts that overrun."""
        while True:
            with self._lock:
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                threads = list(self._threads)
            if not threads:
                return
            for thread in threads:
                thread.join()

    # --- what the API offers

    def show(self, job: str) -> Shown:
        """A job by its short name. Raises KeyError."""
        with self._lock:
            state = self._states[job]
            moments = [] if state.paused else [state.due, *state.retries.values()]
            return Shown(state.job, state.paused, min(moments, default=None), state.last_attempt, state.code)

    def pause(self, job: str) -> None:
        """Fire it no more until it is resumed. Raises KeyError, and StateError if it is paused."""
        with self._lock:
            state = self._states[job]
            if state.paused:
                raise StateError("Job.state must be ENABLED for the job to be paused; it is PAUSED.")
            state.paused = True

    def resume(self, job: str) -> None:
        """Fire it again, from the next scheduled time on. Raises KeyError, and StateError unless it is paused."""
        with self._lock:
            state = self._states[job]
            if not state.paused:
                raise StateError("Job.state must be PAUSED for the job to be resumed; it is ENABLED.")
            state.paused = False

    def run(self, job: str, *, carries: Literal["next", "nothing"] = "next", wait: bool = True) -> Firing:
        """Fire it now, also when it is paused or under way. Raises KeyError.

        Its requests carry the time of the next firing by the schedule, or none. With `wait` the first attempt has been
        made when this comes back; retries follow as for any firing.
        """
        with self._lock:
            state = self._states[job]
            firing = Firing(job, state.due if carries == "next" else None, forced=True)
            self.ledger.firings.append(firing)
        attempt = partial(self._attempt, state, firing)
        if wait:
            attempt()
        else:
            self._start(attempt)
        return firing

    # --- what comes due

    def _next_moment(self) -> datetime | None:
        moments = [state.due for state in self._states.values()]
        return min([*moments, *(moment for moment, _, _ in self._agenda[:1])], default=None)

    def _take(self, until: datetime) -> tuple[datetime, Callable[[], object]] | None:
        """The next thing to do, up to this moment: what is planned goes before the schedules."""
        with self._lock:
            moment = self._next_moment()
            if moment is None or moment > until:
                return None
            if self._agenda and self._agenda[0][0] == moment:
                return moment, heapq.heappop(self._agenda)[2]
            state = next(each for each in self._states.values() if each.due == moment)
            return moment, self._due(state)

    def _due(self, state: _State) -> Callable[[], object]:
        slot, job = state.due, state.job
        state.due = next_firing(job.schedule, slot)
        firing = Firing(job.id, slot)
        self.ledger.firings.append(firing)
        if state.paused:
            firing.outcome = Outcome.PAUSED
        elif state.current is not None and state.current.outcome is Outcome.UNDER_WAY:
            firing.outcome = Outcome.OVERLAPPED
        else:
            state.current = firing
            late = self.faults.take(job.id, slot, None)
            if late is None:
                return partial(self._attempt, state, firing)
            moment = slot + timedelta(seconds=60 if late.seconds is None else late.seconds)
            self._plan(state, firing, moment)
        return lambda: None

    def _plan(self, state: _State, firing: Firing, moment: datetime) -> None:
        state.retries[id(firing)] = moment
        self._later(moment, partial(self._attempt, state, firing))

    def _later(self, moment: datetime, work: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._numbers), work))

    def _move(self, moment: datetime) -> None:
        if isinstance(self.clock, MovableClock) and moment > self.clock.now():
            self.clock.set(moment)

    def _start(self, work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work, name="scheduler", daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
            thread.start()
        return thread

    # --- an attempt

    def _attempt(self, state: _State, firing: Firing) -> None:
        now, job = self.clock.now(), state.job
        with self._lock:
            state.retries.pop(id(firing), None)
            if state.paused and not firing.forced:
                firing.outcome = Outcome.FAILED if firing.attempts else Outcome.PAUSED
                return
            attempt = Attempt(len(firing.attempts) + 1, now)
            firing.attempts.append(attempt)
            state.last_attempt = now
        fault = self.faults.take(job.id, firing.slot, attempt.number)
        request = make_request(job, self._targets[job.function], firing.slot, now)
        lasts = self._send(job, attempt, request, fault)
        if lasts == _NOW:
            self._end(state, firing, attempt)
        else:
            with self._lock:
                self._later(now + lasts, partial(self._end, state, firing, attempt))

    def _send(self, job: ScheduledJob, attempt: Attempt, request: Request, fault: Fault | None) -> timedelta:
        """Make the attempt and note what Cloud Scheduler sees of it; give the time that it takes on the clock."""
        attempt.fault = kind = fault.kind if fault is not None else None
        lasts = _NOW
        if kind == "refused":
            attempt.code = UNAVAILABLE
        elif kind in ("503", "429"):
            attempt.status = int(kind)
            attempt.code = code_of(attempt.status)
        elif kind == "overrun":
            sent = threading.Event()
            self._start(partial(self._deliver, job, attempt, request, sent))
            sent.wait()
            attempt.code, lasts = DEADLINE_EXCEEDED, job.deadline
        else:
            second = self._start(partial(self._deliver, job, attempt, request)) if kind == "twin" else None
            seen = self._deliver(job, attempt, request)
            if second is not None:
                second.join()
            attempt.status, attempt.code = seen.status, seen.code
            if seen.code == DEADLINE_EXCEEDED and seen.status is None and isinstance(self.clock, MovableClock):
                lasts = job.deadline
        if kind == "cut":
            attempt.status, attempt.code = None, UNAVAILABLE
        elif kind == "slow" and fault is not None:
            lasts = job.deadline if fault.seconds is None else timedelta(seconds=fault.seconds)
            if lasts >= job.deadline:
                attempt.status, attempt.code, lasts = None, DEADLINE_EXCEEDED, job.deadline
        elif kind == "twice" and fault is not None:
            again = partial(self._deliver, job, attempt, request)
            if not fault.seconds:
                again()
            else:
                with self._lock:
                    self._later(attempt.at + timedelta(seconds=fault.seconds), again)
        return lasts

    def _deliver(
        self, job: ScheduledJob, attempt: Attempt, request: Request, sent: threading.Event | None = None
    ) -> Delivery:
        patience = self._patience if isinstance(self.clock, MovableClock) else job.deadline.total_seconds()
        delivery = deliver(request, self.clock.now(), patience, sent or threading.Event())
        with self._lock:
            attempt.deliveries.append(delivery)
        return delivery

    def _end(self, state: _State, firing: Firing, attempt: Attempt) -> None:
        with self._lock:
            now = attempt.ended_at = self.clock.now()
            state.code = attempt.code
            if attempt.code == OK:
                firing.outcome = Outcome.SUCCEEDED
                return
            again = retry_moment(state.job.retries, attempts=attempt.number, first=firing.attempts[0].at, failed=now)
            if again is None:
                firing.outcome = Outcome.FAILED
            else:
                self._plan(state, firing, again)
