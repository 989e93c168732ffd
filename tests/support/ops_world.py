"""Every command of `python -m ops` with what it is called with, and environments to call it in.

`CASES` has at least one way to call each command; a command that is not there fails the tests that walk over them.
"""

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click

from devstack import demo_cleanups
from devstack.accounts import KINDS, add_accounts
from devstack.buckets import create_bucket, drop_bucket
from devstack.databases import create_database, drop_database
from devstack.gcs_front import GcsFront
from devstack.history import seed_month, seed_runs
from devstack.scheduler import Scheduler
from devstack.scheduler_api import SchedulerApi
from devstack.stack import Stack
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from devstack.usage import seed_usage, takeover_setting
from functions.cleanup.erasing import hash_of
from ops.migrate import bind_identity
from ops.shell import NO, WRONG
from shared.clock import SystemClock
from tests.support.clock import ManualClock
from tests.support.cloud_scheduler import PLACE, declared
from tests.support.database import TestDatabase
from tests.support.scheduler import Function

SOME_ID = "0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61"
LATER = "2099-01-01T00:00:00Z"
# Names as they may stand in the service's tables, and in the way of somebody who reads them on a terminal.
HOSTILE = "\x1b[31mred\x07 [bold]not[/bold] \u202eoff <script>"
LONG = "x" * 90

Codes = frozenset[int]
_FINE, _FINE_OR_NO, _WRONG = frozenset({0}), frozenset({0, NO}), frozenset({WRONG})

_HOSTILE_ROWS = """
INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, deadline_at, message)
VALUES ('stripe_reconcile', 'cli', 'failed', false, :now, :now, :text);
INSERT INTO maintenance.operator_actions (at, by, action, arguments, reason)
VALUES (:now, :text, :text, jsonb_build_object('what', CAST(:text AS text)), :text);
INSERT INTO maintenance.holds (scope, subject, reason, by, created_at)
VALUES ('user', :text, :text, :text, :now);
INSERT INTO maintenance.drift (stripe_customer_id, period_start, period_end, ours, theirs, reason, seen_at)
VALUES (:text, :now, :now, 1, 2, 'sums_differ', :now);
INSERT INTO maintenance.object_deletions
    (bucket, object_name, kind, run_id, state, next_attempt_at, requested_at, error)
VALUES (:text, :text, 'orphan', 1, 'failed', :now, :now, :text);
INSERT INTO maintenance.meter_sends
    (usage_event_id, user_id, identifier, occurred_at, value, state, error_code, error_message)
VALUES (CAST(:id AS uuid), :text, :id, :now, 1, 'rejected', :text, :text)
"""


@dataclass(frozen=True)
class World:
    """An environment: the settings of everything there is, the database, and what may be named on the command line."""

    environ: Mapping[str, str]
    database: TestDatabase
    known: Mapping[str, str]
    is_full: bool


@dataclass(frozen=True)
class Case:
    """One way to call a command. `empty` and `full` are the exit codes that it may have in such a database."""

    command: str
    arguments: Callable[[World], Sequence[str]] = lambda _: ()
    empty: Codes = _FINE
    full: Codes = _FINE
    # Whether it needs the database, may do without it, or tells what is wrong with it as its answer.
    database: str = "needs"
    # Whether it prints a table, of which no line may be longer than the terminal.
    is_table: bool = False

    def line(self, world: World) -> list[str]:
        """The command line."""
        return [*self.command.split(), *self.arguments(world)]

    def __str__(self) -> str:
        """The name of a test: the command and its options."""
        nowhere = World({}, None, _Names(), False)  # type: ignore[arg-type]
        return " ".join(self.line(nowhere))


