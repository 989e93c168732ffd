"""Commands that only look: how each job is, what ran, and who did what by hand."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from functions.registry import JOBS
from ops.grants import HEALTH_JOB
from ops.jobs import job_named, recorded_as
from ops.layout import wrapped
from ops.shell import NO, Column, NotThere, Shell, cell, command
from ops.waiting_words import figure, in_words
from shared.health import lines_of
from shared.job import Job
from shared.postgres import Row
from shared.sql import load_statements
from shared.start_check import check_start

_STATEMENTS = load_statements(Path(__file__).with_name("looking.sql"))
_STATUS = (
    Column("JOB", "short"),
    Column("STATE", "state"),
    Column("LAST SUCCESS", "last_success"),
    Column("NEXT FIRING", "next_firing"),
    # Whole, so that a narrow terminal gets each job in lines of its own instead of a ribbon of words.
    Column("WAITING", "waits", whole=True),
)
_HISTORY = (
    Column("RUN", "id", right=True),
    Column("JOB", "part"),
    Column("STARTED", "started_at"),
    Column("STATUS", "status"),
    Column("DRY", "dry_run"),
    Column("MESSAGE", "message"),
)
_ACTIONS = (
    Column("AT", "at"),
    Column("BY", "by"),
    Column("ACTION", "action"),
    Column("WITH", "arguments"),
    Column("REASON", "reason"),
)
_MINUTE = "%Y-%m-%d %H:%MZ"
limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many."
)


class RunNumber(click.ParamType[int]):
    """The number of a run on the command line."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it; what is none is a wrong command line."""
        try:
            number = int(str(value))
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{str(value)!r} is no number of a run; `python -m ops history` lists them.", param, ctx)
        return number


def job_of(name: str) -> Job:
    """The job of a name. Raises NotThere."""
    found = job_named(name)
    if found is None:
        raise NotThere(f"There is no job {name!r}. The jobs are {', '.join(job.cli for job in JOBS.values())}.")
    return found


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @command(group, "status")
    def status(shell: Shell) -> int:
        """Show how each job is: last success, next firing, what runs now, what waits.

        Exit code 1 if one is overdue.

        Example: python -m ops status --json
        """
        services = shell.services
        with services.database.transaction(read_only=True) as transaction:
            # The state of the database, and not what any single job needs of the settings.
            state = check_start(transaction, JOBS[HEALTH_JOB], services.settings, shell.now)
            last = {
                row["job"]: row
                for row in transaction.rows(
                    _STATEMENTS["last_runs"], jobs=list(JOBS), now=shell.now, dry_run=services.settings.report_only
                )
            }
        rows = [
            _now(line, JOBS[str(line["job"])], last[str(line["job"])])
            for line in lines_of(services, JOBS, shell.now, state)
        ]
        shown = rows if shell.as_json else [{**row, "waits": in_words(row["waiting"])} for row in rows]
        shell.table(shown, _STATUS, "There are no jobs.")
        _tell_pauses(shell, rows)
        return NO if any(row["overdue"] for row in rows) else 0

    @command(group, "history")
    @click.argument("job", required=False)
    @limit_option
    def history(shell: Shell, job: str | None, limit: int) -> None:
        """Show the newest runs, of all jobs or of JOB (or `erase`: what was erased on request).

        Example: python -m ops history stripe --limit 5
        """
        name = (recorded_as(job) or job_of(job).name) if job else None
        with shell.services.database.transaction(read_only=True) as transaction:
            rows = transaction.rows(_STATEMENTS["history"], job=name, limit=limit)
        told = [{**row, "short": _short(row["job"])} for row in rows]
        shown = told if shell.as_json else [{**row, "part": _part(row)} for row in told]
        shell.table(shown, _HISTORY, "Nothing has run yet.")

    @command(group, "show")
    @click.argument("run_id", type=RunNumber())
    def show(shell: Shell, run_id: int) -> None:
        """Show everything about one run.

        Example: python -m ops show 4711
        """
        with shell.services.database.transaction(read_only=True) as transaction:
            row = transaction.row(_STATEMENTS["run"], id=run_id)
        if row is None:
            raise NotThere(f"There is no run {run_id}. `python -m ops history` lists the newest.")
        shell.tell(row, *_about(row))

    @command(group, "actions")
    @limit_option
    def actions(shell: Shell, limit: int) -> None:
        """Show who did what by hand, the newest first.

        Example: python -m ops actions --limit 50
        """
        with shell.services.database.transaction(read_only=True) as transaction:
            rows = transaction.rows(_STATEMENTS["actions"], limit=limit)
        shell.table(rows, _ACTIONS, "Nothing was done by hand yet.")


