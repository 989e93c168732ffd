"""The commands that look, and the operator's pauses."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from devstack.serving import REPOSITORY
from functions.registry import JOBS
from ops.progress import Progress
from ops.shell import BUG, DOWN, NO, USAGE, WRONG, printable
from tests.conftest import Environment
from tests.support.clock import ManualClock
from tests.support.commands import ops, run_command
from tests.support.database import TestDatabase

HOSTILE = "\x1b[31mred\x07 [bold]not[/bold] \u202eoff"


def run_all(environ: dict[str, str]) -> None:
    assert ops("run", "period", environ=environ).returncode == 0


def test_status_tells_of_each_job_and_fails_when_one_is_late(database: TestDatabase, environ: dict[str, str]) -> None:
    database.account("ann", "free")
    done = ops("status", "--json", environ=environ)
    told = {row["job"]: row for row in json.loads(done.stdout)}
    assert (done.returncode, set(told)) == (NO, set(JOBS))
    assert (told["period_reset"]["overdue"], told["period_reset"]["last_run"]) == (True, None)
    assert told["period_reset"]["waiting"]["due_count"] == 1
    run_all(environ)
    after = {row["job"]: row for row in json.loads(ops("status", "--json", environ=environ).stdout)}
    assert (after["period_reset"]["overdue"], after["period_reset"]["last_run"]["status"]) == (False, "completed")
    database.execute("UPDATE maintenance.identity SET bound_at = :now", now=datetime.now(UTC))
    assert ops("status", environ=environ).returncode == 0


def test_status_tells_what_runs_now(database: TestDatabase, environ: dict[str, str]) -> None:
    since = datetime.now(UTC) - timedelta(minutes=3)
    database.execute(
        "INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, deadline_at) "
        "VALUES ('period_reset', 'schedule', 'running', false, :since, :since)",
        since=since,
    )
    (row, *_) = json.loads(ops("status", "--json", environ=environ).stdout)
    assert row["running_run"] == database.value("SELECT id FROM maintenance.runs")
    assert datetime.fromisoformat(row["running_since"]) == since
    assert "running since" in ops("status", environ=environ).stdout


def test_a_shard_says_nothing_about_its_job_but_that_it_is_at_work(
    database: TestDatabase, environment: Environment, environ: dict[str, str]
) -> None:
    """A bar is a run's by hand, which is no shard."""
    since = datetime.now(UTC) - timedelta(minutes=3)
    runs = [(0, "incomplete", 2), (2, "failed", 90)]
    for shard, status, counted in runs:
        database.execute(
            "INSERT INTO maintenance.runs (job, shard, trigger, status, dry_run, started_at, deadline_at, counts) "
            "VALUES ('stripe_reconcile', :shard, 'task', :status, false, :at, :at, CAST(:counts AS jsonb))",
            shard=shard, status=status, at=since + timedelta(seconds=shard),
            counts=json.dumps({"success_count": counted}),
        )  # fmt: skip

    def told() -> dict[str, Any]:
        rows = json.loads(run_command("status", "--json", environ=environ).stdout)
        return next(row for row in rows if row["job"] == "stripe_reconcile")

    assert (told()["last_run"]["status"], told()["running_run"]) == ("incomplete", None)
    assert told()["state"].endswith("last incomplete")
    shown = run_command("history", "stripe", environ={**environ, "COLUMNS": "160"}).stdout.splitlines()
    assert [line.split()[1:4] for line in shown[1:]] == [["stripe,", "shard", "2"], ["stripe", *shown[2].split()[2:4]]]
    rows = json.loads(run_command("history", "stripe", "--json", environ=environ).stdout)
    assert [(row["shard"], row["short"]) for row in rows] == [(2, "stripe"), (0, "stripe")]
    database.execute("UPDATE maintenance.runs SET status = 'running'")
    assert told()["running_run"] == database.value("SELECT id FROM maintenance.runs WHERE shard = 2")
    assert Progress(environment.services, JOBS["stripe_reconcile"], shown=False)._counted() == 2


