"""What an operator sees and does of the objects that must leave the bucket."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result
from sqlalchemy import text

from devstack.gcs_front import GcsFront
from ops.shell import DOWN, USAGE, WRONG
from tests.conftest import MakeEnvironment
from tests.support.cleanup import CleanupWorld
from tests.support.clock import ManualClock
from tests.support.commands import run_command
from tests.support.database import TestDatabase

DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)
SECRET = "imports/ann/salaries \x1b[31m.pdf"
COMMANDS = (["outbox"], ["outbox", "--names"], ["outbox", "--retry-failed"])

Ops = Callable[..., Result]


@pytest.fixture
def ops(environ: dict[str, str]) -> Ops:
    """The command line, on the test's servers."""

    def run(*arguments: str, **changes: str) -> Result:
        return run_command(*arguments, environ={**environ, **changes})

    return run


def add(database: TestDatabase, state: str, *, after: timedelta = DAY, **columns: object) -> int:
    """An object in a state, to be tried again after so long; give its id."""
    values = {
        "bucket": "documents",
        "object_name": SECRET,
        "kind": "source",
        "run_id": 1,
        "state": state,
        "next_attempt_at": NOW + after,
        "requested_at": NOW - 3 * DAY,
        "bytes": 10,
        "done_at": NOW if state in ("deleted", "absent", "superseded") else None,
        **columns,
    }
    insert = (
        f"INSERT INTO maintenance.object_deletions ({', '.join(values)}) "
        f"VALUES ({', '.join(f':{name}' for name in values)}) RETURNING id"
    )
    with database.engine.begin() as connection:
        return int(connection.execute(text(insert), values).scalar_one())


def next_attempt(database: TestDatabase, key: int) -> datetime:
    at = database.value("SELECT next_attempt_at FROM maintenance.object_deletions WHERE id = :k", k=key)
    assert isinstance(at, datetime)
    return at


def recorded(database: TestDatabase) -> list[tuple[str, dict[str, int]]]:
    """What was recorded of operators: the action and its arguments."""
    rows = database.rows("SELECT action, arguments FROM maintenance.operator_actions ORDER BY id")
    return [(row["action"], row["arguments"]) for row in rows]


def test_where_nothing_is_open_that_is_said(database: TestDatabase, ops: Ops) -> None:
    for state in ("deleted", "absent", "superseded"):
        add(database, state)
    done = ops("outbox")
    assert (done.exit_code, done.stdout) == (0, "Nothing waits to leave the bucket.\n")
    assert json.loads(ops("outbox", "--names", "--json").stdout) == {"open": [], "errors": [], "names": []}
    nothing = ops("outbox", "--retry-failed")
    assert (nothing.exit_code, nothing.stdout) == (0, "Nothing that failed or is held waits for a later day.\n")
    assert recorded(database) == []


def test_what_is_open_is_told_by_state_and_kind_and_names_only_if_asked_for(database: TestDatabase, ops: Ops) -> None:
    oldest = NOW - 9 * DAY
    add(database, "pending", requested_at=oldest, kind="zip", object_name="temp_uploads/1")
    for _ in range(2):
        add(database, "failed", error="400 BadRequest", attempts=4)
    add(database, "held", error="held by an operator", attempts=1, bytes=None)
    add(database, "deleted", error="503 ServiceUnavailable")
    told = json.loads(ops("outbox", "--json").stdout)
    assert [(row["state"], row["kind"], row["objects"], row["bytes"]) for row in told["open"]] == [
        ("failed", "source", 2, 20),
        ("held", "source", 1, 0),
        ("pending", "zip", 1, 10),
    ]
    assert datetime.fromisoformat(told["open"][2]["oldest"]) == oldest
    assert [(row["error"], row["objects"], row["attempts"]) for row in told["errors"]] == [
        ("400 BadRequest", 2, 4),
        ("held by an operator", 1, 1),
    ]
    shown = ops("outbox").stdout
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert shown.splitlines()[1].split()[:4] == ["failed", "source", "2", "20"]
    assert "400 BadRequest" in shown
    assert "salaries" not in shown + ops("outbox", "--json").stdout
    named = ops("outbox", "--names").stdout
    assert ("salaries" in named, "\x1b" in named, r"\x1b[31m" in named) == (True, False, True)
    names = json.loads(ops("outbox", "--names", "--json", "--limit", "2").stdout)["names"]
    assert [row["name"] for row in names] == ["temp_uploads/1", SECRET]


def test_a_bucket_is_named_where_there_are_several(database: TestDatabase, ops: Ops) -> None:
    database.execute("UPDATE maintenance.identity SET bucket = 'documents'")
    add(database, "pending")
    assert "documents" not in ops("outbox").stdout
    add(database, "pending", bucket="the-one-before")
    shown = ops("outbox").stdout
    assert ("documents" in shown, "the-one-" in shown) == (True, True)


