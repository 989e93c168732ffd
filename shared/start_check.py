"""What is looked at before every start: is the schema ours and new enough, is it this environment's, is the job paused.

The identity row is what keeps a copy of production's database from being billed or cleaned by another environment.
"""

from dataclasses import dataclass
from datetime import datetime

from shared.errors import Misconfigured
from shared.job import Job
from shared.postgres import Row, Transaction
from shared.settings import Settings
from shared.statements import STATEMENTS

# The newest migration in migrations/versions that this code relies on.
SCHEMA_VERSION = "0003"


@dataclass(frozen=True)
class Pause:
    """An operator's order not to run a job until a time."""

    until: datetime
    by: str
    why: str


@dataclass(frozen=True)
class StartState:
    """What a start found: the pause if there is one, and since when, and to which bucket, this database belongs."""

    pause: Pause | None
    bound_at: datetime
    bucket: str | None


def check_start(transaction: Transaction, job: Job, settings: Settings, now: datetime) -> StartState:
    """Look at everything that must be right before a run.

    Raises Misconfigured when the schema is missing or too old, when the database belongs to another environment, or
    when the job needs a setting that is missing.
    """
    row = transaction.row(STATEMENTS["start_state"], job=job.name, now=now)
    if row is None or row["schema_version"] is None or row["schema_version"] < SCHEMA_VERSION:
        raise Misconfigured(
            "schema maintenance",
            f"The schema `maintenance` in {settings.database} is older than this code. Run `python -m ops migrate`.",
        )
    _check_identity(row, settings)
    if "stripe" in job.needs:
        _check_stripe(row["livemode"], settings)
    if "gcs" in job.needs:
        _check_bucket(row["bucket"], settings)
    pause = Pause(row["paused_until"], row["by"], row["why"]) if row["paused_until"] else None
    return StartState(pause, row["bound_at"], row["bucket"])


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


def _check_bucket(bound: str | None, settings: Settings) -> None:
    name = settings.cleanup.bucket
    if name is None:
        raise Misconfigured("GCS_BUCKET_NAME", "GCS_BUCKET_NAME is not set. It is the name of the service's bucket.")
    if bound is None:
        raise Misconfigured(
            "identity",
            "The database is bound to no bucket yet. Run `python -m ops migrate` with GCS_BUCKET_NAME set.",
        )
    if bound != name:
        raise wrong_bucket(bound, name)


def wrong_bucket(bound: str, name: str) -> Misconfigured:
    """What to say where the settings name another bucket than the one that the database is bound to."""
    return Misconfigured(
        "identity",
        f"This database belongs to another environment: it is bound to the bucket {bound}, and GCS_BUCKET_NAME is "
        f"{name}. Correct the setting; a copy of a database must be bound anew before use.",
    )


def _check_stripe(bound: bool | None, settings: Settings) -> None:
    if settings.stripe.secret_key is None:
        raise Misconfigured("STRIPE_SECRET_KEY", "STRIPE_SECRET_KEY is not set. It is the account's secret key, sk_….")
    if settings.stripe.meter_id is None:
        raise Misconfigured(
            "STRIPE_METER_PAGES", "STRIPE_METER_PAGES is not set. It is the id of the meter for pages, mtr_…."
        )
    if bound is None:
        raise Misconfigured(
            "identity",
            "The database is bound to no mode of Stripe yet. Run `python -m ops migrate` with STRIPE_SECRET_KEY set.",
        )
    if bound != settings.stripe.livemode:
        raise wrong_mode(bound)


def wrong_mode(bound: bool) -> Misconfigured:
    """What to say where the key is for the other mode of Stripe than the one that the database is bound to."""
    here, other = ("live", "test") if bound else ("test", "live")
    return Misconfigured(
        "identity",
        f"This database belongs to another environment: it is bound to Stripe's {here} mode, and STRIPE_SECRET_KEY is "
        f"a {other} key. Correct the key; a copy of a database must be bound anew before use.",
    )
