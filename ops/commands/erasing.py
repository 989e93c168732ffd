"""Erasing on request: first what would go; then, with its number confirmed, through the protocol of the cleanups."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import click

from functions.cleanup.erasing import STATEMENTS as ERASING
from functions.cleanup.erasing import hash_of
from functions.registry import JOBS
from ops.commands.running import exit_code, stopped_by_ctrl_c
from ops.commands.words import Words
from ops.grants import HEALTH_JOB
from ops.jobs import ERASURE, ERASURE_CLI
from ops.on_request import Request
from ops.shell import NO, NotThere, Shell, cell, command, printable
from shared.context import Context
from shared.invocation import Invocation
from shared.job import Job, JobModule, JobResult
from shared.outcome import Outcome
from shared.postgres import Row, Transaction
from shared.runner import run_job
from shared.settings import Settings
from shared.sql import Statement
from shared.start_check import check_start

# A request bounds by itself what may go: the share of a table that a cleanup may take says nothing about it.
_AS_MANY_AS_ASKED_FOR = 2**31 - 1
# So many runs that stay are named.
_FEW = 5
_IS_USER_HERE = Statement("is_user_here", "Whether there is such a user.", "SELECT FROM users WHERE id = :user")


@dataclass(frozen=True)
class _Errand(Job):
    """A job that is nobody's firing: the one request that it was made for."""

    request: Request = field(kw_only=True)

    def load(self) -> JobModule:
        return _Work(self.request)


