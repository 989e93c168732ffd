"""Commands for Cloud Scheduler: what it fires when, and whether it is deployed as declared."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from functions.registry import JOBS
from ops.cloud_scheduler import CloudScheduler, Schedule
from ops.commands.places import place_options
from ops.declared_schedules import HEALTH_SCHEDULE, differences, slug
from ops.jobs import job_named
from ops.shell import NO, Column, NotThere, Shell, cell, command
from shared.errors import MaintenanceError, Unavailable

_HEALTH = "health"
_DATABASE_SETTINGS = ("DATABASE_URL", "CLOUD_SQL_INSTANCE")
# While Google is asked, the record of it waits in its transaction.
_PATIENCE_MS = 60_000
_COLUMNS = (
    Column("SCHEDULE", "schedule", whole=True),
    Column("STATE", "state"),
    Column("CRON (UTC)", "when", whole=True),
    Column("NEXT FIRING", "next_firing"),
)
# Left out where nothing was ever fired: the names need the room.
_LAST_COLUMNS = (Column("LAST ATTEMPT", "last_attempt"), Column("RESULT", "result"))


def _located(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Let a command be told where the schedules are, and give it a CloudScheduler in the place of that."""

    @place_options(required=True)
    @functools.wraps(function)
    def run(shell: Shell, project: str, region: str, emulator_host: str | None, **arguments: object) -> int | None:
        scheduler = CloudScheduler(project, region, emulator_host)
        try:
            return function(shell, scheduler, **arguments)
        finally:
            scheduler.close()

    return run


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @group.group("schedules", help="Cloud Scheduler's jobs, which fire the functions.")
    def schedules() -> None:
        """Group the commands."""

    @command(schedules, "list")
    @click.argument("job", required=False)
    @_located
    def show(shell: Shell, scheduler: CloudScheduler, job: str | None) -> None:
        """Show what is deployed, all of it or that of JOB (or `health`): when it fires next, and how it went last.

        RESULT is what Cloud Scheduler made of the function's answer. What the run did is in `python -m ops history`.

        Example: python -m ops schedules list --project bytereview-prod --region europe-west1
        """
        found = [scheduler.get(_schedule_of(job))] if job else scheduler.schedules()
        rows = [_row(each) for each in found]
        fired = any(row[column.name] is not None for row in rows for column in _LAST_COLUMNS)
        columns = (*_COLUMNS, *_LAST_COLUMNS) if fired else _COLUMNS
        shell.table(rows, columns, f"There are no schedules in {scheduler.location}.")

    @command(schedules, "run")
    @click.argument("job")
    @_located
    def run(shell: Shell, scheduler: CloudScheduler, job: str) -> None:
        """Let Cloud Scheduler fire JOB (or `health`) now: the function runs in the cloud. Recorded.

        Example: python -m ops schedules run artifact
        """
        name = _schedule_of(job)
        # A health check is no run.
        see = "schedules list health` shows how it went" if name == HEALTH_SCHEDULE else "history` shows the run"
        said = f"Cloud Scheduler fires {name} now. `python -m ops {see}."
        with _recorded(shell, "schedules run", name, said) as recorded:
            scheduler.run(name)
        shell.tell({"schedule": name, "recorded": recorded}, said, *_unrecorded(recorded))

    @command(schedules, "pause")
    @click.argument("job")
    @_located
    def pause(shell: Shell, scheduler: CloudScheduler, job: str) -> None:
        """Let Cloud Scheduler not fire JOB (or `health`) any more, until it is resumed. Recorded.

        The next `terraform apply` resumes it, unless `paused_jobs` names it. What must last, or must end at a time,
        is `python -m ops pause`.

        Example: python -m ops schedules pause artifact
        """
        name = _schedule_of(job)
        if scheduler.get(name).state == "PAUSED":
            raise NotThere(f"{name} is paused already. `python -m ops schedules resume {job}` ends that.")
        said = f"Cloud Scheduler fires {name} no more until it is resumed."
        with _recorded(shell, "schedules pause", name, said) as recorded:
            state = scheduler.pause(name).state
        shell.tell({"schedule": name, "state": state, "recorded": recorded}, said, *_unrecorded(recorded))

    @command(schedules, "resume")
    @click.argument("job")
    @_located
    def resume(shell: Shell, scheduler: CloudScheduler, job: str) -> None:
        """Let Cloud Scheduler fire JOB (or `health`) again, from its next time on. Recorded.

        What it missed is not made up for. A pause made by `python -m ops pause` is another one, and stays.

        Example: python -m ops schedules resume artifact
        """
        name = _schedule_of(job)
        if (state := scheduler.get(name).state) != "PAUSED":
            raise NotThere(
                f"{name} is not paused: it is {state}. A pause by `python -m ops pause` ends with "
                "`python -m ops resume`."
            )
        said = f"Cloud Scheduler fires {name} again."
        with _recorded(shell, "schedules resume", name, said) as recorded:
            after = scheduler.resume(name)
        done = {"schedule": name, "state": after.state, "next_firing": after.next_firing, "recorded": recorded}
        shell.tell(done, f"{said} Next at {cell(after.next_firing)}.", *_unrecorded(recorded))

    @command(schedules, "check")
    @click.option("--ignore", multiple=True, metavar="NAME", help="A schedule of something else in this project.")
    @_located
    def check(shell: Shell, scheduler: CloudScheduler, ignore: tuple[str, ...]) -> int:
        """Compare what is deployed with functions/jobs.json, and with Terraform's way to retry and its health check.

        Prints one line a difference; exit code 1 if there is any. What this installation's Terraform variables change
        (schedules, attempts, paused_jobs) is a difference too. `terraform apply` mends what was changed by hand; where
        the retries are missing after a first apply, `terraform apply -replace=…` as docs/deploy.md says.

        Example: python -m ops schedules check --ignore nightly-backup
        """
        found = differences(scheduler.schedules(), JOBS, ignore)
        if not found:
            shell.tell([], f"All {len(JOBS) + 1} schedules are deployed as declared.")
            return 0
        shell.tell([asdict(each) for each in found], *(each.sentence for each in found))
        return NO


