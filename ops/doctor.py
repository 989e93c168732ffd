"""Every setting and dependency, looked at one by one: well, or what is wrong and what to do about it.

It changes nothing. One thing that is wrong hides no other: each is looked at, unless it stands on one that is wrong.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise, takewhile

from cronsim import CronSim, CronSimError

from functions.registry import JOBS
from functions.stripe_reconcile.preflight import target_of
from ops.cloud_scheduler import CloudScheduler, Schedule
from ops.declared_schedules import differences, slug
from ops.grants import HEALTH_JOB, missing_rights
from ops.host_indexes import missing_host_indexes
from shared.bucket_calls import Answer
from shared.errors import MaintenanceError, Misconfigured, Unavailable
from shared.services import Services
from shared.sql import Statement
from shared.start_check import StartState, check_start
from shared.stripe_calls import CallFailed

_WHO = Statement(
    "who",
    "Who is logged in where, and what the server's clock says.",
    "SELECT current_user AS login, current_database() AS database, current_setting('server_version') AS version, "
    "clock_timestamp() AS now",
)
# Slots and leases go by the clock of the machine; minutes of difference are what the guards allow for.
_LARGEST_SKEW = timedelta(seconds=60)
_MINUTE = timedelta(minutes=1)
_IDENTITY = "schema and identity"
_LOOKED_AHEAD = timedelta(days=32)


class Verdict(StrEnum):
    """What came of a look."""

    WELL = "well"
    WRONG = "wrong"
    # Nothing is out of order, and yet something can be lost as it is set up.
    RISK = "risk"
    NOT_USED = "not used"
    # It stands on something that is wrong.
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and a sentence about it."""

    what: str
    verdict: Verdict
    said: str


class _NotUsedError(Exception):
    """This installation, or this environment, does without."""


class _RiskError(Exception):
    """Something can be lost as it is set up."""


def examine(services: Services, connect: Callable[[], CloudScheduler] | None) -> Iterator[Finding]:
    """Look at everything, one after the other.

    `connect` gives Cloud Scheduler; it is None where nothing says which one is looked at.
    """
    settings = _look("settings", lambda: _settings(services))
    yield settings
    if settings.verdict is Verdict.WRONG:
        for what in ("database", *_ON_THE_DATABASE, *_BESIDE_IT, *_OF_THE_DATABASES, "schedules", "invoices"):
            yield Finding(what, Verdict.NOT_ASKED, "The settings come first.")
        return
    database = _look("database", lambda: _database(services))
    yield database
    is_ours = database.verdict is Verdict.WELL
    for what, look in _ON_THE_DATABASE.items():
        if database.verdict is not Verdict.WELL:
            yield Finding(what, Verdict.NOT_ASKED, "The database comes first.")
            continue
        found = _look(what, lambda look=look: look(services))  # type: ignore[misc]
        is_ours = is_ours and (what != _IDENTITY or found.verdict is Verdict.WELL)
        yield found
    for what, look in _BESIDE_IT.items():
        yield _look(what, lambda look=look: look(services))  # type: ignore[misc]
    for what, look_further in _OF_THE_DATABASES.items():
        yield _look(what, lambda look=look_further: look(services, is_ours))  # type: ignore[misc]
    deployed: dict[str, Schedule] = {}
    yield _look("schedules", lambda: _schedules(connect, deployed))
    yield _look("invoices", lambda: _invoices(services, deployed))


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, Verdict.WELL, look())
    except _NotUsedError as error:
        return Finding(what, Verdict.NOT_USED, str(error))
    except _RiskError as error:
        return Finding(what, Verdict.RISK, str(error))
    except MaintenanceError as error:
        return Finding(what, Verdict.WRONG, str(error))


def _settings(services: Services) -> str:
    settings = services.settings
    mode = "report: every run only counts" if settings.report_only else "enforce"
    return f"MAINTENANCE_MODE is {mode}; the database is {settings.database}."


def _database(services: Services) -> str:
    with services.database.transaction(read_only=True) as transaction:
        (row,) = transaction.rows(_WHO)
    return f"PostgreSQL {row['version']} answers; {row['login']} is logged in to {row['database']}."


def _clock(services: Services) -> str:
    with services.database.transaction(read_only=True) as transaction:
        (row,) = transaction.rows(_WHO)
    skew = abs(row["now"] - services.clock.now())
    if skew > _LARGEST_SKEW:
        raise Misconfigured(
            "clock",
            f"This machine's clock and the database's differ by {skew.total_seconds():.0f} s. Set this machine's clock "
            "right: firings and locks go by it.",
        )
    return f"This machine and the database differ by {skew.total_seconds():.1f} s."


def _state(services: Services) -> StartState:
    with services.database.transaction(read_only=True) as transaction:
        return check_start(transaction, JOBS[HEALTH_JOB], services.settings, services.clock.now())


def _schema(services: Services) -> str:
    state = _state(services)
    bucket = f"the bucket {state.bucket}" if state.bucket else "no bucket"
    return (
        f"The schema is of this version; the database has belonged here since {state.bound_at:%Y-%m-%d}, to {bucket}."
    )


def _indexes(services: Services) -> str:
    missing = missing_host_indexes(services.settings.database)
    if missing:
        raise Misconfigured(
            "indexes",
            f"Missing or not valid: {', '.join(missing)}. Run `python -m ops migrate`, or let the owner of the "
            "service's tables run what `python -m ops migrate --host-sql` prints.",
        )
    return "All indexes that the jobs need are there."


