"""A firing's work that does not fit into one run goes on in the next step, which the run itself queues on Cloud Tasks.

Only where the time ran out: what is in the way otherwise, such as rows that others lock, is still there a moment later,
and whoever fired tries again with waits. Until a task is queued the firing's own retries go on, as they do without a
queue.

A step's task is named after job, slot, shard and step, so that it cannot be queued twice, however often a run is
delivered or an answer gets lost. The slot completes when its last step does.
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


def continued(services: Services, job: Job, invocation: Invocation, outcome: Outcome, *, time_ran_out: bool) -> Outcome:
    """The outcome with what becomes of the work that is left.

    `continued_by` is the step that was queued for it; `last_step` says that there is none any more. Raises nothing:
    where nothing can be queued, whoever fired tries again.
    """
    if outcome.status is not Status.INCOMPLETE or not time_ran_out or outcome.slot is None or invocation.host is None:
        return outcome
    try:
        return _continued(services, job, invocation, outcome, outcome.slot, invocation.host)
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
        return outcome


def _continued(
    services: Services, job: Job, invocation: Invocation, outcome: Outcome, slot: datetime, host: str
) -> Outcome:
    target = services.settings.continuation
    if target is None:
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
        return _with(outcome, "it was the last step, the next firing goes on", last_step=invocation.step)
    step = invocation.step + 1
    body = {"slot": format_rfc3339(slot), "step": step, "shard": _SHARD}
    services.tasks.queue(task_name(job.name, slot, _SHARD, step), target.own_url(host), body)
    return _with(outcome, f"step {step} goes on", continued_by=step)


def _with(outcome: Outcome, told: str, **details: int) -> Outcome:
    return replace(outcome, message=f"{outcome.message}; {told}", details={**outcome.details, **details})


def task_name(job: str, slot: datetime, shard: int, step: int) -> str:
    """The name of a step's task. It begins with a hash: names in sequence make Cloud Tasks slow ("tasks.create")."""
    readable = f"{job.replace('_', '-')}-{int(slot.timestamp())}-{shard}-{step}"
    return f"{hashlib.sha256(readable.encode()).hexdigest()[:8]}-{readable}"
