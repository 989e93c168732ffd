"""Running jobs here, in this process, with the same runner and guards as over HTTP."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import FrameType

import click

from functions.registry import JOBS
from ops.commands.looking import job_of
from ops.commands.moments import Moment
from ops.commands.words import Words
from ops.progress import Progress
from ops.shell import DOWN, NO, WRONG, Column, Shell, cell, command
from shared.errors import MaintenanceError
from shared.failures import outcome_of
from shared.invocation import Invocation
from shared.job import Job
from shared.outcome import Outcome, Status
from shared.runner import run_job

ALL = "all"
_CLEANUPS = "functions.cleanup."
_TABLE = (
    Column("JOB", "short"),
    Column("STATUS", "status"),
    Column("RUN", "run_id", right=True),
    Column("MESSAGE", "message"),
)
_EXIT = {Status.UNAVAILABLE: DOWN, Status.MISCONFIGURED: WRONG}


def add_to(group: click.Group) -> None:
    """Add this command."""

    @command(group, "run")
    @click.argument("job")
    @click.option("--dry-run", is_flag=True, help="Only count what would be done.")
    @click.option("--limit", type=click.IntRange(min=1), help="At most so many items.")
    @click.option("--as-of", type=Moment(), help="Look from that time; only with --dry-run.")
    @click.option("--force", is_flag=True, help="Run although a firing of now is done. Disarms no other guard.")
    @click.option(
        "--allow-deletes", type=click.IntRange(min=1), help="Let this one run delete so many, past the guard."
    )
    @click.option("--reason", type=Words(), help="Why, for the record; must be given with --allow-deletes.")
    def run(
        shell: Shell,
        job: str,
        dry_run: bool,
        limit: int | None,
        as_of: datetime | None,
        force: bool,
        allow_deletes: int | None,
        reason: str | None,
    ) -> int:
        """Run JOB here: period, stripe, usage, abandoned, artifact, optout, or all of them. Recorded, if no dry run.

        Ctrl-C ends it between two batches; the same command goes on from there. Exit code 1 where a job did not
        succeed, 3 where it is misconfigured, 4 where something does not answer.

        Example: python -m ops run artifact --dry-run
        """
        if as_of is not None and not dry_run:
            raise click.UsageError("--as-of looks from another time and so needs --dry-run.")
        if job == ALL and allow_deletes is not None:
            raise click.UsageError("--allow-deletes is for one job. Name it.")
        if allow_deletes is not None and reason is None:
            raise click.UsageError("--allow-deletes lifts a guard: say --reason WHY, too.")
        jobs = list(JOBS.values()) if job == ALL else [job_of(job)]
        invocation = Invocation(
            "cli", dry_run=dry_run, force=force, limit=limit, as_of=as_of, allow_deletes=allow_deletes
        )
        outcomes = []
        with stopped_by_ctrl_c(shell):
            for each in jobs:
                if shell.services.stopping.is_set():
                    break
                outcomes.append(_run(shell, each, invocation, reason))
        _tell(shell, outcomes, whole=job != ALL)
        if shell.services.stopping.is_set():
            click.echo(
                "Stopped between two batches. What is done is done: the same command goes on from there.", err=True
            )
        return exit_code(outcomes)

    @command(group, "upcoming")
    @click.option(
        "--days", type=click.IntRange(0, 3650), default=7, show_default=True, help="Look from so many days on."
    )
    def upcoming(shell: Shell, days: int) -> int:
        """Show what the cleanups would take if they ran in some days: dry runs that look from then.

        Exit code as for `run`: a cleanup that would refuse says so in its message.

        Example: python -m ops upcoming --days 30
        """
        invocation = Invocation("cli", dry_run=True, as_of=shell.now + timedelta(days=days))
        with stopped_by_ctrl_c(shell):
            outcomes = [
                _run(shell, job, invocation, None)
                for job in JOBS.values()
                if job.module.startswith(_CLEANUPS) and not shell.services.stopping.is_set()
            ]
        _tell(shell, outcomes, whole=False)
        return exit_code(outcomes)


def _run(shell: Shell, job: Job, invocation: Invocation, reason: str | None) -> Outcome:
    asked = {"limit": invocation.limit, "allow_deletes": invocation.allow_deletes, "force": invocation.force or None}
    try:
        if not invocation.dry_run and not shell.services.settings.report_only:
            with shell.changing() as transaction:
                shell.record(
                    transaction, "run", {"job": job.name, **{k: v for k, v in asked.items() if v is not None}}, reason
                )
    except MaintenanceError as error:
        # What stands in the way of the record stands in the way of the run, and of no other job's.
        return outcome_of(shell.services, job.name, error)
    with Progress(shell.services, job, shown=sys.stderr.isatty() and not shell.as_json):
        return run_job(shell.services, job, invocation)


def _tell(shell: Shell, outcomes: Sequence[Outcome], *, whole: bool) -> None:
    if whole:
        (outcome,) = outcomes
        counts = [f"{name} {cell(value)}" for name, value in outcome.counts.items() if value]
        paused = outcome.status is Status.PAUSED
        how = (
            [f"`python -m ops resume {JOBS[outcome.job].cli}` ends the pause. A dry run is possible now."]
            if paused
            else []
        )
        shell.tell(outcome.as_json(), f"{outcome.status}: {outcome.message}", *counts, *how)
        return
    rows = [{**outcome.as_json(), "short": JOBS[outcome.job].cli} for outcome in outcomes]
    shell.table(rows, _TABLE, "Nothing was run.")


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 where all ran and succeeded; of those that did not, the code that asks most for a person."""
    codes = [
        _EXIT.get(outcome.status, NO) for outcome in outcomes if not outcome.success or outcome.status is Status.PAUSED
    ]
    return next((code for code in (WRONG, NO, DOWN) if code in codes), 0)


@contextmanager
def stopped_by_ctrl_c(shell: Shell) -> Iterator[None]:
    """Let the first Ctrl-C end what runs between two batches, and a second one at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if shell.services.stopping.is_set():
            raise KeyboardInterrupt
        shell.services.stopping.set()
        click.echo("Stopping after this batch. Ctrl-C once more ends it at once.", err=True)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
