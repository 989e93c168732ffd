"""A firing's work that does not fit into one run goes on in the next step, which the run itself queues on Cloud Tasks.

A step's task is named after job, slot, shard and step, so that it cannot be queued twice, however often a run is
delivered or an answer gets lost. The slot completes when its last step does. Until a task is queued the firing's own
retries go on, as they do without a queue.
"""

import hashlib
from dataclasses import replace
from datetime import datetime

from shared.clock import format_rfc3339
from shared.errors import MaintenanceError
from shared.invocation import LARGEST_STEP, Invocation
from shared.job import Job
from shared.outcome import Outcome, Status
from shared.services import Services

_SHARD = 0


def continued(services: Services, job: Job, invocation: Invocation, outcome: Outcome) -> Outcome:
    """The outcome with what becomes of the work that is left: `continued_by` is the step that was queued for it.

    Raises nothing: where nothing can be queued, whoever fired tries again.
    """
    slot = outcome.slot
    target = services.settings.continuation if outcome.status is Status.INCOMPLETE else None
    if target is None or slot is None or invocation.host is None:
        return outcome
    if invocation.step >= LARGEST_STEP:
        services.log.write(
            "ERROR",
            f"{job.name} has work left after {LARGEST_STEP} steps of one firing. Nothing more is queued for it.",
            event="steps",
            job=job.name,
            run_id=outcome.run_id,
            slot=slot,
        )
        return outcome
    step = invocation.step + 1
    try:
        body = {"slot": format_rfc3339(slot), "step": step, "shard": _SHARD}
        services.tasks.queue(task_name(job.name, slot, _SHARD, step), target.own_url(invocation.host), body)
    except MaintenanceError as error:
        services.log.write(
            "WARNING",
            f"The next step of {job.name} could not be queued: {error}",
            event="degraded",
            job=job.name,
            run_id=outcome.run_id,
        )
        return outcome
    return replace(
        outcome,
        message=f"{outcome.message}; step {step} goes on",
        details={**outcome.details, "continued_by": step},
    )


def task_name(job: str, slot: datetime, shard: int, step: int) -> str:
    """The name of a step's task. It begins with a hash: names in sequence make Cloud Tasks slow ("tasks.create")."""
    readable = f"{job.replace('_', '-')}-{int(slot.timestamp())}-{shard}-{step}"
    return f"{hashlib.sha256(readable.encode()).hexdigest()[:8]}-{readable}"
