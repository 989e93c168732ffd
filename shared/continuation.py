"""What a run leaves to do goes on in further requests, which the run itself queues on Cloud Tasks.

- A run whose time ran out queues the next step. Only then: what is in the way otherwise, such as rows that others lock,
  is still there a moment later, and whoever fired tries again with waits.
- The opening of a firing that is divided queues its shards, and the last shard that completes queues what closes the
  firing: a step of the firing itself.

A task is named after job, slot, shard and step, so that it cannot be queued twice, however often a run is delivered or
an answer gets lost. Until a task is queued, whoever asked tries again, as without a queue. The slot completes when its
last step does.
"""

import enum
import hashlib
from dataclasses import replace
from datetime import datetime

from shared.clock import format_rfc3339
from shared.continuation_settings import ContinuationSettings
from shared.errors import MaintenanceError, Unavailable
from shared.invocation import LARGEST_STEP, Invocation
from shared.job import Job
from shared.ledger import slot_state
from shared.outcome import Outcome, Status
from shared.services import Services
from shared.settings import Settings
from shared.shards import Share


class Left(enum.Enum):
    """What a run has left to do that others shall."""

    NOTHING = "nothing, or what is in the way of it is still there"
    TIME_RAN_OUT = "what it had no time for"
    SHARDS = "everything but the opening"


def is_divided(settings: Settings, job: Job, invocation: Invocation) -> bool:
    """Whether this request is the firing itself of a job that is done in shards. Without a queue none is."""
    has_way = settings.continuation is not None and invocation.host is not None
    return job.shards > 1 and invocation.shard == 0 and has_way


def continued(services: Services, job: Job, invocation: Invocation, outcome: Outcome, left: Left) -> Outcome:
    """The outcome with what becomes of the work that is left.

    `continued_by` is the step that was queued for it, `handed_to` so many shards; `last_step` says that there is none
    any more. A shard that has completed, and cannot queue what closes the firing, is `unavailable`. Raises nothing:
    where nothing can be queued, whoever asked tries again.
    """
    is_done = outcome.status in (Status.COMPLETED, Status.REPLAYED)
    if outcome.slot is None or invocation.host is None or not (is_done or outcome.status is Status.INCOMPLETE):
        return outcome
    try:
        target = services.settings.continuation
        if target is None:
            return outcome
        queue = _Queue(services, job, outcome.slot, target, invocation.host)
        if invocation.shard and is_done:
            return _closed(queue, outcome, Share(of=job.shards))
        if outcome.status is Status.INCOMPLETE and left is Left.SHARDS:
            return _handed_over(queue, outcome)
        if outcome.status is Status.INCOMPLETE and left is Left.TIME_RAN_OUT:
            return _next_step(queue, outcome, invocation.shard, invocation.step + 1)
    except Exception as error:  # noqa: BLE001  whatever it is, the run has ended and its line must be logged
        # Text that is not ours may hold anything.
        why = str(error) if isinstance(error, MaintenanceError) else type(error).__name__
        services.log.write(
            "WARNING",
            f"The next step of {job.name} could not be queued: {why}",
            event="degraded",
            job=job.name,
            run_id=outcome.run_id,
        )
        if is_done:
            message = f"{outcome.message}; what closes the firing could not be queued. Try again."
            service = error.service if isinstance(error, Unavailable) else "cloud_tasks"
            details = {**outcome.details, "service": service}
            return replace(outcome, status=Status.UNAVAILABLE, success=False, message=message, details=details)
    return outcome


class _Queue:
    """Queues what goes on of one firing of a job."""

    def __init__(self, services: Services, job: Job, slot: datetime, target: ContinuationSettings, host: str) -> None:
        self.services = services
        self.job = job
        self.slot = slot
        self._target = target
        self._host = host

    def add(self, shard: int, step: int) -> None:
        """Queue a step of the firing, or of one of its shards. Raises Misconfigured or Unavailable."""
        body = {"slot": format_rfc3339(self.slot), "step": step, "shard": shard}
        name = task_name(self.job.name, self.slot, shard, step)
        self.services.tasks.queue(name, self._target.own_url(self._host), body)


def _next_step(queue: _Queue, outcome: Outcome, shard: int, step: int) -> Outcome:
    if step > LARGEST_STEP:
        queue.services.log.write(
            "ERROR",
            f"{queue.job.name} has work left after {LARGEST_STEP} steps of one firing. Nothing more is queued for it.",
            event="steps",
            job=queue.job.name,
            run_id=outcome.run_id,
            slot=queue.slot,
        )
        return _with(outcome, "it was the last step, the next firing goes on", last_step=LARGEST_STEP)
    queue.add(shard, step)
    return _with(outcome, f"step {step} goes on", continued_by=step)


def _handed_over(queue: _Queue, outcome: Outcome) -> Outcome:
    for number in range(1, queue.job.shards + 1):
        queue.add(number, 1)
    return _with(outcome, f"{queue.job.shards} shards go on", handed_to=queue.job.shards)


def _closed(queue: _Queue, outcome: Outcome, firing: Share) -> Outcome:
    """Have the firing closed, if this was the last of its shards. Of two that end together each may be."""
    with queue.services.database.transaction(read_only=True) as transaction:
        state = slot_state(transaction, queue.job, firing, queue.slot)
    if state.replay is not None or not state.shards_completed:
        return outcome
    return _next_step(queue, outcome, 0, state.next_step)


def _with(outcome: Outcome, told: str, **details: int) -> Outcome:
    return replace(outcome, message=f"{outcome.message}; {told}", details={**outcome.details, **details})


def task_name(job: str, slot: datetime, shard: int, step: int) -> str:
    """The name of a step's task. It begins with a hash: names in sequence make Cloud Tasks slow ("tasks.create")."""
    readable = f"{job.replace('_', '-')}-{int(slot.timestamp())}-{shard}-{step}"
    return f"{hashlib.sha256(readable.encode()).hexdigest()[:8]}-{readable}"
