"""The demo's chapters on period_reset: free accounts move to the calendar month, once, and nobody else's does."""

from __future__ import annotations

import json
from datetime import timedelta

from rich import box
from rich.table import Table

from devstack.accounts import DUE_KINDS, KINDS
from devstack.demo_scene import Scene, Stage, change, expect, expected
from devstack.observing import EARLY_COUNTERS, Observed, add_early_counters, is_paid, observe
from devstack.serving import Answer
from functions.period_reset.month import month_of
from functions.registry import JOBS
from shared.clock import format_rfc3339

_JOB = JOBS["period_reset"]


def show(scene: Scene, per_kind: int) -> str:
    """Show and check everything about the job; give what came of it. There are so many accounts of each kind.

    Raises StepFailed at the first thing that is not as it should be.
    """
    scene.teller.chapter(
        "A day of period_reset",
        "Free accounts have calendar months as periods. Whoever used up an old month's pages stays blocked until the "
        "nightly run moves the account to the current month.",
    )
    with scene.prepared.transaction() as connection:
        add_early_counters(connection, scene.now)
    return _Chapters(scene, scene.serve(_JOB), per_kind).run()


class _Chapters:
    """The chapters, in their order, each shown and then checked."""

    def __init__(self, scene: Scene, stage: Stage, per_kind: int) -> None:
        self._scene = scene
        self._teller = scene.teller
        self._stage = stage
        self._per_kind = per_kind
        self._month = month_of(scene.now)
        self._slot = _JOB.last_firing(scene.now)

    def run(self) -> str:
        before = self._observe()
        self._show_health(before)
        self._show_before(before)
        first = self._show_firing(before)
        after = self._show_after(before)
        self._show_replay(first, after)
        self._show_dry_runs(after)
        total = sum(counts.accounts for counts in after.kinds.values())
        moved, seconds = first.fields["updated_count"], first.fields["duration_ms"] / 1000
        return (
            f"Of {total:,} accounts {moved:,} were moved to {self._month} in {seconds:.2f} s, once; nobody else's "
            "account was touched."
        )

    def _show_health(self, before: Observed) -> None:
        self._teller.chapter("1. Health: GET /", "It runs nothing, and says what each job waits for.")
        waiting = self._stage.show_health()
        expect(
            waiting["due_count"] == before.due,
            f"The health check counts {waiting['due_count']} accounts as due, and the demo {before.due}.",
        )

    def _show_before(self, before: Observed) -> None:
        self._teller.chapter(
            f"2. Before: accounts at {self._scene.now:%Y-%m-%d %H:%M} UTC",
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
        answer = self._stage.fire(self._slot)
        self._scene.console.print_json(json.dumps(answer.fields))
        wanted = {
            "success": True,
            "updated_count": before.due,
            "counters_created": before.due - EARLY_COUNTERS,
            "failed_count": 0,
            "due_count": 0,
        }
        return expected("The firing", answer, "completed", wanted)

    def _show_after(self, before: Observed) -> Observed:
        after = self._observe()
        self._teller.chapter(
            "4. After", "Every due account is in its month and has a counter; all others are as before."
        )
        self._table(before, after)
        expect(after.due == 0, f"{after.due} accounts are still due.")
        for kind in KINDS:
            old, new = before.kinds[kind], after.kinds[kind]
            if kind in DUE_KINDS:
                moved = new.in_month == new.counters == old.accounts
                expect(moved, f"Of {old.accounts} accounts '{kind}', {new.in_month} are in the month.")
            else:
                expect(new == old, f"Accounts '{kind}' were not due, and are not as before.")
        self._teller.right(f"{before.due:,} accounts moved, none is due any more")
        expect(before.checksums.paid == after.checksums.paid, "Paid accounts were changed.")
        self._teller.right(f"{after.paid:,} paid accounts byte for byte as before: md5 {after.checksums.paid[:12]}…")
        expect(before.checksums.used == after.checksums.used, "Counters with used pages were changed.")
        self._teller.right(f"Every counter with used pages as before: md5 {after.checksums.used[:12]}…")
        self._scene.console.print(
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
        again = self._stage.fire_again(self._slot)
        counts = {name: first.fields[name] for name in ("success", "run_id", *_JOB.counts)}
        expected("The second delivery", again, "replayed", counts)
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
            answer = self._stage.dry_run(request)
            wanted = {"success": True, "dry_run": True, "updated_count": would_move}
            expected("The dry run", answer, "completed", wanted)
        self._unchanged("the dry runs", after)
        self._teller.right("Not a byte has changed")

    def _observe(self) -> Observed:
        with self._scene.prepared.transaction() as connection:
            return observe(connection, self._per_kind, self._scene.now)

    def _unchanged(self, what: str, before: Observed) -> None:
        expect(self._observe() == before, f"The data was changed by {what}.")

    def _table(self, before: Observed, after: Observed) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("Kind", no_wrap=True)
        for title in ("Accounts", f"In {self._month}", "Due", "Counter"):
            table.add_column(title, justify="right", no_wrap=True)
        for kind, new in after.kinds.items():
            old = before.kinds[kind]
            cells = [(old.in_month, new.in_month), (old.due, new.due), (old.counters, new.counters)]
            shown = ["-"] * len(cells) if is_paid(kind) else [change(*cell) for cell in cells]
            table.add_row(kind, f"{new.accounts:,}", *shown)
        table.add_section()
        table.add_row(
            "all", "", "", change(before.due, after.due), change(before.counters, after.counters), style="bold"
        )
        self._scene.console.print(table)