def test_what_is_in_another_bucket_is_never_tried_and_that_is_said(database: TestDatabase, ops: Ops) -> None:
    """Though it is the only bucket that there is anything in."""
    database.execute("UPDATE maintenance.identity SET bucket = 'documents'")
    elsewhere = add(database, "failed", bucket="the-one-before")
    shown = ops("outbox", COLUMNS="200").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["BUCKET", "the-one-before"]
    assert shown[1].endswith("never tried: another bucket")
    nothing = ops("outbox", "--retry-failed").stdout
    assert "In another bucket, and so never tried: 1. `python -m ops outbox` names it.\n" in nothing
    assert next_attempt(database, elsewhere) == NOW + DAY
    assert recorded(database) == []
    here = add(database, "failed")
    told = json.loads(ops("outbox", "--json").stdout)["open"]
    assert [(row["bucket"], row["other_bucket"]) for row in told] == [("documents", False), ("the-one-before", True)]
    assert json.loads(ops("outbox", "--retry-failed", "--json").stdout) == {"failed_count": 1, "held_count": 0}
    assert next_attempt(database, here) <= datetime.now(UTC)
    assert next_attempt(database, elsewhere) == NOW + DAY
    database.execute("UPDATE maintenance.identity SET bucket = NULL")
    assert "never tried" not in ops("outbox", COLUMNS="200").stdout


def test_what_failed_or_was_held_is_due_at_once_and_that_is_recorded_once(database: TestDatabase, ops: Ops) -> None:
    failed, held = add(database, "failed"), add(database, "held")
    others = [
        add(database, "pending"),
        add(database, "failed", claimed_until=NOW + DAY),
        add(database, "failed", after=-DAY),
        add(database, "deleted"),
    ]
    before = [next_attempt(database, key) for key in others]
    done = ops("outbox", "--retry-failed")
    assert (done.exit_code, done.stdout) == (0, "The next run tries 1 that failed and 1 that were held.\n")
    assert max(next_attempt(database, key) for key in (failed, held)) <= datetime.now(UTC)
    assert [next_attempt(database, key) for key in others] == before
    assert recorded(database) == [("outbox retry-failed", {"failed_count": 1, "held_count": 1})]
    again = json.loads(ops("outbox", "--retry-failed", "--json").stdout)
    assert again == {"failed_count": 0, "held_count": 0}
    assert len(recorded(database)) == 1


def test_the_next_run_tries_what_was_made_due(
    database: TestDatabase,
    gcs_front: GcsFront,
    bucket: str,
    make_environment: MakeEnvironment,
    clock: ManualClock,
    ops: Ops,
) -> None:
    clock.set(datetime.now(UTC))
    world = CleanupWorld(database, gcs_front, bucket, make_environment, clock)
    name = world.object_of(world.file(world.draft(world.job())))
    world.front.fail(400, name=name, times=1)
    world.run("abandoned_cleanup")
    states = [row["state"] for row in world.outbox()]
    assert states == ["failed"]
    clock.set(datetime.now(UTC))
    world.run("abandoned_cleanup")
    assert name in world.objects()
    assert ops("outbox", "--retry-failed").exit_code == 0
    clock.set(datetime.now(UTC))
    world.run("abandoned_cleanup")
    assert name not in world.objects()
    assert [row["state"] for row in world.outbox()] == ["deleted"]


def test_what_a_run_settles_at_this_moment_is_left_to_it(database: TestDatabase, ops: Ops) -> None:
    under_way, other = add(database, "failed"), add(database, "failed")
    with database.engine.begin() as run:
        run.execute(text("SELECT 1 FROM maintenance.object_deletions WHERE id = :k FOR UPDATE"), {"k": under_way})
        assert ops("outbox", "--retry-failed").exit_code == 0
    assert next_attempt(database, other) <= datetime.now(UTC) < next_attempt(database, under_way)


def test_what_goes_wrong_is_said_in_a_sentence(database: TestDatabase, ops: Ops) -> None:
    both = ops("outbox", "--names", "--retry-failed")
    assert (both.exit_code, "do not go together" in both.stderr) == (USAGE, True)
    key = add(database, "failed")
    database.execute("UPDATE maintenance.identity SET instance = 'production'")
    copy = ops("outbox", "--retry-failed")
    assert (copy.exit_code, "belongs to another environment" in copy.stderr) == (WRONG, True)
    assert (next_attempt(database, key), recorded(database)) == (NOW + DAY, [])
    for command in COMMANDS:
        down = ops(*command, DATABASE_URL="postgresql://ann:s3cret@127.0.0.1:1/byte")
        assert (down.exit_code, down.stdout, "s3cret" in down.stderr) == (DOWN, "", False)
        assert "accepts no connection" in down.stderr
    database.script("DROP SCHEMA maintenance CASCADE")
    for command in COMMANDS:
        done = ops(*command)
        assert (done.exit_code, "python -m ops migrate" in done.stderr) == (WRONG, True)
