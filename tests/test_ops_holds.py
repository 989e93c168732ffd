"""Holds from the command line: they keep what they name, once they are told of, and are on record."""

import json
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from devstack.gcs_front import GcsFront
from ops.commands import holds
from ops.shell import DOWN, USAGE, WRONG
from tests.conftest import MakeEnvironment
from tests.support.cleanup import CleanupWorld
from tests.support.clock import ManualClock
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.wait import until

HOSTILE = "\x1b[31mred\x07 [bold]not[/bold] \u202eoff"
NOBODY = str(uuid.uuid4())
LONG = (datetime.now(UTC) + timedelta(days=400)).replace(microsecond=0)
BATCH = text("SELECT pg_advisory_xact_lock_shared(hashtext('maintenance.holds'), 0)")


@pytest.fixture
def world(
    database: TestDatabase, gcs_front: GcsFront, bucket: str, make_environment: MakeEnvironment, clock: ManualClock
) -> CleanupWorld:
    """An empty database and bucket."""
    return CleanupWorld(database, gcs_front, bucket, make_environment, clock)


def add(environ: dict[str, str], scope: str, subject: str, *options: str, reason: str = "case 1") -> dict[str, object]:
    done = run_command("hold", "add", scope, subject, "--reason", reason, *options, "--json", environ=environ)
    assert (done.exit_code, done.stderr) == (0, "")
    told: dict[str, object] = json.loads(done.stdout)
    return told


def listed(environ: dict[str, str], *options: str) -> list[dict[str, object]]:
    done = run_command("hold", "list", *options, "--json", environ=environ)
    assert done.exit_code == 0
    told: list[dict[str, object]] = json.loads(done.stdout)
    return told


def actions(database: TestDatabase) -> list[tuple[object, ...]]:
    rows = database.rows("SELECT action, arguments, reason, by FROM maintenance.operator_actions ORDER BY id")
    return [(row["action"], row["arguments"], row["reason"], bool(row["by"])) for row in rows]


@pytest.mark.parametrize("scope", ["user", "job", "run"])
def test_a_hold_keeps_what_it_names_until_it_is_ended(
    world: CleanupWorld,
    environ: dict[str, str],
    scope: str,
) -> None:
    job = world.job("ann")
    held, other = world.draft(job), world.draft(world.job("bob"))
    subject = {"user": "ann", "job": job.upper(), "run": f"{{{held}}}"}[scope]
    told = add(environ, scope, subject)
    assert (told["subject"], told["until"], told["new"]) == (
        {"user": "ann", "job": job, "run": held}[scope],
        None,
        True,
    )
    assert world.run("abandoned_cleanup").counts["held"] == 1
    assert (world.has("job_runs", held), world.has("job_runs", other)) == (True, False)
    # The cleanups' clock stands still; the hold ends by the true one, which is later.
    ended = run_command("hold", "end", str(told["hold"]), "--reason", "closed", environ=environ)
    assert (ended.exit_code, ended.stdout) == (
        0,
        f"Hold {told['hold']} has ended: it keeps the {scope} {told['subject']} no longer.\n",
    )
    world.clock.set(datetime.now(UTC) + timedelta(seconds=1))
    assert world.run("abandoned_cleanup").counts["held"] == 0
    assert not world.has("job_runs", held)


