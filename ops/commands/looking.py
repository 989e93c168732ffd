"""Commands that only look: how each job is, what ran, and who did what by hand."""

from collections.abc import Mapping
from pathlib import Path

import click

from functions.registry import JOBS
from ops.grants import HEALTH_JOB
from ops.jobs import job_named, recorded_as
from ops.shell import NO, Column, NotThere, Shell, cell, command
from shared.health import lines_of
from shared.job import Job
from shared.sql import load_statements
from shared.start_check import check_start

_STATEMENTS = load_statements(Path(__file__).with_name("looking.sql"))
_STATUS = (
    Column("JOB", "short"),
    Column("STATE", "state"),
    Column("LAST SUCCESS", "last_success"),
    Column("NEXT FIRING", "next_firing"),
    Column("WAITING", "waiting"),
)
_HISTORY = (
    Column("RUN", "id", right=True),
    Column("JOB", "short"),
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
limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many."
)


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
                for row in transaction.rows(_STATEMENTS["last_runs"], dry_run=services.settings.report_only)
            }
        rows = []
        for line in lines_of(services, JOBS, shell.now, state):
            run = last.get(line["job"], {})
            rows.append(
                {
                    **line,
                    "short": JOBS[str(line["job"])].cli,
                    "state": _state(line, run),
                    "last_run": {name: run.get(name) for name in ("id", "status", "started_at")} if run else None,
                    "running_run": run.get("running_id"),
                    "running_since": run.get("running_since"),
                }
            )
        # With spaces, so that a narrow table need not break the words.
        shown = rows if shell.as_json else [{**row, "waiting": cell(row["waiting"]).replace("_", " ")} for row in rows]
        shell.table(shown, _STATUS, "There are no jobs.")
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
        shell.table([{**row, "short": _short(row["job"])} for row in rows], _HISTORY, "Nothing has run yet.")

    @command(group, "show")
    @click.argument("run_id", type=click.IntRange(min=1))
    def show(shell: Shell, run_id: int) -> None:
        """Show everything about one run.

        Example: python -m ops show 4711
        """
        with shell.services.database.transaction(read_only=True) as transaction:
            row = transaction.row(_STATEMENTS["run"], id=run_id)
        if row is None:
            raise NotThere(f"There is no run {run_id}. `python -m ops history` lists the newest.")
        counts = row["counts"]
        named = {name: value for name, value in row.items() if name != "counts"}
        width = max(len(name) for name in (*named, *counts))
        shell.tell(row, *(f"{name:{width}}  {cell(value)}" for name, value in {**named, **counts}.items()))

    @command(group, "actions")
    @limit_option
    def actions(shell: Shell, limit: int) -> None:
        """Show who did what by hand, the newest first.

        Example: python -m ops actions --limit 50
        """
        with shell.services.database.transaction(read_only=True) as transaction:
            rows = transaction.rows(_STATEMENTS["actions"], limit=limit)
        shell.table(rows, _ACTIONS, "Nothing was done by hand yet.")


def _state(line: Mapping[str, object], run: Mapping[str, object]) -> str:
    if run.get("running_id") is not None:
        return f"running since {run['running_since']:%Y-%m-%d %H:%M}Z"
    said = str(run.get("status", "never ran"))
    return f"OVERDUE, last {said}" if line["overdue"] else said


def _short(name: str) -> str:
    return JOBS[name].cli if name in JOBS else name