@dataclass(frozen=True)
class _Work:
    request: Request

    def run(self, ctx: Context) -> JobResult:
        return self.request.run_job(ctx)

    def waiting(self, transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
        return self.request.waiting(transaction, now, settings)


def add_to(group: click.Group) -> None:
    """Add this command."""

    @command(group, "erase")
    @click.option("--user", type=Words(), help="Everything of the user with this id.")
    @click.option("--run", "run_id", type=click.UUID, help="This one run of an extraction job.")
    @click.option("--reason", type=Words(), required=True, help="Why: who asked, in which case. No personal data.")
    @click.option(
        "--confirm", type=click.IntRange(min=1), metavar="RUNS", help="Do it: so many runs, as shown without this."
    )
    def erase(shell: Shell, user: str | None, run_id: uuid.UUID | None, reason: str, confirm: int | None) -> int:
        """Erase everything of a user, or one run, with its objects: on request, whatever its age.

        Without --confirm it only shows what would go. Extracted data, files, results, exports and objects go; usage
        events and counters, which are the bill, stay, and so does what is held or still being worked on. What was done
        is on record: `python -m ops erasures --user U`.

        Exit code 1 where something of what was asked for is still there in the end.

        Example: python -m ops erase --user 8hVkQw2pXa --reason "request 4711"
        """
        if (user is None) == (run_id is None):
            raise click.UsageError("Name what is to be erased: --user or --run, and not both.")
        request = Request(user, None if run_id is None else str(run_id))
        looked, kept = _look(shell, request)
        with stopped_by_ctrl_c(shell):
            would = _run(shell, request, dry_run=True)
            code = exit_code([would])
            if code or confirm is None:
                _tell(shell, request, looked, kept, would)
                if not code and would.counts["jobs_cleaned"]:
                    shell.say(
                        f"Nothing was erased. To do it, add --confirm {would.counts['jobs_cleaned']} to this command."
                    )
                return code
            if confirm != would.counts["jobs_cleaned"]:
                why = " ".join(_staying(looked, kept, would))
                raise NotThere(
                    f"{confirm} was confirmed, and {would.counts['jobs_cleaned']} would go now. Nothing was erased. "
                    f"{why} Look once more, without --confirm.".replace("  ", " ")
                )
            _record(shell, request, confirm, reason)
            done = _run(shell, request, dry_run=False)
        _tell(shell, request, looked, kept, done)
        if done.dry_run:
            shell.say("MAINTENANCE_MODE is report here, in which nothing is ever erased. Nothing was.")
        return exit_code([done]) or (NO if done.dry_run or _left(looked, done) else 0)


def _look(shell: Shell, request: Request) -> tuple[Row, Sequence[Row]]:
    """What there is of what is asked for, and what stays of it if that is little. Raises NotThere."""
    with shell.services.database.transaction(read_only=True) as transaction:
        check_start(transaction, JOBS[HEALTH_JOB], shell.services.settings, shell.now)
        found = request.look(transaction, shell.now)
        if found["runs"] or (request.user and transaction.row(_IS_USER_HERE, user=request.user) is not None):
            kept = request.what_stays(transaction, shell.now, _FEW + 1)
            return found, kept if len(kept) <= _FEW else ()
    what = f"user {printable(request.user)}; users are named by their ids" if request.user else f"run {request.run}"
    raise NotThere(
        f"There is no {what}. Nothing was erased. Objects of rows that are gone already leave the bucket with "
        "`python -m ops run artifact`, once they are old enough."
    )


def _run(shell: Shell, request: Request, *, dry_run: bool) -> Outcome:
    like = JOBS["opt_out_cleanup"]
    errand = _Errand(
        **{
            **vars(like),
            "name": ERASURE,
            "cli": ERASURE_CLI,
            "module": __name__,
            "counts": (*like.counts, "parents_deleted"),
        },
        request=request,
    )
    invocation = Invocation("cli", dry_run=dry_run, allow_deletes=_AS_MANY_AS_ASKED_FOR)
    return run_job(shell.services, errand, invocation)


def _record(shell: Shell, request: Request, runs: int, reason: str) -> None:
    """Write down who erases for whom: a user under the hash that stands in the register, too."""
    with shell.changing() as transaction:
        arguments: dict[str, object] = {"runs": runs}
        if request.user is None:
            arguments["run"] = request.run
        else:
            arguments["user_hash"] = _hash(transaction, request.user)
        shell.record(transaction, "erase", arguments, reason)


def _hash(transaction: Transaction, user: str) -> str:
    (row,) = transaction.rows(ERASING["erasure_key"])
    return hash_of(bytes(row["erasure_key"]), user)


def _left(looked: Mapping[str, int], outcome: Outcome) -> dict[str, int]:
    """How many runs stay, by why they do."""
    waiting, held = (outcome.counts.get(name, 0) for name in ("waiting_on_draft", "held"))
    # Who ends a hold is asked first: a run that is held, and worked on too, is told as held.
    worked_on_only = looked["unfinished"] - looked["unfinished_held"]
    left = {"unfinished": worked_on_only, "held": held + looked["unfinished_held"], "waiting_on_draft": waiting}
    return {name: number for name, number in left.items() if number}


_WHY = {
    "unfinished": ("still being worked on", "Ask again when that has ended."),
    "held": ("held", "`python -m ops hold list` says by whom and why."),
    "waiting_on_draft": ("needed by somebody else's draft", "Ask again when that was submitted or is gone."),
}


def _staying(looked: Row, kept: Sequence[Row], outcome: Outcome) -> list[str]:
    """What stays and why, a sentence or two for each reason."""
    said = []
    for reason, number in _left(looked, outcome).items():
        why, what_to_do = _WHY[reason]
        said.append(f"{number} {'stays' if number == 1 else 'stay'}: {why}{_named(reason, number, kept)}. {what_to_do}")
    return said


def _named(reason: str, number: int, kept: Sequence[Row]) -> str:
    """Which runs they are, in brackets, and which holds keep them. Nothing where they were too many to be looked up."""
    runs = [row for row in kept if bool(row["holds"]) == (reason == "held")]
    # It was looked before the work: what has changed since is not named.
    if reason == "waiting_on_draft" or len(runs) != number:
        return ""
    holds = sorted({hold for row in runs for hold in row["holds"]})
    by = f", by {_listed('hold', holds)}" if holds else ""
    return f" ({_listed('run', [row['run'] for row in runs])}{by})"


def _listed(what: str, which: Sequence[object]) -> str:
    return f"{what}{'' if len(which) == 1 else 's'} {', '.join(map(str, which))}"


def _tell(shell: Shell, request: Request, looked: Row, kept: Sequence[Row], outcome: Outcome) -> None:
    scope, subject = ("user", request.user) if request.user else ("run", request.run)
    told = {"scope": scope, "subject": subject, "asked_for": dict(looked), **outcome.as_json()}
    lines = [f"{outcome.status}: {outcome.message}"]
    if outcome.dry_run and outcome.success:
        content, runs, parents = (
            looked["content_only"],
            outcome.counts["jobs_cleaned"],
            outcome.counts["parents_deleted"],
        )
        only = f" (of {content} only the content: an automation lives on it)" if content else ""
        would = (
            f"runs {runs}{only}, files {looked['files']} of {looked['bytes']} bytes, extraction jobs {parents}"
            if runs or parents
            else "nothing"
        )
        lines = [f"Of the {scope} {subject} would go: {would}."]
    lines += _staying(looked, kept, outcome)
    shell.tell(told, *(cell(line) for line in lines))
