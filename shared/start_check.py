"""What is looked at before every start: is the schema ours and new enough, is it this environment's, is the job paused.

The identity row is what keeps a copy of production's database from being billed or cleaned by another environment.
"""

from dataclasses import dataclass
from datetime import datetime

from shared.errors import Misconfigured
from shared.postgres import Row, Transaction
from shared.settings import Settings
from shared.statements import STATEMENTS

# The newest migration in migrations/versions that this code relies on.
SCHEMA_VERSION = "0001"


@dataclass(frozen=True)
class Pause:
    """An operator's order not to run a job until a time."""

    until: datetime
    by: str
    why: str


@dataclass(frozen=True)
class StartState:
    """What a start found: the pause if there is one, and since when this database has belonged here."""

    pause: Pause | None
    bound_at: datetime


def check_start(transaction: Transaction, job: str, settings: Settings, now: datetime) -> StartState:
    """Look at everything that must be right before a run.

    Raises Misconfigured when the schema is missing or too old, or when the database belongs to another environment.
    """
    row = transaction.row(STATEMENTS["start_state"], job=job, now=now)
    if row is None or row["schema_version"] is None or row["schema_version"] < SCHEMA_VERSION:
        raise Misconfigured(
            "schema maintenance",
            f"The schema `maintenance` in {settings.database} is older than this code. Run `python -m ops migrate`.",
        )
    _check_identity(row, settings)
    pause = Pause(row["paused_until"], row["by"], row["why"]) if row["paused_until"] else None
    return StartState(pause, row["bound_at"])


def _check_identity(row: Row, settings: Settings) -> None:
    if row["instance"] is None:
        raise Misconfigured(
            "identity", f"The database {settings.database} is bound to no environment yet. Run `python -m ops migrate`."
        )
    bound = f"{row['instance']}/{row['database']}"
    if bound != str(settings.database):
        raise Misconfigured(
            "identity",
            f"This database belongs to another environment: it is bound to {bound}, and the settings name "
            f"{settings.database}. If it is a copy, nothing may run on it before it is bound anew; otherwise correct "
            "the settings.",
        )