def _rights(services: Services) -> str:
    lacking = missing_rights(services.settings.database, JOBS)
    if lacking:
        raise Misconfigured(
            "database rights",
            f"This login lacks rights on {', '.join(lacking)} that some job needs. A function's login has those of its "
            "own job only (`python -m ops migrate --grants`); to run all jobs by hand, use the owner's.",
        )
    return "This login may do what all jobs need."


def _redis(services: Services) -> str:
    if services.redis is None:
        raise _NotUsedError("There is no REDIS_URL: PostgreSQL keeps the locks.")
    try:
        services.redis.ping()
    except Unavailable as error:
        raise _RiskError(
            f"{error} Jobs that cannot reach it go on under PostgreSQL's locks, and say so. From a machine outside of "
            "the installation's network this is as it must be; from a function it is not."
        ) from error
    return f"Redis at {services.settings.redis} answers."


def _stripe(services: Services, is_ours: bool) -> str:
    settings = services.settings.stripe
    if settings.secret_key is None:
        raise _NotUsedError("STRIPE_SECRET_KEY is not set here.")
    if is_ours:
        _check_job(services, "stripe_reconcile")
    try:
        target = target_of(services.stripe.meter(settings.meter_id or ""), settings)
    except CallFailed as error:
        raise Misconfigured(
            "STRIPE_METER_PAGES",
            f"Stripe does not give the meter {settings.meter_id}: {error.answer.message.rstrip('.')}. Check whether "
            "Stripe answers from here, the meter's id, and the rights of STRIPE_SECRET_KEY.",
        ) from error
    mode = "live" if settings.livemode else "test"
    return f"The meter {target.meter_id} is active in {mode} mode and counts {target.event_name}."


def _bucket(services: Services, is_ours: bool) -> str:
    if services.settings.cleanup.bucket is None:
        raise _NotUsedError("GCS_BUCKET_NAME is not set here.")
    if is_ours:
        _check_job(services, "artifact_cleanup")
    bucket = services.bucket
    state = bucket.state()
    next(bucket.pages(None), None)
    # Nobody has an object of this name: who may delete is told that it is absent, who may not is refused.
    answer = bucket.delete(f"maintenance-doctor/{uuid.uuid4()}", None)
    if answer.answer is not Answer.ABSENT:
        raise Misconfigured("GCS_BUCKET_NAME", f"The bucket {bucket.name} refuses deletions: {answer.reason}.")
    kept = f"{state.soft_delete.days} days" if state.soft_delete else "not"
    versions = ", and in versions for good" if state.versioned else ""
    return (
        f"The bucket {bucket.name} may be listed and deleted from; what goes is kept {kept} by soft delete{versions}."
    )


def _schedules(connect: Callable[[], CloudScheduler] | None, deployed: dict[str, Schedule]) -> str:
    """Hold what is deployed against what is declared; `deployed` is filled with it."""
    if connect is None:
        raise _NotUsedError("GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_REGION are not set here.")
    with closing(connect()) as scheduler:
        deployed.update({each.name: each for each in scheduler.schedules()})
    found = differences(deployed.values(), JOBS, ())
    if found:
        raise Misconfigured(
            "Cloud Scheduler",
            f"Not all is deployed as declared: {found[0].sentence} `python -m ops schedules check` lists all "
            f"differences ({len(found)}).",
        )
    return f"All {len(JOBS) + 1} schedules in {scheduler.location} are deployed as declared."


def _invoices(services: Services, deployed: Mapping[str, Schedule]) -> str:
    """Whether usage of a period's last minutes can be reported before Stripe finalizes the period's invoice."""
    settings = services.settings.stripe
    if settings.secret_key is None:
        raise _NotUsedError("STRIPE_SECRET_KEY is not set here.")
    job = JOBS["stripe_reconcile"]
    there = deployed.get(slug(job.name))
    now = services.clock.now()
    try:
        longest = _longest_gap(there.schedule if there else job.schedule, now)
    except CronSimError:
        # Cloud Scheduler takes other ways to write a schedule, too. That it is not as declared is said already.
        longest = _longest_gap(job.schedule, now)
    needed, grace = (longest + settings.min_age) // _MINUTE, settings.invoice_grace // _MINUTE
    if needed > grace:
        raise _RiskError(
            f"{job.name} reports usage up to {needed} minutes after it came up, and Stripe finalizes an invoice "
            f"{grace} minutes after its period's end: what the service fails to send shortly before can come too late, "
            "and is billed to nobody. Set a longer grace period in Stripe's Billing settings and the same in "
            "STRIPE_INVOICE_GRACE_MINUTES, or fire the job more often."
        )
    return (
        f"Usage is reported within {needed} minutes, and Stripe finalizes an invoice {grace} minutes after its period."
    )


def _longest_gap(cron: str, now: datetime) -> timedelta:
    """The longest time between two firings that follow each other, in the days that are looked at."""
    times = list(takewhile(lambda time: time < now + _LOOKED_AHEAD, CronSim(cron, now)))
    return max((later - time for time, later in pairwise(times)), default=_LOOKED_AHEAD)


def _check_job(services: Services, job: str) -> None:
    """Raise what `check_start` does where the database does not belong to the key or the bucket that is set."""
    with services.database.transaction(read_only=True) as transaction:
        check_start(transaction, JOBS[job], services.settings, services.clock.now())


_ON_THE_DATABASE: Mapping[str, Callable[[Services], str]] = {
    "clock": _clock,
    _IDENTITY: _schema,
    "indexes": _indexes,
    "rights": _rights,
}
_BESIDE_IT: Mapping[str, Callable[[Services], str]] = {"redis": _redis}
# What the database is bound to. They are told whether it is ours: where it is not, that is said once.
_OF_THE_DATABASES: Mapping[str, Callable[[Services, bool], str]] = {"stripe": _stripe, "bucket": _bucket}
