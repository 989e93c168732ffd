"""`make demo`: see period_reset work, on real servers, fired over HTTP as Cloud Scheduler fires it.

Everything that is shown is also checked: the exit code is 0 only if all of it was as it should be. No server and no
data is left afterwards. Where DATABASE_URL or REDIS_URL is set, that server is used, with a fresh database of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from devstack.accounts import DUE_KINDS, KINDS
from devstack.observing import EARLY_COUNTERS, Observed, add_early_counters, is_paid, observe
from devstack.prepared import Prepared, prepare
from devstack.serving import Answer, Served, ask, fire
from devstack.stack import terminated_cleanly
from devstack.telling import StepFailed, Teller, closed_calmly, exit_code
from functions.period_reset.month import month_of
from functions.registry import JOBS
from shared.clock import format_rfc3339

PER_KIND = 2_000
_JOB = JOBS["period_reset"]


def main(environ: Mapping[str, str]) -> int:
    """Run the demo; give the process's exit code."""

    def work() -> None:
        teller = Teller()
        with terminated_cleanly(), closed_calmly() as cleanup:
            now = datetime.now(UTC)
            teller.chapter(
                "A day of period_reset",
                "Free accounts have calendar months as periods. Whoever used up an old month's pages stays blocked "
                "until the nightly run moves the account to the current month.",
            )
            prepared = prepare(environ, teller, cleanup, purpose="demo", per_kind=PER_KIND, now=now)
            with prepared.transaction() as connection:
                add_early_counters(connection, now)
            command = f"functions-framework --target={_JOB.name}"
            with teller.step(f"Starting {command}", command):
                served = Served(_JOB.name, prepared.settings, log=prepared.folder / "function.log")
                cleanup.enter_context(served)
            _Demo(teller, prepared, served, now).run()
        teller.right("Servers stopped, data removed: nothing is left.")

    return exit_code(work)