class _Names(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key.upper()


def _with(*arguments: str) -> Callable[[World], Sequence[str]]:
    """Arguments, where `:name` stands for something that is known in the world."""
    return lambda world: [world.known[each[1:]] if each[:1] == ":" else each for each in arguments]


CASES = (
    Case("status", empty=_FINE, full=_FINE_OR_NO, is_table=True),
    Case("history", is_table=True),
    Case("history", _with("stripe", "--limit", "50"), is_table=True),
    Case("show", _with(":run"), empty=_WRONG),
    Case("actions", is_table=True),
    Case("run", _with("period")),
    Case("run", _with("all", "--dry-run"), full=_FINE_OR_NO, is_table=True),
    Case("upcoming", _with("--days", "30"), full=_FINE_OR_NO, is_table=True),
    Case("pause", _with("usage", "--until", LATER, "--reason", HOSTILE)),
    Case("resume", _with("optout"), empty=_WRONG),
    Case("stripe backlog", is_table=True),
    Case("stripe dead-letters", is_table=True),
    Case("stripe drift", is_table=True),
    Case("stripe drift", _with("--all"), is_table=True),
    Case("stripe retry", _with(":rejected", "--reason", HOSTILE), empty=_WRONG),
    Case("stripe waive", _with(":expired", "--reason", HOSTILE), empty=_WRONG),
    # Of what is equal it prints no row.
    Case("stripe audit", full=_FINE_OR_NO),
    Case("stripe audit", _with("--all"), full=_FINE_OR_NO, is_table=True),
    Case("outbox", is_table=True),
    Case("outbox", _with("--names"), is_table=True),
    Case("outbox", _with("--retry-failed")),
    Case("hold add", _with("user", ":user", "--reason", HOSTILE), empty=_WRONG),
    Case("hold add", _with("run", SOME_ID, "--reason", LONG, "--not-here", "--until", LATER)),
    Case("hold list", is_table=True),
    Case("hold list", _with("--all"), is_table=True),
    Case("hold end", _with(":hold", "--reason", HOSTILE), empty=_WRONG),
    Case("erasures", is_table=True),
    Case("erasures", _with("--user", ":erased"), is_table=True),
    Case("erase", _with("--user", ":user", "--reason", HOSTILE), empty=_WRONG),
    Case("schedules list", database="aside", is_table=True),
    Case("schedules check", empty=frozenset({NO}), full=frozenset({NO}), database="aside"),
    Case("schedules run", _with("artifact")),
    Case("schedules pause", _with("artifact")),
    Case("schedules resume", _with("optout")),
    # Not all schedules are as declared.
    Case("doctor", empty=frozenset({NO}), full=frozenset({NO}), database="told", is_table=True),
    Case("adopt", _with("--reason", HOSTILE, "--yes")),
    Case("migrate"),
    Case("migrate", _with("--plan")),
    Case("migrate", _with("--host-sql"), database="aside"),
)
# It serves until it is ended: tests/console starts it.
NOT_HERE = frozenset({"console"})


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of all commands, such as `stripe retry`."""
    if not isinstance(group, click.Group):
        yield " ".join(path)
        return
    for name, command in group.commands.items():
        yield from commands(command, (*path, name))


@contextmanager
def made_world(stack: Stack, template: str, *, full: bool, runs: int = 0) -> Iterator[World]:
    """An environment on real servers and stand-ins: empty, or lived in for a month, or for so many runs."""
    with ExitStack() as cleanup:
        name = f"maintenance_ops_{uuid.uuid4().hex[:12]}"
        database = TestDatabase(create_database(stack.database_url, name, template=template))
        cleanup.callback(drop_database, stack.database_url, name)
        cleanup.callback(database.engine.dispose)
        bucket = create_bucket(stack.gcs_url, name.replace("_", "-"))
        cleanup.callback(drop_bucket, stack.gcs_url, bucket)
        front = cleanup.enter_context(GcsFront(stack.gcs_url))
        account = Account(SystemClock())
        account.any_customer = True
        stripe = cleanup.enter_context(StripeServer(account))
        now = datetime.now(UTC)
        with database.engine.begin() as connection:
            bind_identity(connection, database.target, now, livemode=False, bucket=bucket)
        known = {
            "run": "4711",
            "rejected": SOME_ID,
            "expired": SOME_ID,
            "user": "nobody",
            "erased": "nobody",
            "hold": "4711",
        }
        if full:
            if runs:
                seed_runs(database.url, now - timedelta(days=31), runs)
            _fill(database, account, front, bucket, now)
            known = _known(database)
        environ = {
            "DATABASE_URL": database.url,
            "REDIS_URL": stack.redis_url,
            "GCS_BUCKET_NAME": bucket,
            "STORAGE_EMULATOR_HOST": front.url,
            "STRIPE_SECRET_KEY": account.secret_key,
            "STRIPE_METER_PAGES": account.meter.id,
            "STRIPE_API_BASE": stripe.url,
            "STRIPE_TAKEOVER_AT": takeover_setting(now),
            "STRIPE_RATE": "1000",
            "STRIPE_READ_RATE": "1000",
            **PLACE,
            "CLOUD_SCHEDULER_EMULATOR_HOST": _scheduler(cleanup).removeprefix("http://"),
        }
        yield World(environ, database, known, full)


def _scheduler(cleanup: ExitStack) -> str:
    """A stand-in with the schedules that Terraform makes, of which one is paused: they are not quite as declared."""
    jobs = [dataclasses.replace(job, paused=job.id == "opt-out-cleanup") for job in declared()]
    clock = ManualClock()
    function = cleanup.enter_context(Function(clock))
    scheduler = Scheduler(jobs, {job.function: function.url for job in jobs}, clock)
    return cleanup.enter_context(SchedulerApi(scheduler)).url


def _fill(database: TestDatabase, account: Account, front: GcsFront, bucket: str, now: datetime) -> None:
    with database.engine.begin() as connection:
        for kind in KINDS:
            add_accounts(connection, kind, 50, now)
        seed_usage(connection, account, 2, now)
        demo_cleanups.seed(connection, bucket, front, now)
    seed_month(database.url, now)
    # What was refused is there in the service's tables as well.
    database.execute(
        "INSERT INTO users (id, email) SELECT DISTINCT user_id, user_id || '@example.com' FROM maintenance.meter_sends "
        "ON CONFLICT DO NOTHING"
    )
    database.execute(
        "INSERT INTO usage_events (id, user_id, occurred_at, source, pages) "
        "SELECT usage_event_id, user_id, occurred_at, 'extraction', value FROM maintenance.meter_sends "
        "WHERE state = 'rejected'"
    )
    _add_hostile(database, now)


def _add_hostile(database: TestDatabase, now: datetime) -> None:
    """Texts that would do something to a terminal, or are as long as a text may be, wherever there can be one."""
    for text in (HOSTILE, LONG, f"{LONG} {HOSTILE}"):
        values = {"text": text, "now": now, "id": str(uuid.uuid4())}
        for sql in _HOSTILE_ROWS.split(";"):
            names = {name: value for name, value in values.items() if f":{name}" in sql}
            database.execute(sql, **names)


def _known(database: TestDatabase) -> dict[str, str]:
    def event(state: str) -> str:
        return str(
            database.value(
                "SELECT usage_event_id FROM maintenance.meter_sends WHERE state = :state AND length(user_id) = 28 "
                "ORDER BY usage_event_id LIMIT 1",
                state=state,
            )
        )

    return {
        "run": str(database.value("SELECT max(id) FROM maintenance.runs WHERE job = 'abandoned_cleanup'")),
        "rejected": event("rejected"),
        "expired": event("expired"),
        "user": str(database.value("SELECT user_id FROM extraction_jobs ORDER BY id LIMIT 1")),
        "erased": _erased(database),
        "hold": str(database.value("SELECT id FROM maintenance.holds WHERE until IS NULL ORDER BY id LIMIT 1")),
    }


def _erased(database: TestDatabase) -> str:
    """A user of whom something was erased."""
    key = bytes(database.value("SELECT erasure_key FROM maintenance.identity"))
    erased = {row["it"] for row in database.rows("SELECT encode(user_hash, 'hex') AS it FROM maintenance.erasures")}
    users = database.rows("SELECT DISTINCT user_id AS it FROM maintenance.meter_sends ORDER BY user_id")
    return next(str(user["it"]) for user in users if hash_of(key, user["it"]) in erased)
