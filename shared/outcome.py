"""What came of an invocation, whichever way it was asked for. `shared.entry` gives it its HTTP form."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.clock import format_rfc3339


class Status(enum.StrEnum):
    """How an invocation ended."""

    COMPLETED = "completed"
    REPLAYED = "replayed"
    PAUSED = "paused"
    BUSY = "busy"
    INCOMPLETE = "incomplete"
    FENCED = "fenced"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """The answer to one invocation.

    `counts` are the job's own figures, `details` what else the status calls for (which service, until when …).
    """

    status: Status
    success: bool
    message: str
    job: str
    run_id: int | None = None
    slot: datetime | None = None
    dry_run: bool = False
    duration_ms: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The answer's fields, ready for JSON."""
        return {
            "success": self.success,
            "status": self.status.value,
            "message": self.message,
            "job": self.job,
            "run_id": self.run_id,
            "slot": format_rfc3339(self.slot) if self.slot else None,
            "dry_run": self.dry_run,
            "duration_ms": self.duration_ms,
            **self.counts,
            **self.details,
        }
