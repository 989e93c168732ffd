"""`make dev`: a local cloud, kept up until Ctrl-C.

That is a prepared database and bucket, Stripe's stand-in, and all functions, fired at their times by Cloud Scheduler's.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from devstack.demo_cleanups import seed, with_front
from devstack.local_cloud import deploy
from devstack.prepared import prepare
from devstack.stack import terminated_cleanly
from devstack.telling import Teller, closed_calmly, exit_code, tell_exports
from devstack.usage import KINDS, seed_usage
from functions.registry import JOBS
from shared.clock import SystemClock, format_rfc3339

PER_KIND = 500
USERS_PER_KIND = 2

_HELP = """
# The functions are served here already, and fired at their times; their logs are in
# {logs}
# What comes when, how each job is, and one of them fired now:
.venv/bin/python -m ops schedules list
.venv/bin/python -m ops status
.venv/bin/python -m ops schedules run period

# To work on one yourself, serve it there in the repository's folder, and fire it from a third terminal as Cloud
# Scheduler does. JOB and TIME stand for one of these and the time of its last firing:
{jobs}
.venv/bin/functions-framework --target=JOB
curl -X POST http://localhost:8080/ -H 'X-CloudScheduler: true' \\
  -H 'X-CloudScheduler-ScheduleTime: TIME'

# Whichever is served, a dry run by hand, and the health check:
curl -X POST http://localhost:8080/ -d '{{"dry_run": true}}'
curl http://localhost:8080/

# All of it in another terminal, with this exported first (Stripe is a stand-in, as long as this runs):"""


def main(environ: Mapping[str, str]) -> int:
    """Keep the stack up until Ctrl-C or SIGTERM, its normal end; give the process's exit code."""

    def work() -> None:
        teller = Teller()
        with terminated_cleanly(), closed_calmly() as cleanup:
            now = datetime.now(UTC)
            prepared, front = with_front(
                prepare(environ, teller, cleanup, purpose="dev", per_kind=PER_KIND, now=now), cleanup
            )
            told = f"usage of {USERS_PER_KIND * len(KINDS)} users that was not reported to Stripe"
            with teller.step(f"Seeding {told}", told), prepared.transaction() as connection:
                seed_usage(connection, prepared.stripe.account, USERS_PER_KIND, now)
            told = "counters, runs and objects for the cleanups"
            with teller.step(f"Seeding {told}", told), prepared.transaction() as connection:
                seed(connection, prepared.settings["GCS_BUCKET_NAME"], front, now)
            told = f"{len(JOBS)} functions, fired by the Cloud Scheduler stand-in"
            with teller.step(f"Serving {told}", told):
                cloud = deploy(prepared.settings, prepared.folder, cleanup, SystemClock())
            try:
                _tell({**prepared.settings, **cloud}, prepared.folder, now)
                while True:
                    signal.pause()
            except (KeyboardInterrupt, SystemExit):
                click.echo("\nStopping …")
        click.echo("Stopped: nothing is left.")

    return exit_code(work)


def _tell(settings: Mapping[str, str], logs: Path, now: datetime) -> None:
    jobs = "\n".join(f"#   {job.name:22} {format_rfc3339(job.last_firing(now))}" for job in JOBS.values())
    # Not by rich, which would break the lines that are to be copied.
    click.echo(_HELP.format(logs=logs, jobs=jobs))
    tell_exports(settings)
    click.echo("\n# Ctrl-C stops the servers and removes this database.")


if __name__ == "__main__":
    sys.exit(main(os.environ))
