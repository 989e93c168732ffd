"""Erasing on request: first what would go; then, with just that confirmed, through the protocol of the cleanups."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import click

from functions.registry import JOBS
from ops.commands.running import exit_code, stopped_by_ctrl_c
from ops.commands.words import Words
from ops.grants import HEALTH_JOB
from ops.jobs import ERASURE, ERASURE_CLI
from ops.on_request import Request, Seen
from ops.shell import NO, NotThere, Shell, command, printable
from shared.context import Context
from shared.invocation import Invocation
from shared.job import Job, JobModule, JobResult
from shared.outcome import Outcome
from shared.postgres import Row, Transaction
from shared.runner import run_job
from shared.settings import Settings
from shared.start_check import check_start

# A look bounds by ids what may go: the share of a table that a cleanup may take says nothing about it.
_AS_MANY_AS_SEEN = 2**31 - 1
# So many runs that stay are named.
_FEW = 5


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
    @click.option("--confirm", metavar="WHAT", help="Do it: what this command shows without it, such as 12-3fa9c1d0.")
    def erase(shell: Shell, user: str | None, run_id: uuid.UUID | None, reason: str, confirm: str | None) -> int:
        """Erase everything of a user, or one run, with its objects: on request, whatever its age.

        Without --confirm it only shows what would go, and what to confirm. Nothing goes that was not shown. Extracted
        data, files, results, exports and objects go; usage events and counters, which are the bill, stay, and so does
        what is held or still being worked on. What was done is on record: `python -m ops erasures --user U`.

        Exit code 1 where something of what was asked for is still there in the end. What was interrupted goes on with
        the same command: look, and confirm.

        Example: python -m ops erase --user 8hVkQw2pXa --reason "request 4711"
        """
        if (user is None) == (run_id is None):
            raise click.UsageError("Name what is to be erased: --user or --run, and not both.")
        request = Request(user, None if run_id is None else str(run_id))
        seen = _look(shell, request)
        if not seen.there:
            raise _nothing_of(request)
        bound = replace(request, seen=seen)
        with stopped_by_ctrl_c(shell):
            would = _run(shell, bound, dry_run=True)
            if confirm is None or exit_code([would]):
                _tell(shell, request, seen, seen, would)
                _tell_how(shell, seen, would)
                return exit_code([would])
            if confirm != seen.token:
                raise NotThere(
                    f"{printable(confirm)} was confirmed, and what would go now is {seen.token or 'nothing'}. Nothing "
                    "was erased. Look once more, without --confirm."
                )
            if not shell.services.settings.report_only:
                _record(shell, request, seen, reason)
            done = _run(shell, bound, dry_run=False)
        left = _look(shell, request)
        _tell(shell, request, seen, left, done)
        if done.dry_run:
            shell.say("MAINTENANCE_MODE is report here, in which nothing is ever erased. Nothing was.")
        still_there = left.rows or left.jobs or left.objects
        return exit_code([done]) or (NO if done.dry_run or still_there else 0)


def _look(shell: Shell, request: Request) -> Seen:
    with shell.services.database.transaction(read_only=True) as transaction:
        check_start(transaction, JOBS[HEALTH_JOB], shell.services.settings, shell.now)
        return request.look(transaction, shell.now)


def _nothing_of(request: Request) -> NotThere:
    what = f"user {printable(request.user)}; users are named by their ids" if request.user else f"run {request.run}"
    return NotThere(
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
    invocation = Invocation("cli", dry_run=dry_run, allow_deletes=_AS_MANY_AS_SEEN)
    return run_job(shell.services, errand, invocation)


def _record(shell: Shell, request: Request, seen: Seen, reason: str) -> None:
    """Write down who erases for whom: a user under the hash that stands in the register, too."""
    with shell.changing() as transaction:
        whom = {"run": request.run} if request.user is None else {"user_hash": request.user_hash(transaction)}
        shell.record(transaction, "erase", {"runs": len(seen.runs), **whom}, reason)


_WHY = {
    "unfinished": ("still being worked on", "Ask again when that has ended."),
    "held": ("held", "`python -m ops hold list` says by whom and why."),
    "automation": (
        "the one that an automation lives on, without content",
        "Let the service delete the automation, and ask again.",
    ),
    "going": ("not gone", "A draft needs its files, it came since, or it was refused: the log says. Ask again."),
}


def _staying(seen: Seen, *, after: bool) -> list[str]:
    """What stays and why, a sentence or two for each reason."""
    said = []
    figures = seen.figures()
    for reason, (why, what_to_do) in _WHY.items():
        number = figures[reason]
        if number and (after or reason != "going"):
            verb = "run stays" if number == 1 else "runs stay"
            said.append(f"{number} {verb}: {why}{_named(reason, seen)}. {what_to_do}")
    if after and seen.jobs:
        said.append(f"Extraction jobs left empty: {len(seen.jobs)}. Ask again.")
    if after and seen.objects:
        said.append(f"Objects still in the bucket: {len(seen.objects)}. `python -m ops outbox` says why; ask again.")
    return said


def _named(reason: str, seen: Seen) -> str:
    """Which runs they are, in brackets, and which holds keep them. Nothing where they are many."""
    if reason not in ("held", "unfinished"):
        return ""
    staying = [row for row in seen.rows if not row["goes"]]
    rows = [row for row in staying if bool(row["holds"]) == (reason == "held") and (row["holds"] or row["unfinished"])]
    if len(rows) > _FEW:
        return ""
    holds = sorted({hold for row in rows for hold in row["holds"]})
    by = f", by {_listed('hold', holds)}" if holds else ""
    return f" ({_listed('run', [row['id'] for row in rows])}{by})"


def _listed(what: str, which: Sequence[object]) -> str:
    return f"{what}{'' if len(which) == 1 else 's'} {', '.join(map(str, which))}"


def _tell(shell: Shell, request: Request, seen: Seen, left: Seen, outcome: Outcome) -> None:
    scope, subject = ("user", request.user) if request.user else ("run", request.run)
    after = not outcome.dry_run
    told = {
        "scope": scope,
        "subject": subject,
        "asked_for": seen.figures(),
        "confirm": left.token,
        "left": left.figures(),
        **outcome.as_json(),
    }
    lines = [f"{outcome.status}: {outcome.message}"]
    if not after and outcome.success:
        lines = [f"Of the {scope} {subject}{_whose(request, seen.rows)} would go: {_in_words(seen)}."]
        waiting = outcome.counts.get("waiting_on_draft", 0)
        if waiting:
            lines.append(f"Of these wait for a draft that needs their files, and stay until then: {waiting}.")
    lines += _staying(left, after=after)
    shell.tell(told, *lines)


def _whose(request: Request, rows: Sequence[Row]) -> str:
    if request.user or not rows:
        return ""
    return f" (of the user {rows[0]['user_id']}, in the extraction job {rows[0]['job_id']})"


def _in_words(seen: Seen) -> str:
    figures = seen.figures()
    if seen.token is None:
        return "nothing"
    content = figures["content_only"]
    only = f" (of {content} only the content: an automation lives on it)" if content else ""
    earlier = f", objects of earlier erasures {figures['objects']}" if seen.objects else ""
    return (
        f"runs {figures['going']}{only}, files {figures['files']} of {figures['bytes']} bytes, "
        f"extraction jobs {figures['jobs']}{earlier}"
    )


def _tell_how(shell: Shell, seen: Seen, would: Outcome) -> None:
    if would.success and seen.token is not None:
        if shell.services.settings.report_only:
            shell.say("MAINTENANCE_MODE is report here, in which nothing is ever erased.")
        else:
            shell.say(f"Nothing was erased. To erase just that, add --confirm {seen.token} to this command.")