class _Demo:
    """The chapters, in their order, each shown and then checked."""

    def __init__(self, teller: Teller, prepared: Prepared, served: Served, now: datetime) -> None:
        self._teller = teller
        self._console = teller.console
        self._prepared = prepared
        self._served = served
        self._now = now
        self._month = month_of(now)
        self._slot = _JOB.last_firing(now)

    def run(self) -> None:
        """Show everything. Raises StepFailed at the first thing that is not as it should be."""
        before = self._observe()
        self._show_health(before)
        self._show_before(before)
        first = self._show_firing(before)
        after = self._show_after(before)
        self._show_replay(first, after)
        self._show_dry_runs(after)
        self._sum_up(first, after)

    def _show_health(self, before: Observed) -> None:
        self._teller.chapter("1. Health: GET /", "It runs nothing, and says what each job waits for.")
        answer = self._expected("GET /", ask(self._served.url), "healthy", {})
        job = next(each for each in answer.fields["jobs"] if each["job"] == _JOB.name)
        checks = ", ".join(f"{name} {state}" for name, state in answer.fields["checks"].items())
        self._console.print(f"{answer.status} {answer.fields['status']}: {escape(checks)}")
        self._console.print(f"{_JOB.name}: {_figures(job['waiting'])}")
        self._console.print(f"Next firing: {job['next_firing']}")
        _expect(
            job["waiting"]["due_count"] == before.due,
            f"The health check counts {job['waiting']['due_count']} accounts as due, and the demo {before.due}.",
        )

    def _show_before(self, before: Observed) -> None:
        self._teller.chapter(
            f"2. Before: accounts at {self._now:%Y-%m-%d %H:%M} UTC",
            f"In {self._month}: the period is this calendar month. Due: a free period is over, or there is none. "
            "Counter: there is a usage counter of this month. Paid periods are Stripe's business (-), even those that "
            "are past.",
        )
        self._table(before, before)

    def _show_firing(self, before: Observed) -> Answer:
        self._teller.chapter(
            f"3. The firing of {self._slot:%Y-%m-%d %H:%M} UTC: POST /",
            "The request that Cloud Scheduler sends. ScheduleTime names the slot: the same in every retry of a firing.",
        )
        for header in (
            "X-CloudScheduler: true",
            f"X-CloudScheduler-JobName: {_JOB.name.replace('_', '-')}",
            f"X-CloudScheduler-ScheduleTime: {format_rfc3339(self._slot)}",
        ):
            self._console.print(f"  {header}")
        with self._teller.step("The job runs", "The job has run and answered"):
            answer = fire(self._served.url, job=_JOB.name, slot=self._slot)
        self._console.print_json(json.dumps(answer.fields))
        wanted = {
            "success": True,
            "updated_count": before.due,
            "counters_created": before.due - EARLY_COUNTERS,
            "failed_count": 0,
            "due_count": 0,
        }
        return self._expected("The firing", answer, "completed", wanted)

    def _show_after(self, before: Observed) -> Observed:
        after = self._observe()
        self._teller.chapter(
            "4. After", "Every due account is in its month and has a counter; all others are as before."
        )
        self._table(before, after)
        _expect(after.due == 0, f"{after.due} accounts are still due.")
        for kind in KINDS:
            old, new = before.kinds[kind], after.kinds[kind]
            if kind in DUE_KINDS:
                moved = new.in_month == new.counters == old.accounts
                _expect(moved, f"Of {old.accounts} accounts '{kind}', {new.in_month} are in the month.")
            else:
                _expect(new == old, f"Accounts '{kind}' were not due, and are not as before.")
        self._teller.right(f"{before.due:,} accounts moved, none is due any more")
        _expect(before.checksums.paid == after.checksums.paid, "Paid accounts were changed.")
        self._teller.right(f"{after.paid:,} paid accounts byte for byte as before: md5 {after.checksums.paid[:12]}…")
        _expect(before.checksums.used == after.checksums.used, "Counters with used pages were changed.")
        self._teller.right(f"Every counter with used pages as before: md5 {after.checksums.used[:12]}…")
        self._console.print(
            f"[dim]{EARLY_COUNTERS} of the due accounts had a counter of this month already, with 3 pages used. The "
            "run kept them, and so created that many counters fewer than it moved accounts.[/]"
        )
        return after

    def _show_replay(self, first: Answer, after: Observed) -> None:
        self._teller.chapter(
            "5. The same slot again",
            "Cloud Scheduler delivers at least once. A repeated delivery is answered with the stored result of the "
            "first; nothing runs.",
        )
        again = fire(self._served.url, job=_JOB.name, slot=self._slot)
        self._outcome(again)
        counts = {name: first.fields[name] for name in ("success", "run_id", *_JOB.counts)}
        self._expected("The second delivery", again, "replayed", counts)
        self._unchanged("the second delivery", after)
        self._teller.right(f"Still run {first.fields['run_id']}, and not a byte has changed")

    def _show_dry_runs(self, after: Observed) -> None:
        self._teller.chapter(
            "6. Dry runs", "They count what a run would do, and change nothing. With as_of, at another time."
        )
        next_month = format_rfc3339(self._month.end + timedelta(minutes=30, seconds=1))
        free = sum(counts.accounts for kind, counts in after.kinds.items() if not is_paid(kind))
        requests: tuple[tuple[dict[str, object], int], ...] = (
            ({"dry_run": True}, 0),
            ({"dry_run": True, "as_of": next_month}, free),
        )
        for request, would_move in requests:
            body = json.dumps(request)
            answer = fire(self._served.url, job=_JOB.name, slot=None, body=body.encode())
            self._console.print(f"  {body}")
            self._outcome(answer)
            wanted = {"success": True, "dry_run": True, "updated_count": would_move}
            self._expected("The dry run", answer, "completed", wanted)
        self._unchanged("the dry runs", after)
        self._teller.right("Not a byte has changed")

    def _sum_up(self, first: Answer, after: Observed) -> None:
        total = sum(counts.accounts for counts in after.kinds.values())
        moved, seconds = first.fields["updated_count"], first.fields["duration_ms"] / 1000
        self._teller.chapter("All of it was as it should be")
        self._console.print(
            f"Of {total:,} accounts {moved:,} were moved to {self._month} in {seconds:.2f} s, once; nobody else's "
            "account was touched. Next: `make dev` keeps such servers up to try things out, `make test` runs the tests."
        )

    def _observe(self) -> Observed:
        with self._prepared.transaction() as connection:
            return observe(connection, PER_KIND, self._now)

    def _unchanged(self, what: str, before: Observed) -> None:
        _expect(self._observe() == before, f"The data was changed by {what}.")

    def _expected(self, what: str, answer: Answer, status: str, wanted: Mapping[str, object]) -> Answer:
        """Give the answer back if it is HTTP 200 with the status and the fields wanted. Raises StepFailed."""
        fields = answer.fields
        said = f"{what} was answered with {answer.status} {fields.get('status')}: {fields.get('message')}"
        _expect((answer.status, fields.get("status")) == (200, status), f"{said} Expected was 200 {status}.")
        for name, value in wanted.items():
            _expect(fields.get(name) == value, f"{said} Its {name} is {fields.get(name)}; expected was {value}.")
        return answer

    def _outcome(self, answer: Answer) -> None:
        fields = answer.fields
        self._console.print(f"  {answer.status} [bold]{fields.get('status')}[/] in {fields.get('duration_ms')} ms:")
        self._console.print(f"  {escape(str(fields.get('message')))}")

    def _table(self, before: Observed, after: Observed) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("Kind", no_wrap=True)
        for title in ("Accounts", f"In {self._month}", "Due", "Counter"):
            table.add_column(title, justify="right", no_wrap=True)
        for kind, new in after.kinds.items():
            old = before.kinds[kind]
            cells = [(old.in_month, new.in_month), (old.due, new.due), (old.counters, new.counters)]
            shown = ["-"] * len(cells) if is_paid(kind) else [_change(*cell) for cell in cells]
            table.add_row(kind, f"{new.accounts:,}", *shown)
        table.add_section()
        table.add_row(
            "all", "", "", _change(before.due, after.due), _change(before.counters, after.counters), style="bold"
        )
        self._console.print(table)


def _change(old: int, new: int) -> str:
    return f"{new:,}" if old == new else f"{old:,} → {new:,}"


def _figures(waiting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in waiting.items())


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StepFailed(otherwise)


if __name__ == "__main__":
    sys.exit(main(os.environ))
