"""Whether everything is as it must be, and whose database this is."""

from functools import partial

import click

from ops.adopt import FIELDS, adopt, bound, wanted
from ops.cloud_scheduler import CloudScheduler
from ops.commands.places import place_options
from ops.commands.words import Words
from ops.doctor import Verdict, examine
from ops.shell import NO, Column, NotThere, Shell, cell, command
from shared.postgres import Row

_FINDINGS = (Column("WHAT", "what"), Column("IS", "verdict"), Column("", "said"))
_IDENTITY = (Column("", "field"), Column("BOUND TO", "bound"), Column("SETTINGS SAY", "wanted"))


def add_to(group: click.Group) -> None:
    """Add these commands."""

    @command(group, "doctor")
    @place_options(required=False)
    def doctor(shell: Shell, project: str | None, region: str | None, emulator_host: str | None) -> int:
        """Look at every setting and dependency, and say what is wrong and what to do. Changes nothing.

        Cloud Scheduler is looked at where the project and the region are given. Exit code 1 if something is wrong; a
        risk is told, and is no reason for that.

        Example: python -m ops doctor
        """
        connect = partial(CloudScheduler, project, region, emulator_host) if project and region else None
        found = [
            {"what": finding.what, "verdict": finding.verdict.value, "said": shell.services.redact(finding.said)}
            for finding in examine(shell.services, connect)
        ]
        shell.table(found, _FINDINGS, "Nothing was looked at.")
        return NO if any(row["verdict"] == Verdict.WRONG for row in found) else 0

    @command(group, "adopt")
    @click.option("--reason", type=Words(), required=True, help="Why this database belongs here now. Recorded.")
    @click.option("--yes", is_flag=True, help="Do it without asking, for scripts.")
    def adopt_command(shell: Shell, reason: str, yes: bool) -> int:
        """Bind this database to this environment, after showing both. Recorded.

        A copy of a database is refused by every job until this is done, so that it neither bills nor deletes in another
        environment's name. Stop whatever else runs on it first, and begin with MAINTENANCE_MODE=report.

        Example: python -m ops adopt --reason "staging, restored from Monday's backup"
        """
        values = wanted(shell.services.settings)
        with shell.services.database.transaction(read_only=True) as transaction:
            before = _bound(bound(transaction))
        rows = [{"field": name, "bound": before[name], "wanted": values[name]} for name in FIELDS]
        if all(row["bound"] == row["wanted"] for row in rows):
            shell.tell({"changed": False, "bound": values}, "It belongs here already.")
            return 0
        if not shell.as_json:
            shell.table(rows, _IDENTITY, "")
        if not yes and not click.confirm("Bind it to what the settings say?", err=True):
            shell.tell({"changed": False, "bound": before}, "Nothing was changed.")
            return NO
        with shell.services.database.transaction() as transaction:
            if _bound(bound(transaction, hold=True)) != before:
                raise NotThere("Somebody bound it anew meanwhile. Nothing was changed: look again.")
            adopt(transaction, values, shell.now)
            shell.record(transaction, "adopt", {"before": before, "after": values}, reason)
        shell.tell({"changed": True, "bound": values}, f"It belongs to {cell(values['instance'])} now.")
        return 0


def _bound(row: Row | None) -> dict[str, object]:
    if row is None:
        raise NotThere("This database is bound to nothing yet. Run `python -m ops migrate`, which binds it.")
    return {name: row[name] for name in FIELDS}
