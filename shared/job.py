"""What a job is: its declaration (one entry of functions/jobs.json) and what its module gives back."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, cast, get_origin, get_type_hints

from cronsim import CronSim, CronSimError

from shared.shards import LARGEST_SHARDS

if TYPE_CHECKING:
    from shared.context import Context
    from shared.postgres import Transaction
    from shared.settings import Settings

# Every job has it beside its own figures: items that could not be done.
FAILED_COUNT = "failed_count"
NEEDS = frozenset({"postgres", "redis", "stripe", "gcs"})
# As PostgreSQL's GRANT writes them.
_TABLE = re.compile(r"(maintenance\.)?[a-z_]+")
_PRIVILEGE = re.compile(r"SELECT|INSERT|DELETE|UPDATE( \([a-z_]+(, [a-z_]+)*\))?")


@dataclass(frozen=True)
class JobResult:
    """What one run did.

    `complete` is false when time ran out, or rows stayed locked, with work left. `gauges` say what waits now; what was
    done is in the context's counts.
    """

    message: str
    complete: bool = True
    gauges: Mapping[str, int] = field(default_factory=dict)


class JobModule(Protocol):
    """What every job's module offers."""

    def run(self, ctx: "Context") -> JobResult:
        """Do the work, in small committed batches, for as long as `ctx.time_left()` says."""
        ...

    def waiting(self, transaction: "Transaction", now: datetime, settings: "Settings") -> Mapping[str, int]:
        """What waits for the job now, for the health check: read only."""
        ...


class ShardedJobModule(JobModule, Protocol):
    """What the module of a job offers besides, if it can be done in shards."""

    def open_slot(self, ctx: "Context") -> JobResult:
        """Do what is not cut up, before the shards begin. Where it is not complete, none begins."""
        ...

    def run_shard(self, ctx: "Context") -> JobResult:
        """Do what has its key in the range `ctx.share.keys`."""
        ...

    def close_slot(self, ctx: "Context") -> JobResult:
        """Do what is left when all shards have completed, and tell of all of it. Nothing else of the job runs then."""
        ...


@dataclass(frozen=True)
class Job:
    """A job as it is declared. Everything else about it is derived from this.

    `counts` are the figures that add up over a firing's attempts, the first of them the job's main one; `gauges` tell
    what waits at the end of a run. `rights` are what its login may do with which table, beside what every run needs;
    `waiting_reads` are those tables that its `waiting` reads, so that another job's health check must read them too.
    `shards` is how many parts a firing is cut into, 1 for none.
    """

    name: str
    cli: str
    module: str
    description: str
    schedule: str
    timeout_seconds: int
    retries: int
    memory_mib: int
    needs: tuple[str, ...]
    counts: tuple[str, ...]
    gauges: tuple[str, ...]
    rights: Mapping[str, tuple[str, ...]] = field(hash=False)
    waiting_reads: tuple[str, ...]
    shards: int = 1

    def load(self) -> JobModule:
        """Import the job's module. Done late, so that a function pays for its own job only."""
        return cast(JobModule, importlib.import_module(self.module))

    def load_sharded(self) -> ShardedJobModule:
        """The same, for a job that is declared with shards."""
        return cast(ShardedJobModule, importlib.import_module(self.module))

    def next_firing(self, after: datetime) -> datetime:
        """The first scheduled time after the given one (UTC)."""
        return next(CronSim(self.schedule, after))

    def last_firing(self, before: datetime) -> datetime:
        """The last scheduled time before the given one (UTC)."""
        return next(CronSim(self.schedule, before, reverse=True))


def parse_job(entry: Mapping[str, object]) -> Job:
    """Read one entry of jobs.json. Raises ValueError for an unknown or missing key or a value that cannot be."""
    hints = get_type_hints(Job)
    names = {item.name for item in fields(Job)}
    optional = {item.name for item in fields(Job) if item.default is not MISSING}
    wrong = names.symmetric_difference({*entry, *optional})
    if wrong:
        raise ValueError(f"job {entry.get('name')!r}: unknown or missing keys: {', '.join(sorted(wrong))}")
    values: dict[str, object] = {}
    for name in names.intersection(entry):
        value = entry[name]
        expected = get_origin(hints[name]) or hints[name]
        if expected is tuple:
            value = _as_texts(value)
        elif expected is Mapping and isinstance(value, dict):
            value = {key: _as_texts(item) for key, item in value.items()}
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ValueError(f"job {entry.get('name')!r}: {name} must be a {expected.__name__}")
        values[name] = value
    job = Job(**values)  # type: ignore[arg-type]  # each value was held against its annotation just above
    _check(job)
    return job


def _as_texts(value: object) -> object:
    """A list of texts as a tuple; anything else as it is."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return value


def _check(job: Job) -> None:
    def refuse(why: str) -> ValueError:
        return ValueError(f"job {job.name!r}: {why}")

    if not job.name.isidentifier() or not job.name.islower():
        raise refuse("name must be a lower-case Python identifier: it names an entry point")
    if not job.cli.isalpha() or not job.cli.islower():
        raise refuse("cli must be a short lower-case word")
    try:
        CronSim(job.schedule, datetime(2026, 1, 1))  # noqa: DTZ001  only the expression's syntax is looked at
    except CronSimError as error:
        raise refuse(f"schedule is no cron expression: {error}") from error
    if len(job.schedule.split()) != 5:
        raise refuse("schedule must have five fields")
    if not 120 <= job.timeout_seconds <= 1710:
        raise refuse("timeout_seconds must be from 120 to 1710 (Cloud Scheduler's 30 minutes less 90 s to answer)")
    if not 0 <= job.retries <= 5:
        raise refuse("retries must be from 0 to 5 (Cloud Scheduler's limit)")
    if not 128 <= job.memory_mib <= 32768:
        raise refuse("memory_mib must be from 128 to 32768")
    if not 1 <= job.shards <= LARGEST_SHARDS:
        raise refuse(f"shards must be from 1 to {LARGEST_SHARDS}")
    if not set(job.needs) <= NEEDS or "postgres" not in job.needs:
        raise refuse(f"needs must name postgres, and nothing outside {', '.join(sorted(NEEDS))}")
    if not job.counts or len({*job.counts, *job.gauges}) != len(job.counts) + len(job.gauges):
        raise refuse("counts must name at least one figure, and no figure may stand in both counts and gauges")
    for table, privileges in job.rights.items():
        if not _TABLE.fullmatch(table) or not isinstance(privileges, tuple) or not privileges:
            raise refuse(f"rights: {table} must be a table with a list of privileges")
        for privilege in privileges:
            if not _PRIVILEGE.fullmatch(privilege):
                raise refuse(
                    f"rights: {privilege!r} on {table} is not SELECT, INSERT, DELETE, UPDATE or UPDATE (columns)"
                )
    if any("SELECT" not in job.rights.get(table, ()) for table in job.waiting_reads):
        raise refuse("waiting_reads must name tables that rights let it SELECT")
