"""When Stripe fails call after call, nobody is sent for a while; then one goes ahead and tries. Time is an argument."""

import random

# So many failures in a row, whichever events they are of, and nobody is sent; so many tries in vain, and that is all.
_FAILURES_THAT_OPEN = 10
_TRIES = 5
_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 30.0


def backoff(attempt: int) -> float:
    """Seconds to wait after so many failures, longer each time and never quite the same for two who wait."""
    longest: float = min(_FIRST_SECONDS * 2**attempt, _LONGEST_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  no secret


class Breaker:
    """Closed while calls succeed. Not safe to share between threads without a lock."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._tries = 0
        self._open_until = 0.0
        self._trying = False

    @property
    def has_given_up(self) -> bool:
        """Whether trying again has failed so often that it is of no use."""
        return self._tries > _TRIES

    @property
    def is_closed(self) -> bool:
        """Whether everybody may call."""
        return not self._tries

    def seconds_to_try(self, now: float) -> float:
        """Seconds until one caller may go ahead while it is open; 0 if that is now, which takes the try."""
        if self._trying:
            return _FIRST_SECONDS
        wait = self._open_until - now
        if wait > 0:
            return wait
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        """A call succeeded: everybody may call again."""
        self._in_a_row = self._tries = 0
        self._trying = False

    def failed(self, now: float, *, was_try: bool) -> None:
        """A call failed. Those that had left before it opened say nothing new, and count no more."""
        if self.is_closed:
            self._in_a_row += 1
            if self._in_a_row < _FAILURES_THAT_OPEN:
                return
        elif not was_try:
            return
        self._trying = False
        self._tries += 1
        self._open_until = now + backoff(self._tries)
