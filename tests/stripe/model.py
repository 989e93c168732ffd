"""What is to be billed, told independently of the job: by what users did, as it happened. Slow and obvious."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

# Where an event may stand at Stripe: its own minute, or the next, if the service sent it.
_SPAN = timedelta(minutes=2)


@dataclass
class Event:
    """One use of pages. `customer` is whom to bill for it, None where the user was not paying at that moment."""

    key: str
    user: str
    at: datetime
    pages: int
    customer: str | None
    service_identifier: str | None = None
    """Under which name the service itself has sent it, if it has."""
    is_lost: bool = False
    """The service's row is gone: the user was deleted, or an older database was restored."""

    @property
    def is_billable(self) -> bool:
        """Whether somebody must pay for it."""
        return self.customer is not None and self.pages > 0


@dataclass
class Counted:
    """One meter event that Stripe counts."""

    identifier: str
    customer: str
    pages: int
    at: datetime


@dataclass
class Verdict:
    """What was found: `wrong` must be empty; `shown` are billable events that are not counted, and why not."""

    wrong: list[str] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=dict)
    conceded: int = 0


class Ledger:
    """Every use of pages there ever was."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}

    def of(self, identifier: str) -> Event | None:
        """The event that a meter event stands for: by its id, with or without a number, or by the service's name."""
        known = self.events.get(identifier.split(":")[0])
        if known is not None:
            return known
        return next((event for event in self.events.values() if event.service_identifier == identifier), None)

    def never_too_much(self, counted: list[Counted]) -> list[str]:
        """What is counted and must not be: twice, for nobody, for too many pages, at another time."""
        wrong = []
        seen: set[str] = set()
        for each in counted:
            event = self.of(each.identifier)
            if event is None:
                wrong.append(f"{each} stands for no event")
                continue
            if event.key in seen:
                wrong.append(f"{event} is counted twice")
            seen.add(event.key)
            if not event.is_billable or each.customer != event.customer or each.pages != event.pages:
                wrong.append(f"{event} is counted as {each}")
            by_the_service = each.identifier == event.service_identifier
            late = each.at - event.at
            if not (timedelta(0) <= late < _SPAN if by_the_service else -timedelta(seconds=1) < late <= timedelta(0)):
                wrong.append(f"{event} is counted at another time: {each}")
        return wrong

    def in_the_end(
        self, counted: list[Counted], rows: dict[str, tuple[bool, str | None]], states: dict[str, str]
    ) -> Verdict:
        """Hold what Stripe counts, the service's rows (reported, record) and the job's states against what was used."""
        verdict = Verdict(self.never_too_much(counted))
        there = {event.key: each for each in counted if (event := self.of(each.identifier)) is not None}
        for event in self.events.values():
            state = states.get(event.key)
            if event.key in rows:
                self._held_against_its_row(verdict, event, there.get(event.key), rows[event.key], state)
            if event.is_billable and event.key not in there and not event.is_lost:
                self._missing(verdict, event, there, state)
            if event.key not in rows and not event.is_lost:
                verdict.wrong.append(f"{event} has lost its row")
        return verdict

    def _missing(self, verdict: Verdict, event: Event, there: dict[str, Counted], state: str | None) -> None:
        if state in ("in_doubt", "blocked", "rejected", "expired"):
            verdict.shown[event.key] = state
            if state == "in_doubt" and not self._neighbours(event):
                verdict.wrong.append(f"{event} stays in doubt, and nothing stands near it")
        elif self._hidden_by_a_lost_one(event, there):
            verdict.conceded += 1
        else:
            verdict.wrong.append(f"{event} is to be billed, is not counted, and is {state}")

    @staticmethod
    def _held_against_its_row(
        verdict: Verdict, event: Event, counted: Counted | None, row: tuple[bool, str | None], state: str | None
    ) -> None:
        reported, record = row
        if not reported and state not in ("in_doubt", "blocked", "rejected", "expired"):
            verdict.wrong.append(f"{event} is neither reported nor shown as anything: {state}")
        if reported and record is None and event.is_billable:
            verdict.wrong.append(f"{event} is marked as not to be billed")
        if reported and record is not None and not event.is_billable:
            verdict.wrong.append(f"{event} is marked as billed")
        if counted is not None and not reported and state not in ("in_doubt", "blocked"):
            verdict.wrong.append(f"{event} is counted and not marked: {state}")

    def _hidden_by_a_lost_one(self, event: Event, there: dict[str, Counted]) -> bool:
        """The one case in which sums deceive: the restore lost another event of the customer's in the same hour.

        Its pages stand at Stripe and nobody here knows of them, so they are taken for this one's.
        """
        return any(
            other.is_lost
            and other.key in there
            and other.customer == event.customer
            and abs(other.at - event.at) < timedelta(hours=1, minutes=2)
            for other in self.events.values()
        )

    def _neighbours(self, event: Event) -> bool:
        """Whether other pages of the customer stand in minutes that touch those of the event, and so on."""
        near = {event.key}
        grown = True
        while grown:
            grown = False
            for other in self.events.values():
                if (
                    other.key not in near
                    and other.customer == event.customer
                    and any(abs(other.at - self.events[key].at) < timedelta(minutes=3) for key in near)
                ):
                    near.add(other.key)
                    grown = True
        return len(near) > 1