def test_holds_are_listed_and_their_rows_stay(database: TestDatabase, environ: dict[str, str]) -> None:
    assert run_command("hold", "list", environ=environ).stdout == "Nothing is held.\n"
    assert run_command("hold", "list", "--all", environ=environ).stdout == "Nothing was ever held.\n"
    database.account("ann")
    first = add(environ, "user", "ann", "--until", LONG.isoformat())
    second = add(environ, "user", HOSTILE, "--not-here", reason=HOSTILE)
    (newest, oldest) = listed(environ)
    assert [newest["id"], oldest["id"]] == [second["hold"], first["hold"]]
    assert (newest["subject"], newest["reason"], newest["until"], newest["in_force"]) == (HOSTILE, HOSTILE, None, True)
    assert datetime.fromisoformat(str(oldest["until"])) == LONG
    shown = run_command("hold", "list", environ={**environ, "COLUMNS": "200"}).stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count(" [bold]not[/bold] ") == 2

    before = datetime.now(UTC)
    assert run_command("hold", "end", str(first["hold"]), "--reason", "closed", environ=environ).exit_code == 0
    assert [each["id"] for each in listed(environ)] == [second["hold"]]
    (_, over) = listed(environ, "--all")
    assert (over["id"], over["in_force"], over["reason"]) == (first["hold"], False, "case 1")
    assert before <= datetime.fromisoformat(str(over["until"])) <= datetime.now(UTC)
    assert actions(database) == [
        (
            "hold add",
            {"hold": first["hold"], "scope": "user", "subject": "ann", "until": first["until"], "not_here": False},
            "case 1",
            True,
        ),
        (
            "hold add",
            {"hold": second["hold"], "scope": "user", "subject": HOSTILE, "until": None, "not_here": True},
            HOSTILE,
            True,
        ),
        (
            "hold end",
            {"hold": first["hold"], "scope": "user", "subject": "ann", "was_until": first["until"]},
            "closed",
            True,
        ),
    ]


def test_the_same_hold_once_more_changes_nothing_and_another_reason_is_another_hold(
    database: TestDatabase, environ: dict[str, str]
) -> None:
    database.account("ann")
    first = add(environ, "user", "ann")
    again = add(environ, "user", "ann")
    assert (again["hold"], again["new"]) == (first["hold"], False)
    assert len(actions(database)) == 1
    said = run_command("hold", "add", "user", "ann", "--reason", "case 1", environ=environ)
    assert said.stdout.startswith(f"Hold {first['hold']}: the user ann is held until somebody ends it, since 20")
    others = [
        add(environ, "user", "ann", "--until", LONG.isoformat()),
        add(environ, "user", "ann", reason="case 2"),
    ]
    assert all(other["new"] for other in others)
    end = ("hold", "end", str(first["hold"]), "--reason", "closed")
    assert run_command(*end, environ=environ).exit_code == 0
    twice = run_command(*end, environ=environ)
    assert (twice.exit_code, twice.stdout) == (WRONG, "")
    assert twice.stderr.startswith(f"Hold {first['hold']} is over since 20")
    assert "`python -m ops hold list`" in twice.stderr
    assert [each["id"] for each in listed(environ)] == [others[1]["hold"], others[0]["hold"]]
    assert add(environ, "user", "ann")["new"] is True
    assert len(actions(database)) == 5


@pytest.mark.parametrize("scope", ["user", "job", "run"])
def test_what_is_not_there_is_only_held_if_that_is_meant(
    database: TestDatabase, environ: dict[str, str], scope: str
) -> None:
    refused = run_command("hold", "add", scope, NOBODY, "--reason", "x", environ=environ)
    assert (refused.exit_code, refused.stdout) == (WRONG, "")
    assert f"There is no {'extraction ' if scope == 'job' else ''}{scope} {NOBODY}, so nothing was" in refused.stderr
    assert "--not-here" in refused.stderr
    assert (listed(environ), actions(database)) == ([], [])
    assert add(environ, scope, NOBODY, "--not-here")["new"] is True


def test_a_hold_waits_for_the_batch_at_work_and_looks_for_its_subject_only_then(
    world: CleanupWorld,
    environ: dict[str, str],
) -> None:
    """Far longer than a batch would wait for the hold; and what the batch deleted meanwhile is not told to be held."""
    run = world.draft(world.job())
    told: list[object] = []
    with world.database.engine.connect() as batch:
        batch.execute(BATCH)
        adding = threading.Thread(
            target=lambda: told.append(run_command("hold", "add", "run", run, "--reason", "x", environ=environ))
        )
        adding.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        waiting_long = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
            "AND waitstart < clock_timestamp() - interval '1 second'"
        )
        until(lambda: world.database.value(waiting) == 1, "the hold waits")
        until(lambda: world.database.value(waiting_long) == 1, "it waits for longer than batches wait")
        assert told == []
        batch.execute(text("DELETE FROM job_runs WHERE id = :run"), {"run": run})
        batch.commit()
    adding.join(timeout=30)
    (done,) = told
    assert (done.exit_code, f"There is no run {run}" in done.stderr) == (WRONG, True)  # type: ignore[attr-defined]
    assert listed(environ) == []


