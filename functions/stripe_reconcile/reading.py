"""Reads from Stripe: paced, and repeated where that may help. A read changes nothing, so it may be repeated blindly."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from shared.context import Context
from shared.errors import MaintenanceError, Misconfigured, Unavailable
from shared.stripe_calls import Answer, CallFailed, Stripe

_ATTEMPTS = 5
_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 0.5, 8.0
_LONGEST_WAIT_SECONDS = 1.0
# A call that has begun when time runs out may take so long.
_LAST_CALL_SECONDS = 35.0
_THREADS = 16
# So many customers in a row that cannot be read are no longer the fault of a customer.
_FAILURES_IN_A_ROW = 5

Item = TypeVar("Item")
Read = TypeVar("Read")


class ReadRefused(MaintenanceError):
    """Stripe refuses a read for what it asks: a customer that it does not know, for one."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"Stripe refused a read with {answer.status}: {answer.message}")
        self.answer = answer


class OutOfTime(MaintenanceError):
    """The run has no time left to read anything."""


class Reader:
    """Reads from Stripe for one run, under one pace, in several threads at once."""

    def __init__(self, ctx: Context, stripe: Stripe) -> None:
        self._ctx = ctx
        self._pace = ctx.pace("reads", ctx.settings.stripe.read_rate)
        self.stripe = stripe

    def once(self, action: Callable[[Stripe], Read]) -> Read:
        """Do one read. Raises ReadRefused, Misconfigured where key or rights are wrong, Unavailable, and OutOfTime."""
        for attempt in range(_ATTEMPTS):
            self._wait_turn()
            try:
                return action(self.stripe)
            except CallFailed as failure:
                answer = failure.answer
                final = attempt == _ATTEMPTS - 1
                if _is_about_the_request(answer):
                    raise refused(answer) from failure
                if final:
                    raise _unavailable(answer) from failure
                pause = min(_FIRST_BACKOFF_SECONDS * 2**attempt, _LONGEST_BACKOFF_SECONDS)
                if answer.status == 429:
                    self._pace.slow_down(answer.retry_after or pause)
                self._ctx.timer.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  no secret
        raise AssertionError("unreachable")

    def _result(self, future: "Future[Read | MaintenanceError]") -> Read | MaintenanceError:
        """What a thread has read; a connection that drips is not waited for."""
        try:
            return future.result(max(0.0, self._ctx.time_left()) + _LAST_CALL_SECONDS)
        except TimeoutError:
            return OutOfTime("")

    def _wait_turn(self) -> None:
        while self._ctx.time_left() > 0:
            seconds = self._pace.delay()
            if not seconds:
                return
            self._ctx.timer.wait(min(seconds, _LONGEST_WAIT_SECONDS))
        raise OutOfTime("There was no time left to read from Stripe.")

    def each(
        self, items: Sequence[Item], action: Callable[[Stripe, Item], Read], name: Callable[[Item], str]
    ) -> Iterator[tuple[Item, Read | ReadRefused]]:
        """Do one piece of reading for each item, several at a time; give what came of it.

        Items that cannot be read now are counted as failed and left out, and so are those that there is no time for.
        Raises Misconfigured, and Unavailable where item after item cannot be read.
        """
        in_a_row = 0

        def read(item: Item) -> Read | MaintenanceError:
            if self._ctx.time_left() <= 0:
                return OutOfTime("")
            try:
                return action(self.stripe, item)
            except (ReadRefused, Unavailable, Misconfigured, OutOfTime) as error:
                return error

        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="reader")
        try:
            pending = [(item, pool.submit(read, item)) for item in items]
            for item, future in pending:
                result = self._result(future)
                if isinstance(result, Misconfigured):
                    raise result
                if isinstance(result, Unavailable):
                    in_a_row += 1
                    if in_a_row >= _FAILURES_IN_A_ROW:
                        raise result
                    self._ctx.item_failed(name(item), str(result))
                elif not isinstance(result, OutOfTime):
                    in_a_row = 0
                    yield item, result  # type: ignore[misc]  # the other errors are out by now
        finally:
            # Nobody waits for what is under way: a read changes nothing.
            pool.shutdown(wait=False, cancel_futures=True)


def _is_about_the_request(answer: Answer) -> bool:
    """Whether the same read would be refused again."""
    status = answer.status
    return status is not None and answer.readable and 400 <= status < 500 and status not in (409, 429)


def refused(answer: Answer) -> MaintenanceError:
    """What a refused call stands for: Misconfigured where the key is wrong or may not do this, or ReadRefused."""
    if answer.status == 401:
        return Misconfigured(
            "STRIPE_SECRET_KEY",
            f"Stripe refused STRIPE_SECRET_KEY (401): {answer.message.rstrip('.')}. Nothing was marked.",
        )
    if answer.status == 403:
        return Misconfigured(
            "STRIPE_SECRET_KEY",
            f"STRIPE_SECRET_KEY may not do what this job does (403): {answer.message.rstrip('.')}. It needs to write "
            "meter events, and to read meters, their event summaries, subscriptions and events.",
        )
    return ReadRefused(answer)


def _unavailable(answer: Answer) -> Unavailable:
    how = f"answered {answer.status}" if answer.status else "did not answer"
    return Unavailable("stripe", f"Stripe {how} {_ATTEMPTS} times in a row ({answer.message}). Try again.")
