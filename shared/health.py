"""The health check: is each dependency there, and is each job on time. It runs nothing.

A line a job is logged, because lateness of a daily or weekly job cannot be seen by an absence of log lines: Cloud
Monitoring looks back a day at most.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from shared.clock import format_rfc3339
from shared.errors import MaintenanceError, Misconfigured, Unavailable
from shared.job import Job
from shared.postgres import Row
from shared.services import Services
from shared.settings import Settings
from shared.start_check import StartState, check_start
from shared.statements import STATEMENTS

# A firing's attempts may start so much before its time: clocks differ by minutes.
_CLOCK_SKEW = timedelta(seconds=300)
# Beside its timeout, an attempt has 90 s to answer, and Cloud Scheduler waits before the next: 240 s at most, as
# Terraform sets it (backoff_longest_seconds).
_ANSWER_SECONDS = 90
_LONGEST_WAIT_SECONDS = 240
# A health check that takes longer is itself a fault: what waits is left unknown then.
_LOOKING_MS = 5_000
_MINUTE = timedelta(minutes=1)


def health(services: Services, asked: Job, jobs: Mapping[str, Job]) -> dict[str, object]:
    """Look at everything once. `asked` is the job whose function was asked; all jobs are reported.

    Raises Unavailable when PostgreSQL cannot be reached and Misconfigured when a setting or the schema is wrong.
    """
    now = services.clock.now()
    settings = services.settings
    checks: dict[str, str] = {"postgres": "ok"}
    with services.database.transaction(read_only=True) as transaction:
        state = check_start(transaction, asked, settings, now)
    try:
        if services.redis is not None:
            services.redis.ping()
            checks["redis"] = "ok"
    except (Unavailable, Misconfigured) as error:
        checks["redis"] = str(error)
    lines = []
    for line in lines_of(services, jobs, now, state):
        said = f"{line['job']} is {'overdue' if line['overdue'] else 'on time'}"
        services.log.write("WARNING" if line["overdue"] else "INFO", said, event="health", **line)
        lines.append({name: format_rfc3339(v) if isinstance(v, datetime) else v for name, v in line.items()})
    return {"success": True, "status": "healthy", "message": "PostgreSQL answers.", "checks": checks, "jobs": lines}


def lines_of(
    services: Services, jobs: Mapping[str, Job], now: datetime, state: StartState
) -> Iterator[dict[str, object]]:
    """For each job its last success, next firing, whether it is overdue, and what waits: None where nobody can tell.

    Raises Unavailable when PostgreSQL cannot be reached.
    """
    settings = services.settings
    with services.database.transaction(read_only=True) as transaction:
        history = {row["job"]: row for row in transaction.rows(STATEMENTS["job_history"], dry_run=settings.report_only)}
    # Who asks may have no bucket of its own. What waits for the others waits in the database's one.
    of_all = replace(settings, cleanup=replace(settings.cleanup, bucket=state.bucket))
    for job in jobs.values():
        row = history.get(job.name)
        last_success = row["finished_at"] if row else None
        yield {
            "job": job.name,
            "last_success": last_success,
            "since_success_minutes": max(0, (now - last_success) // _MINUTE) if last_success else None,
            "next_firing": job.next_firing(now),
            "overdue": is_overdue(job, now, state.bound_at, row),
            "waiting": _waiting(services, job, now, of_all),
        }


def is_overdue(job: Job, now: datetime, bound_at: datetime, last_success: Row | None) -> bool:
    """Whether a firing has had time for all its attempts and no full success has come since.

    `last_success` has the newest `started_at` and `slot` of the job's successes. A firing before `bound_at`, when this
    database began to belong here, counts for nothing.
    """
    firing = job.last_firing(now - patience(job))
    if firing <= bound_at:
        return False
    if last_success is None:
        return True
    started_since = last_success["started_at"] >= firing - _CLOCK_SKEW
    return not started_since and (last_success["slot"] is None or last_success["slot"] < firing)


def patience(job: Job) -> timedelta:
    """How long all attempts of a firing may take."""
    attempts = (job.retries + 1) * (job.timeout_seconds + _ANSWER_SECONDS)
    return timedelta(seconds=attempts + job.retries * _LONGEST_WAIT_SECONDS)


def _waiting(services: Services, job: Job, now: datetime, settings: Settings) -> Mapping[str, int] | None:
    """What waits for a job; None where this function's login may not look, or looking takes too long."""
    try:
        with services.database.transaction(read_only=True) as transaction:
            transaction.limit("statement_timeout", _LOOKING_MS)
            return job.load().waiting(transaction, now, settings)
    except MaintenanceError:
        return None
    except Exception as error:  # noqa: BLE001  one job's data must not take the others' health along
        services.log.write(
            "ERROR", f"What waits for {job.name} cannot be told: {type(error).__name__}", event="error", job=job.name
        )
        return None