def _schedule_of(job: str) -> str:
    """The schedule of a job by any of its names, or the health check's. Raises NotThere."""
    if job in (_HEALTH, HEALTH_SCHEDULE):
        return HEALTH_SCHEDULE
    found = job_named(job)
    if found is None:
        names = ", ".join(each.cli for each in JOBS.values())
        raise NotThere(f"There is no job {job!r}. The jobs are {names}, and {_HEALTH} for the health check.")
    return slug(found.name)


@contextmanager
def _recorded(shell: Shell, action: str, name: str, said: str) -> Iterator[bool]:
    """Record what is done within, where a database is set: both or neither, as far as that can be.

    Gives whether it is recorded. `said` is what is true once it is done.
    """
    named = [setting for setting in _DATABASE_SETTINGS if os.environ.get(setting, "").strip()]
    if not named:
        yield False
        return
    begun = done = False
    try:
        with shell.changing() as transaction:
            transaction.limit("idle_in_transaction_session_timeout", _PATIENCE_MS)
            shell.record(transaction, action, {"schedule": name})
            begun = True
            yield True
            done = True
    except MaintenanceError as error:
        if not begun and isinstance(error, Unavailable):
            raise Unavailable(
                "postgres",
                f"{error} Nothing was done, because it could not be recorded. To do it unrecorded: unset "
                f"{' '.join(named)}, and type it again.",
            ) from error
        if not done:
            raise
        raise Unavailable("postgres", f"{said} But it could not be recorded: {error}") from error


def _unrecorded(recorded: bool) -> tuple[str, ...]:
    return () if recorded else ("It is not recorded who did it: DATABASE_URL is not set.",)


def _row(schedule: Schedule) -> dict[str, object]:
    zone = "" if schedule.time_zone in ("Etc/UTC", "UTC") else f" ({schedule.time_zone})"
    return {
        "schedule": schedule.name,
        "state": schedule.state,
        "cron": schedule.schedule,
        "time_zone": schedule.time_zone,
        "when": f"{schedule.schedule}{zone}",
        "next_firing": schedule.next_firing,
        "last_attempt": schedule.last_attempt,
        "result": schedule.result,
        "method": schedule.method,
        "uri": schedule.uri,
    }