def _now(line: Mapping[str, Any], job: Job, run: Row) -> Mapping[str, Any]:
    """A job's line of `status`, of what the health check says and what is on record."""
    until = run["paused_until"]
    return {
        **line,
        "next_firing": line["next_firing"] if until is None else _first_after(job, until),
        "short": job.cli,
        "state": _state(line, run),
        "last_run": {name: run[name] for name in ("id", "status", "started_at")} if run["id"] is not None else None,
        "running_run": run["running_id"],
        "running_since": run["running_since"],
        "paused_until": until,
        "paused_by": run["paused_by"],
        "paused_why": run["paused_why"],
    }


def _first_after(job: Job, pause: datetime) -> datetime | None:
    """The first firing that a pause does not hold. One at the very moment of its end is none that it holds."""
    try:
        return job.next_firing(pause - timedelta(microseconds=1))
    except OverflowError:
        # The pause lasts as long as the calendar.
        return None


def _state(line: Mapping[str, object], run: Row) -> str:
    if run["running_id"] is not None:
        said = [f"running since {run['running_since']:{_MINUTE}}"]
        if run["paused_until"] is not None:
            said.append(f"paused until {run['paused_until']:{_MINUTE}}")
        return ", ".join(said)
    ended = run["worked_status"] or "never ran"
    if run["paused_until"] is not None:
        said = [f"paused until {run['paused_until']:{_MINUTE}}"]
    elif line["overdue"]:
        said = [f"last {ended}" if run["worked_status"] else ended]
    elif run["status"] == "paused":
        said = ["resumed", f"last {ended}" if run["worked_status"] else ended]
    else:
        said = [ended]
    return ", ".join(["OVERDUE", *said] if line["overdue"] else said)


def _tell_pauses(shell: Shell, rows: Sequence[Mapping[str, Any]]) -> None:
    """Say of each pause who made it and why, and how it ends."""
    paused = [row for row in rows if row["paused_until"] is not None]
    if paused:
        shell.say("")
    for row in paused:
        said = f"{row['short']} is paused by {cell(row['paused_by'])}: {cell(row['paused_why'])}"
        for line in (*_in_lines(said), f"  `python -m ops resume {row['short']}` ends it."):
            shell.say(line)


def _in_lines(text: str) -> Sequence[str]:
    return wrapped(text, shutil.get_terminal_size().columns, "  ")


def _about(run: Row) -> Iterator[str]:
    """All about a run, a line each; of figures that are zero only their names, and nothing of what is not there."""
    counts = run["counts"]
    named = {name: cell(value) for name, value in run.items() if name != "counts" and value not in (None, "")}
    figures = {name: figure(name, value) for name, value in counts.items() if value}
    width = max(map(len, (*named, *figures)))
    for name, value in {**named, **figures}.items():
        yield f"{name:{width}}  {value}"
    if zeros := [name for name, value in counts.items() if not value]:
        yield from _in_lines(f"zero: {', '.join(zeros)}")


def _part(run: Mapping[str, Any]) -> str:
    """The job that ran, and which shard of it, if it was one."""
    return f"{run['short']}, shard {run['shard']}" if run["shard"] else str(run["short"])


def _short(name: str) -> str:
    return JOBS[name].cli if name in JOBS else name