def test_status_tells_of_a_pause_and_of_the_first_firing_after_it(
    database: TestDatabase, environment: Environment, clock: ManualClock, environ: dict[str, str]
) -> None:
    """Whatever came of the firings that it held: how the job is was said by the last run that was let run."""

    def state() -> dict[str, Any]:
        done = run_command("status", "--json", environ=environ)
        return next(row for row in json.loads(done.stdout) if row["job"] == "period_reset")

    assert (state()["state"], state()["paused_until"]) == ("OVERDUE, never ran", None)
    pause = ("pause", "period", "--reason", HOSTILE, "--until")
    assert run_command(*pause, "2099-01-31T00:30:00Z", environ=environ).exit_code == 0
    told = state()
    assert (told["state"], told["overdue"]) == ("OVERDUE, paused until 2099-01-31 00:30Z", True)
    assert (told["paused_until"], told["paused_why"]) == ("2099-01-31T00:30:00Z", HOSTILE)
    # It fires at half past twelve, and a pause no longer holds at its end.
    assert told["next_firing"] == "2099-01-31T00:30:00Z"
    assert run_command(*pause, "2099-01-31T00:30:01Z", environ=environ).exit_code == 0
    assert state()["next_firing"] == "2099-02-01T00:30:00Z"
    assert environment.run().status == "paused"
    assert run_command("resume", "period", environ=environ).exit_code == 0
    assert (state()["state"], state()["last_run"]["status"]) == ("OVERDUE, never ran", "paused")
    database.execute("UPDATE maintenance.identity SET bound_at = :now", now=datetime.now(UTC))
    assert state()["state"] == "resumed, never ran"
    run_all(environ)
    assert run_command(*pause, "9999-12-31T23:59:59Z", environ=environ).exit_code == 0
    told = state()
    assert (told["state"], told["next_firing"]) == ("paused until 9999-12-31 23:59Z", None)
    clock.set(datetime.now(UTC))
    assert environment.run().status == "paused"
    shown = run_command("status", environ={**environ, "COLUMNS": "80"}).stdout
    assert f"period is paused by {told['paused_by']}: {printable(HOSTILE)}" in " ".join(shown.split())
    assert "`python -m ops resume period` ends it." in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert run_command("resume", "period", environ=environ).exit_code == 0
    assert state()["state"] == "resumed, last completed"
    assert "is paused by" not in run_command("status", environ=environ).stdout


def test_status_says_what_waits_in_words_and_units(database: TestDatabase, environ: dict[str, str]) -> None:
    database.account("ann", "pro", stripe_customer_id="cus_ann")
    day = timedelta(days=1)
    for pages, days in ((1200, 6), (35, 2)):
        database.execute(
            "INSERT INTO usage_events (user_id, source, pages, occurred_at) VALUES ('ann', 'x', :p, :at)",
            p=pages,
            at=datetime.now(UTC) - days * day - timedelta(minutes=1),
        )
    waits = "2 events unreported (1,235 pages, oldest 6 d)"
    wide = run_command("status", environ={**environ, "COLUMNS": "160"}).stdout.splitlines()
    assert [line.split()[0] for line in wide] == ["JOB", *(job.cli for job in JOBS.values())]
    assert wide[2].endswith(f"Z  {waits}")
    narrow = run_command("status", environ={**environ, "COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, narrow)) <= 80
    (line,) = (line for line in narrow if waits in line)
    assert line.strip().startswith("NEXT FIRING") or line.strip() == f"WAITING {waits}"
    assert [line.split()[1] for line in narrow if line.startswith("JOB ")] == [job.cli for job in JOBS.values()]


def test_what_nobody_could_look_at_is_not_said_to_be_nothing(database: TestDatabase, environ: dict[str, str]) -> None:
    assert "not known" not in run_command("status", environ=environ).stdout
    database.script("ALTER TABLE usage_counters RENAME TO gone")
    (line,) = (
        line
        for line in run_command("status", environ={**environ, "COLUMNS": "160"}).stdout.splitlines()
        if line.startswith("usage ")
    )
    assert line.endswith("  not known")


def test_history_and_one_run(database: TestDatabase, environment: Environment, environ: dict[str, str]) -> None:
    database.account("ann", "free")
    first, second = environment.run(), environment.run(dry_run=True)
    told = json.loads(ops("history", "period", "--json", environ=environ).stdout)
    assert [row["id"] for row in told] == [second.run_id, first.run_id]
    assert ops("history", "stripe", environ=environ).stdout == "Nothing has run yet.\n"
    assert len(json.loads(ops("history", "--limit", "1", "--json", environ=environ).stdout)) == 1
    one = json.loads(ops("show", str(first.run_id), "--json", environ=environ).stdout)
    assert (one["status"], one["counts"]["updated_count"]) == ("completed", 1)
    assert f" {first.message}\n" in ops("show", str(first.run_id), environ=environ).stdout


def test_one_run_is_shown_without_what_is_not_there_and_in_units(
    database: TestDatabase, environ: dict[str, str]
) -> None:
    counts = {"objects_deleted": 3, "bytes_deleted": 123_456, "oldest_open_minutes": 8640, "due_count": 0, "held": 0}
    database.execute(
        "INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, deadline_at, counts) "
        "VALUES ('abandoned_cleanup', 'cli', 'running', false, :now, :now, CAST(:counts AS jsonb))",
        now=datetime.now(UTC),
        counts=json.dumps(counts),
    )
    key = str(database.value("SELECT id FROM maintenance.runs"))
    lines = run_command("show", key, environ={**environ, "COLUMNS": "80"}).stdout.splitlines()
    shown = {name: value for name, _, value in (line.partition(" ") for line in lines)}
    assert [shown[name].strip() for name in ("objects_deleted", "bytes_deleted", "oldest_open_minutes")] == [
        "3", "123 kB", "6 d",
    ]  # fmt: skip
    assert lines[-1] == "zero: held, due_count"
    missing = {"message", "error_type", "error_id", "finished_at", "slot", "revision"}
    assert (missing | {"due_count", "held"}).isdisjoint(shown)
    told = json.loads(run_command("show", key, "--json", environ=environ).stdout)
    assert (told["counts"], missing <= set(told)) == (counts, True)


def test_a_pause_holds_firings_and_is_recorded(environment: Environment, environ: dict[str, str]) -> None:
    until = (datetime.now(UTC) + timedelta(days=400)).replace(microsecond=0)
    paused = ops("pause", "period", "--until", until.isoformat(), "--reason", HOSTILE, environ=environ)
    assert (paused.returncode, paused.stderr) == (0, "")
    outcome = environment.run()
    assert (outcome.status, HOSTILE in outcome.message) == ("paused", True)
    assert ops("resume", "period", environ=environ).returncode == 0
    assert environment.run().status == "completed"
    again = ops("resume", "period", environ=environ)
    assert again.returncode == WRONG
    assert again.stderr == "period_reset is not paused. `python -m ops status` says how each job is.\n"
    told = json.loads(ops("actions", "--json", environ=environ).stdout)
    assert [(row["action"], row["arguments"]["job"]) for row in told] == [
        ("resume", "period_reset"),
        ("pause", "period_reset"),
    ]
    shown = ops("actions", environ=environ).stdout
    assert "\x1b" not in shown
    assert "[bold]not[/bold]" in " ".join(shown.split())


def test_what_a_terminal_could_take_for_a_command_is_made_visible() -> None:
    assert printable(HOSTILE) == r"\x1b[31mred\x07 [bold]not[/bold] \u202eoff"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["pause", "nothing", "--until", "2099-01-01T00:00:00Z", "--reason", "x"], WRONG, "no job 'nothing'. The jobs"),
        (["pause", "period", "--until", "2020-01-01T00:00:00Z", "--reason", "x"], WRONG, "is over"),
        (["pause", "period", "--until", "tomorrow", "--reason", "x"], USAGE, "'tomorrow' is no time such as"),
        (["pause", "period", "--until", "2099-01-01T00:00:00Z"], USAGE, "--reason"),
        (["pause", "period", "--until", "2099-01-01T00:00:00Z", "--reason", " "], USAGE, "must not be empty"),
        (["show", "99999"], WRONG, "There is no run 99999"),
        (["show", "last"], USAGE, "'last' is no number of a run; `python -m ops history` lists them."),
        (["show", "0"], USAGE, "'0' is no number of a run"),
        (["history", "--limit", "0"], USAGE, "0 is not in the range"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: list[str], code: int, sentence: str, environ: dict[str, str]
) -> None:
    done = ops(*arguments, environ=environ)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["status"], ["history"], ["show", "1"], ["actions"], ["resume", "period"]])
