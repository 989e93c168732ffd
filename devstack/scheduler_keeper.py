"""Keeps the time for the Cloud Scheduler stand-in where the clock goes by itself, as in `make dev`."""

from __future__ import annotations

import threading
from typing import Final, Self

from devstack.scheduler import Scheduler

# A forced run plans retries at any moment, so no longer sleep than this.
_LONGEST_SLEEP_S: Final = 0.25


class Keeper:
    """Starts what comes due, each attempt in a thread of its own, while the `with` block lasts.

    Attempts in flight at its end are left to themselves.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="scheduler-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._stopped.is_set():
            self._scheduler.start_due()
            moment = self._scheduler.next_moment()
            left = _LONGEST_SLEEP_S if moment is None else (moment - self._scheduler.clock.now()).total_seconds()
            self._stopped.wait(min(max(left, 0), _LONGEST_SLEEP_S))
