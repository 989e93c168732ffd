"""The demo's chapters on stripe_reconcile: usage that was lost on its way reaches Stripe, once and in its own period.

Stripe is the stand-in, with troubles on command. It says what it has counted; that is held against what was to be
billed, customer by customer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich.markup import escape

from devstack.demo_scene import Scene, Stage, expect, expected
from devstack.demo_troubles import Arrivals, Troubles
from devstack.demo_usage_tables import (
    before_table,
    events_table,
    goals_table,
    pages_table,
    troubles_table,
)
from devstack.serving import Answer
from devstack.usage import KINDS, Standing, Used, period_start, seed_usage
from devstack.usage_observing import UsageSeen, blocked, counted_by_period, observe_usage
from functions.registry import JOBS

_JOB = JOBS["stripe_reconcile"]
_FIRINGS = 3
_LAST_PERIOD = "paid, end of last period"
_BLOCKED_BECAUSE = {"no_customer": "their paid accounts have no customer at Stripe"}


def show(scene: Scene, users: int) -> str:
    """Show and check everything about the job; give what came of it. There are so many users of each kind.

    Raises StepFailed at the first thing that is not as it should be.
    """
    scene.teller.chapter(
        "A morning of stripe_reconcile",
        "The service reports each use of pages to Stripe by itself. What is lost on the way is to be billed all the "
        "same: once, in the period in which it was used, and to nobody who was not paying then.",
    )
    events = users * sum(len(kind.used) for kind in KINDS.values())
    told = f"{events} usage events of {len(KINDS)} kinds, none of them marked as reported"
    with (
        scene.teller.step(f"Seeding {events} usage events", told),
        scene.prepared.transaction() as connection,
    ):
        used = seed_usage(connection, scene.prepared.stripe.account, users, scene.now)
    return _Chapters(scene, scene.serve(_JOB), used).run()


class _Chapters:
    """The chapters, in their order, each shown and then checked."""

    def __init__(self, scene: Scene, stage: Stage, used: Sequence[Used]) -> None:
        self._scene = scene
        self._teller = scene.teller
        self._console = scene.console
        self._stage = stage
        self._server = scene.prepared.stripe
        self._used = used
        self._slots = [_JOB.last_firing(scene.now)]
        while len(self._slots) < _FIRINGS:
            self._slots.insert(0, _JOB.last_firing(self._slots[0]))
        self._answers: list[Answer] = []
        self._chapters = 0

    def run(self) -> str:
        before = self._observe()
        self._show_before(before)
        self._show_dry_run(before)
        troubles = Troubles(self._server.account, self._used)
        arrivals = Arrivals(self._server)
        first = self._show_firing(troubles, arrivals)
        seen = self._show_after(before, troubles, arrivals)
        self._show_replay(first, seen)
        settled = self._show_settling(seen, troubles)
        self._show_equal(before, settled)
        self._show_left(settled)
        return (
            f"Of {len(self._used)} usage events that were not reported, {settled.events(None, Standing.BILLED)} with "
            f"{settled.counted():,} pages are at Stripe, each once; {settled.events(None, Standing.NOT_BILLED)} were "
            f"not to be billed, and {settled.events(None, Standing.BLOCKED)} wait for a person."
        )

    def _show_before(self, before: UsageSeen) -> None:
        self._chapter(
            "Before: what is not reported, and what Stripe has",
            "To be billed is what was used while its user was paying. Some of it is at Stripe already: the service has "
            "sent it, and then failed to mark it.",
        )
        self._console.print(before_table(before))
        self._console.print(goals_table())
        waiting = self._stage.show_health()
        wanted = {"waiting_count": len(self._used), "waiting_pages": before.pages(None), "blocked_count": 0}
        for name, value in wanted.items():
            expect(
                waiting[name] == value, f"The health check's {name} is {waiting[name]}, and the demo counts {value}."
            )

    def _show_dry_run(self, before: UsageSeen) -> None:
        self._chapter(
            "A dry run",
            "It decides what a run would, reads from Stripe what it needs for that, and sends and writes nothing.",
        )
        arrivals = Arrivals(self._server)
        answer = self._stage.dry_run({"dry_run": True})
        self._answers.append(answer)
        wanted = {
            "success": True,
            "dry_run": True,
            "retry_count": self._count_of(Standing.BILLED),
            "retry_pages": before.to_bill(),
            "not_billable_count": self._count_of(Standing.NOT_BILLED),
            "failed_count": 0,
        }
        expected("The dry run", answer, "completed", wanted)
        self._unchanged("the dry run", before)
        expect(not arrivals.posts(), f"The dry run sent {len(arrivals.posts())} requests that are no reads.")
        self._teller.right(f"{len(arrivals.all())} reads and no POST reached Stripe, and not a byte has changed")

    def _show_firing(self, troubles: Troubles, arrivals: Arrivals) -> Answer:
        self._chapter(
            f"The firing of {self._slots[0]:%Y-%m-%d %H:%M} UTC, with troubles on command",
            "Each trouble befalls the sends of some events. An attempt is on record before it is made, so that what an "
            "answer leaves open is never forgotten.",
        )
        self._console.print(troubles_table())
        troubles.begin()
        answer = self._fire(0)
        self._console.print_json(json.dumps({name: value for name, value in answer.fields.items() if value != 0}))
        self._console.print(f"At Stripe: {arrivals.told()}.")
        found = self._sent_before() - arrivals.identifiers()
        wanted = {
            "success": True,
            "success_count": self._count_of(Standing.BILLED) - len(troubles.in_doubt),
            "retry_count": self._count_of(Standing.BILLED) - len(found),
            "not_billable_count": self._count_of(Standing.NOT_BILLED),
            "in_doubt_count": len(troubles.in_doubt),
            "blocked_count": self._count_of(Standing.BLOCKED),
            "waiting_count": 0,
            "late_count": 0,
            "failed_count": 0,
        }
        expected("The firing", answer, "completed", wanted)
        expect(not troubles.left(), f"Some troubles did not come about: {troubles.left()}.")
        return answer

    def _show_after(self, before: UsageSeen, troubles: Troubles, arrivals: Arrivals) -> UsageSeen:
        seen = self._observe()
        self._chapter(
            "After",
            "Billed: marked with Stripe's record. Not billed: marked without one. In doubt: none of three attempts was "
            "answered, so nobody here knows whether Stripe has it. It stays unmarked, and is not given up.",
        )
        self._console.print(events_table(seen))
        self._console.print(pages_table(before, seen))
        self._stands(seen, troubles.in_doubt)
        self._teller.right(f"Each of {len(self._used)} events is where it should be")
        self._counts(seen, troubles.not_taken)
        self._teller.right(
            "Each customer's sum at Stripe is what was to be billed, less what is in doubt and not there"
        )
        exist = troubles.exist_already | (self._sent_before() & arrivals.identifiers())
        expect(arrivals.refused() == exist, f"{len(arrivals.refused())} events existed already, not {len(exist)}.")
        self._teller.right(f"{len(exist)} events that were sent again existed at Stripe already, and count once")
        return seen

    def _show_replay(self, first: Answer, seen: UsageSeen) -> None:
        self._chapter(
            "The same slot again", "A repeated delivery is answered from the stored result. Stripe is not spoken to."
        )
        arrivals = Arrivals(self._server)
        answer = self._stage.fire_again(self._slots[0])
        self._answers.append(answer)
        counts = {name: first.fields[name] for name in ("success", "run_id", *_JOB.counts)}
        expected("The second delivery", answer, "replayed", counts)
        self._unchanged("the second delivery", seen)
        expect(not arrivals.all(), "The second delivery spoke to Stripe.")
        self._teller.right(f"Still run {first.fields['run_id']}, no request to Stripe, and not a byte has changed")

    def _show_settling(self, seen: UsageSeen, troubles: Troubles) -> UsageSeen:
        """Fire the next slots until nothing is in doubt any more."""
        for number in range(1, len(self._slots)):
            doubtful = seen.events(None, Standing.IN_DOUBT)
            if not doubtful:
                break
            self._chapter(
                f"The next firing, {self._slots[number]:%Y-%m-%d %H:%M} UTC",
                "Stripe knows an identifier for a day. What is in doubt is sent again as it was, and where Stripe has "
                "it, Stripe says so. (After 20 hours, its sums would be asked first.)",
            )
            arrivals = Arrivals(self._server)
            answer = self._fire(number)
            self._console.print(f"  {escape(str(answer.fields.get('message')))}")
            self._console.print(f"At Stripe: {arrivals.told()}.")
            wanted = {"success": True, "failed_count": 0, "dead_letter_count": 0, "unresolved_drift_count": 0}
            expected("The firing", answer, "completed", wanted)
            again = arrivals.identifiers()
            expect(again <= troubles.in_doubt, f"{len(again - troubles.in_doubt)} events were sent that were settled.")
            seen = self._observe()
        doubtful = seen.events(None, Standing.IN_DOUBT)
        expect(doubtful == 0, f"After {len(self._slots)} firings {doubtful} events are still in doubt.")
        self._teller.right("Nothing is in doubt any more, and nothing that was settled was sent again")
        return seen

    def _show_equal(self, before: UsageSeen, settled: UsageSeen) -> None:
        self._chapter(
            "Ours and Stripe's", "Billed here, and counted there by Stripe itself: before the first firing, and now."
        )
        self._console.print(pages_table(before, settled))
        self._stands(settled, set())
        self._teller.right(f"Each of {len(self._used)} events is where it should be")
        self._counts(settled, set())
        marked = settled.by_customer(lambda each: settled.standings[each.id] is Standing.BILLED)
        for customer, pages in marked.items():
            there = settled.at_stripe[customer]
            expect(pages == there, f"{pages} pages of {customer} are marked as billed, and Stripe has {there}.")
        self._teller.right(f"Equal for each of {len(marked)} customers: to be billed, marked, and at Stripe")
        events = Counter(event.identifier for event in self._server.account.events)
        twice = [identifier for identifier, times in events.items() if times > 1]
        expect(not twice, f"Stripe counts {len(twice)} events twice.")
        self._teller.right(f"{len(events)} events at Stripe, none of them twice")
        boundary = period_start(_LAST_PERIOD, self._scene.now)
        of_last = [each for each in self._used if each.kind == _LAST_PERIOD]
        old, new = counted_by_period(self._server.account, of_last, boundary)
        expect((old, new) == (sum(each.pages for each in of_last), 0), f"{new} pages are in a period too late.")
        self._teller.right(f"{old} pages of '{_LAST_PERIOD}' are in the period up to {boundary:%H:%M}, none in the new")
        expect(settled.checksums[3:] == before.checksums[3:], "Accounts or counters were changed.")
        self._teller.right("Accounts and counters byte for byte as before")

    def _show_left(self, settled: UsageSeen) -> None:
        self._chapter(
            "What is left for a person", "What cannot be decided is kept, counted, and logged by each run as a warning."
        )
        with self._scene.prepared.transaction() as connection:
            kept = blocked(connection)
        expect(sum(each.events for each in kept) == settled.events(None, Standing.BLOCKED), "Other events are blocked.")
        for each in kept:
            why = _BLOCKED_BECAUSE.get(each.reason, "for a reason that the demo does not expect")
            self._console.print(f"  {each.events} events with {each.pages} pages ({each.reason}): {why}.")
            expect(each.reason in _BLOCKED_BECAUSE, f"{each.events} events are blocked: {each.reason}.")
        lines = self._stage.served.log_lines()
        warnings = [line for line in lines if line.get("event") == "attention" and line.get("kind") == "blocked"]
        expect(len(warnings) > 0, "No run has logged what is blocked.")
        self._console.print(f"  In the log: {warnings[-1]['severity']} {escape(str(warnings[-1]['message']))}")
        self._console.print("  Once such an account has a customer, the next run bills its usage by itself.")
        key = self._server.account.secret_key
        told = self._stage.served.log.read_text() + "".join(json.dumps(each.fields) for each in self._answers)
        expect(key not in told, "Stripe's secret key stands in the log or in an answer.")
        self._teller.right("Stripe's secret key stands in no line of the log and in no answer")

    def _chapter(self, title: str, why: str) -> None:
        self._chapters += 1
        self._teller.chapter(f"{self._chapters}. {title}", why)

    def _fire(self, number: int) -> Answer:
        answer = self._stage.fire(self._slots[number])
        self._answers.append(answer)
        return answer

    def _observe(self) -> UsageSeen:
        with self._scene.prepared.transaction() as connection:
            return observe_usage(connection, self._server.account, self._used)

    def _unchanged(self, what: str, before: UsageSeen) -> None:
        expect(self._observe() == before, f"The data was changed by {what}.")

    def _count_of(self, goal: Standing) -> int:
        return sum(1 for each in self._used if each.goal is goal)

    def _sent_before(self) -> set[str]:
        """The events that the service itself has sent, and could not mark."""
        return {each.id for each in self._used if KINDS[each.kind].is_at_stripe}

    def _stands(self, seen: UsageSeen, in_doubt: set[str]) -> None:
        """Every event stands where it must, those in doubt aside."""
        for each in self._used:
            wanted = Standing.IN_DOUBT if each.id in in_doubt else each.goal
            found = seen.standings[each.id]
            expect(found is wanted, f"An event of '{each.kind}' is {found.value}; expected was: {wanted.value}.")

    def _counts(self, seen: UsageSeen, missing: set[str]) -> None:
        """Stripe has counted, for each customer, what is to be billed, but for what is missing."""
        wanted = seen.by_customer(lambda each: each.goal is Standing.BILLED and each.id not in missing)
        for customer, pages in wanted.items():
            there = seen.at_stripe[customer]
            expect(pages == there, f"Stripe has {there} pages of {customer}; expected were {pages}.")
