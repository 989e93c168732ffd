"""What one run shares between its parts: its parameters, its reader, and how much it may still do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from functions.stripe_reconcile.preflight import Target
from functions.stripe_reconcile.reading import Reader
from shared.context import Context
from shared.sql import Statement, load_statements
from shared.stripe_settings import StripeSettings

# Stripe knows an identifier for at least 24 h ("Meter Event object", identifier). Four hours less: clocks differ, and
# an attempt that is on record may leave some time later.
_IDENTIFIER_KNOWN_FOR = timedelta(hours=20)
# Stripe takes events for 35 days; a day less, for the same reasons.
_TAKEN_FOR = timedelta(days=34)
# Sums are eventually complete; an event this old that is not in them was never sent.
SETTLED_AFTER = timedelta(hours=1)
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)


def statements(name: str) -> Mapping[str, Statement]:
    """The statements of one of this package's files, with what they have in common."""
    folder = Path(__file__).parent
    return load_statements(folder / "shards.sql", folder / name)


@dataclass
class RunState:
    """One run of the job.

    `target_read_at` is when the meter was last found to be right, on the timer, and `refusals_read_at` when reports of
    later refusals were last read. `treated` is how many events the run has decided on or sent, for the request's limit.
    """

    ctx: Context
    reader: Reader
    target: Target
    target_read_at: float
    treated: int = 0
    refusals_read_at: float | None = None
    to_ask: dict[str, Sequence[str]] = field(default_factory=dict)
    """Customers to ask about next, each with the users that have it."""
    asked_last: set[str] = field(default_factory=set)
    """Customers that were asked about since they were last looked for."""
    passed_by: set[str] = field(default_factory=set)
    """Customers that this run decides no more about: they cannot be read, or the service holds their events."""

    @property
    def settings(self) -> StripeSettings:
        """The settings about Stripe."""
        return self.ctx.settings.stripe

    @property
    def run_id(self) -> int:
        """The run's id; 0, which no run has, in a dry run."""
        return self.ctx.fence.run_id if self.ctx.fence else 0

    def may_go_on(self) -> bool:
        """Whether there is time, and the limit allows for more."""
        return self.ctx.time_left() > 0 and self.room(1) > 0

    def room(self, most: int) -> int:
        """How many more events may be treated, `most` at most."""
        return most if self.ctx.limit is None else max(0, min(most, self.ctx.limit - self.treated))

    def times(self) -> dict[str, object]:
        """The moments that conditions are held against (see the SQL), as of now."""
        now = self.ctx.now if self.ctx.dry_run else self.ctx.moment()
        known_after = now - _IDENTIFIER_KNOWN_FOR
        return {
            "now": now,
            "known_after": known_after,
            "blind_after": max(self.settings.takeover_at or _NEVER, known_after),
            "settled_before": now - SETTLED_AFTER,
            "oldest_sendable": now - _TAKEN_FOR,
            "run_id": self.run_id,
            "event_name": self.target.event_name,
        }


def some(parameters: Mapping[str, object], *names: str) -> dict[str, object]:
    """Of the parameters, those of the given names."""
    return {name: parameters[name] for name in names}
