"""Run one job by hand, in this process, with the same runner and guards as over HTTP."""

import getpass
import json
import os
from pathlib import Path

from functions.registry import JOBS
from shared.invocation import Invocation
from shared.job import Job
from shared.outcome import Outcome
from shared.runner import run_job
from shared.services import Services
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("run.sql"))


def job_named(name: str) -> Job | None:
    """The job of a short name, an entry point's name or a function's (with dashes); None where there is none."""
    return next((job for job in JOBS.values() if name.replace("-", "_") in (job.cli, job.name)), None)


def run_by_hand(
    services: Services, job: Job, *, dry_run: bool, limit: int | None, allow_deletes: int | None
) -> Outcome:
    """Run a job; who let it delete more than the guard allows is recorded first. Raises what the database does."""
    if allow_deletes is not None and not dry_run:
        with services.database.transaction() as transaction:
            transaction.execute(
                _STATEMENTS["record_action"],
                at=services.clock.now(),
                by=_operator(),
                action="run",
                arguments=json.dumps({"job": job.name, "limit": limit, "allow_deletes": allow_deletes}),
            )
    return run_job(services, job, Invocation("cli", dry_run=dry_run, limit=limit, allow_deletes=allow_deletes))


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
