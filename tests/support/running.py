"""Running a job behind all its guards, in this process."""

import threading
from datetime import timedelta

from shared.invocation import Invocation
from shared.job import Job
from shared.outcome import Outcome
from shared.runner import run_job
from tests.conftest import Environment
from tests.support.clock import NOON

FIRING = Invocation(trigger="schedule", slot=NOON)
NEXT_FIRING = Invocation(trigger="schedule", slot=NOON + timedelta(hours=2))
# Sessions that wait for a lock.
WAITERS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def fire(environment: Environment, job: Job, invocation: Invocation = FIRING) -> Outcome:
    return run_job(environment.services, job, invocation)


class Background:
    """An invocation in a thread."""

    def __init__(self, environment: Environment, job: Job, invocation: Invocation = FIRING) -> None:
        self._outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=lambda: self._outcomes.append(fire(environment, job, invocation)))
        self._thread.start()

    def outcome(self) -> Outcome:
        self._thread.join(60)
        return self._outcomes[0]