def test_a_batch_that_does_not_end_is_told(
    database: TestDatabase, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database.account("ann")
    number = add(environ, "user", "ann")["hold"]
    monkeypatch.setattr(holds, "_PATIENCE_MS", 100)
    with database.engine.connect() as batch:
        batch.execute(BATCH)
        for command in (["add", "user", "ann"], ["end", str(number)]):
            done = run_command("hold", *command, "--reason", "x", environ=environ)
            assert (done.exit_code, done.stdout) == (DOWN, "")
            assert "A batch of a cleanup is at work" in done.stderr
            assert "Try again." in done.stderr
    assert [each["id"] for each in listed(environ)] == [number]
    assert len(actions(database)) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["add", "user", "ann", "--until", "2020-01-01T00:00:00Z", "--reason", "x"], WRONG, "is over. Name a time"),
        (["add", "user", "ann", "--until", "tomorrow", "--reason", "x"], USAGE, "'tomorrow' is no time such as"),
        (["add", "user", "ann"], USAGE, "--reason"),
        (["add", "user", "ann", "--reason", " "], USAGE, "must not be empty"),
        (["add", "user", "", "--reason", "x"], USAGE, "must not be empty"),
        (["add", "user", "\udcff", "--reason", "x"], USAGE, "must be UTF-8"),
        (["add", "run", "12", "--reason", "x"], USAGE, "'12' is no uuid such as"),
        (["add", "file", "12", "--reason", "x"], USAGE, "'file' is not one of 'user', 'job', 'run'"),
        (["end", "12", "--reason", "x"], WRONG, "There is no hold 12."),
        (["end", "12"], USAGE, "--reason"),
        (["end", "0", "--reason", "x"], USAGE, "0 is not in the range"),
        (["end", str(2**63), "--reason", "x"], USAGE, "is not in the range"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: list[str], code: int, sentence: str, environ: dict[str, str], database: TestDatabase
) -> None:
    done = run_command("hold", *arguments, environ=environ)
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert actions(database) == []


CHANGING = (["add", "user", "ann", "--reason", "x"], ["end", "1", "--reason", "x"])


@pytest.mark.parametrize("arguments", [*CHANGING, ["list"]])
def test_a_database_that_is_down_or_without_our_schema_is_told(
    arguments: list[str], database: TestDatabase, environ: dict[str, str]
) -> None:
    down = run_command("hold", *arguments, environ={"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"})
    assert (down.exit_code, down.stdout) == (DOWN, "")
    assert "accepts no connection" in down.stderr
    assert "s3cret" not in down.stderr
    assert "DATABASE_URL is not set" in run_command("hold", *arguments, environ={}).stderr
    database.script("DROP SCHEMA maintenance CASCADE")
    gone = run_command("hold", *arguments, environ=environ)
    assert (gone.exit_code, "python -m ops migrate" in gone.stderr) == (WRONG, True)


@pytest.mark.parametrize("arguments", CHANGING)
def test_nothing_is_changed_in_a_copy_of_another_environments_database(
    arguments: list[str], database: TestDatabase, environ: dict[str, str]
) -> None:
    database.account("ann")
    database.execute("UPDATE maintenance.identity SET instance = 'production:5432'")
    done = run_command("hold", *arguments, environ=environ)
    assert (done.exit_code, "belongs to another environment" in done.stderr) == (WRONG, True)
    assert database.value("SELECT count(*) FROM maintenance.holds") == 0


@pytest.mark.parametrize("arguments", [["add"], ["list"], ["end"]])
def test_help_ends_with_an_example(arguments: list[str]) -> None:
    done = run_command("hold", *arguments, "--help", environ={})
    assert done.exit_code == 0
    assert f"Example: python -m ops hold {arguments[0]}" in " ".join(done.stdout.split())