def test_a_database_that_is_down_or_not_named_is_told_and_has_its_exit_code(command: list[str]) -> None:
    down = ops(*command, environ={"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"})
    assert (down.returncode, down.stdout, "Traceback" in down.stderr) == (DOWN, "", False)
    assert "accepts no connection" in down.stderr
    assert "s3cret" not in down.stderr
    unset = ops(*command, environ={})
    assert (unset.returncode, "DATABASE_URL is not set" in unset.stderr) == (WRONG, True)


def test_a_schema_that_is_not_there_is_told(database: TestDatabase, environ: dict[str, str]) -> None:
    database.script("DROP SCHEMA maintenance CASCADE")
    for command in (["status"], ["history"], ["show", "1"], ["actions"], ["resume", "period"]):
        done = ops(*command, environ=environ)
        assert done.returncode == WRONG
        assert "python -m ops migrate" in done.stderr


def test_a_bug_is_a_sentence_and_a_trace_only_if_asked_for(database: TestDatabase, environ: dict[str, str]) -> None:
    database.script("ALTER TABLE maintenance.runs RENAME COLUMN counts TO counted")
    done = ops("show", "1", environ=environ)
    assert (done.returncode in (BUG, WRONG), "Traceback" in done.stderr) == (True, False)
    assert "Traceback" in ops("show", "1", "--debug", environ=environ).stderr


def test_a_copy_of_another_environments_database_is_not_paused(database: TestDatabase, environ: dict[str, str]) -> None:
    database.execute("UPDATE maintenance.identity SET instance = 'elsewhere:5432'")
    done = ops("pause", "period", "--until", "2099-01-01T00:00:00Z", "--reason", "x", environ=environ)
    assert (done.returncode, "belongs to another environment" in done.stderr) == (WRONG, True)
    assert database.value("SELECT count(*) FROM maintenance.controls") == 0


def test_a_reader_that_has_had_enough_is_no_bug(environ: dict[str, str], database: TestDatabase) -> None:
    database.execute(
        "INSERT INTO maintenance.operator_actions (at, by, action, reason) "
        "SELECT :now, 'lea', 'x', repeat('x', 200) FROM generate_series(1, 2000)",
        now=datetime.now(UTC),
    )
    python = subprocess.Popen(
        [sys.executable, "-m", "ops", "actions", "--limit", "2000", "--json"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert python.stdout is not None
    assert python.stderr is not None
    assert python.stdout.read(100)
    python.stdout.close()
    assert python.stderr.read() == b""
    assert python.wait() == 0
    python.stderr.close()
