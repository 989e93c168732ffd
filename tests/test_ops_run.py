"""`python -m ops run`: jobs by hand, and the one way past the guard against deleting too much."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from devstack.gcs_front import GcsFront
from devstack.serving import REPOSITORY
from functions.registry import JOBS
from ops.shell import DOWN, NO, USAGE, WRONG
from tests.support.clock import NOON
from tests.support.commands import ops
from tests.support.database import TestDatabase
from tests.support.serving import Functions, firing
from tests.support.wait import until


def _old_counters(database: TestDatabase, count: int) -> None:
    database.account("ann")
    for month in range(count):
        database.use("ann", NOON.replace(year=2010 + month // 12, month=month % 12 + 1, day=1), 1)


def test_an_operator_may_let_one_run_delete_more_and_it_is_recorded(
    database: TestDatabase, environ: dict[str, str]
) -> None:
    _old_counters(database, 5)
    environ = {**environ, "MAX_DELETE_FLOOR": "1"}
    refused = ops("run", "usage", "--json", environ=environ)
    answer = json.loads(refused.stdout)
    assert (refused.returncode, answer["status"], answer["would_delete"], answer["allowed"]) == (NO, "refused", 5, 2)
    assert len(database.counters("ann")) == 5
    allowed = ops("run", "usage", "--allow-deletes", "5", "--reason", "old data", "--json", environ=environ)
    assert (allowed.returncode, json.loads(allowed.stdout)["deleted_count"]) == (0, 5)
    assert database.counters("ann") == {}
    action = database.rows("SELECT action, arguments, reason FROM maintenance.operator_actions ORDER BY id")[-1]
    assert (action["action"], action["reason"]) == ("run", "old data")
    assert action["arguments"] == {"job": "usage_counter_cleanup", "allow_deletes": 5}


def test_nothing_is_recorded_in_another_environments_database(database: TestDatabase, environ: dict[str, str]) -> None:
    database.execute("UPDATE maintenance.identity SET instance = 'elsewhere:5432'")
    done = ops("run", "usage", "--allow-deletes", "5", "--reason", "x", environ=environ)
    assert (done.returncode, "belongs to another environment" in done.stdout) == (WRONG, True)
    assert database.value("SELECT count(*) FROM maintenance.operator_actions") == 0


def test_a_run_is_told_in_words_or_as_the_function_answers(database: TestDatabase, environ: dict[str, str]) -> None:
    database.account("ann", "free")
    dry = ops("run", "period-reset", "--dry-run", "--as-of", "2026-05-15T12:00:00Z", environ=environ)
    assert (dry.returncode, dry.stdout.splitlines()[0].partition(":")[0]) == (0, "completed")
    assert database.counters("ann") == {}
    done = json.loads(ops("run", "period", "--force", "--json", environ=environ).stdout)
    assert (done["success"], done["job"], done["updated_count"]) == (True, "period_reset", 1)
    (action,) = database.rows("SELECT arguments FROM maintenance.operator_actions")
    assert action["arguments"]["force"] is True


def test_all_runs_every_job_and_one_that_fails_takes_no_other_along(
    database: TestDatabase, environ: dict[str, str]
) -> None:
    database.account("ann", "free")
    done = ops("run", "all", "--json", environ=environ)
    told = {row["job"]: row["status"] for row in json.loads(done.stdout)}
    assert list(told) == list(JOBS)
    # There is neither a key nor a bucket here.
    assert (told["period_reset"], told["usage_counter_cleanup"]) == ("completed", "completed")
    assert (told["stripe_reconcile"], told["artifact_cleanup"]) == ("misconfigured", "misconfigured")
    assert done.returncode == WRONG


def test_every_run_by_hand_is_recorded_unless_it_only_looks(database: TestDatabase, environ: dict[str, str]) -> None:
    assert ops("run", "period", "--dry-run", environ=environ).returncode == 0
    assert ops("run", "period", environ={**environ, "MAINTENANCE_MODE": "report"}).returncode == 0
    assert database.value("SELECT count(*) FROM maintenance.operator_actions") == 0
    assert ops("run", "period", "--reason", "the first of the month", environ=environ).returncode == 0
    action = database.row("SELECT action, arguments, reason FROM maintenance.operator_actions")
    assert (action["action"], action["arguments"]) == ("run", {"job": "period_reset"})
    assert action["reason"] == "the first of the month"


def test_a_paused_job_may_be_looked_at_and_not_run(database: TestDatabase, environ: dict[str, str]) -> None:
    database.account("ann", "free")
    assert ops("pause", "period", "--until", "2099-01-01T00:00:00Z", "--reason", "x", environ=environ).returncode == 0
    paused = ops("run", "period", environ=environ)
    assert (paused.returncode, "`python -m ops resume period` ends the pause" in paused.stdout) == (NO, True)
    looked = ops("run", "period", "--dry-run", "--json", environ=environ)
    assert (looked.returncode, json.loads(looked.stdout)["updated_count"]) == (0, 1)
    # Report mode is no look that somebody asked for.
    fired = ops("run", "period", "--json", environ={**environ, "MAINTENANCE_MODE": "report"})
    assert json.loads(fired.stdout)["status"] == "paused"


def test_ctrl_c_ends_a_run_between_two_batches(database: TestDatabase, environ: dict[str, str]) -> None:
    database.account("ann", "free")
    with database.engine.begin() as held:
        held.exec_driver_sql("SELECT FROM billing_accounts FOR UPDATE")
        # The job waits for the row, and tries again.
        run = subprocess.Popen(
            [sys.executable, "-m", "ops", "run", "period", "--json"],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(
            lambda: database.value("SELECT count(*) FROM maintenance.runs WHERE status = 'running'") == 1,
            "the run has begun",
        )
        run.send_signal(signal.SIGINT)
        told, said = run.communicate(timeout=60)
    assert (run.returncode, json.loads(told)["status"]) == (NO, "incomplete")
    assert "Stopped between two batches" in said
    assert "Traceback" not in said
    assert database.value("SELECT status FROM maintenance.runs") == "incomplete"


def test_of_a_firing_and_a_run_by_hand_one_works_and_the_other_says_who_does(
    database: TestDatabase, environ: dict[str, str], functions: Functions
) -> None:
    database.account("ann", "free")
    served = functions.serve()
    held = "SELECT FROM billing_accounts FOR UPDATE"
    running = "SELECT count(*) FROM maintenance.runs WHERE status = 'running'"
    with ThreadPoolExecutor(1) as pool:
        with database.engine.begin() as blocking:
            # The job waits for the row, and tries again: long enough to be stopped in the middle.
            blocking.exec_driver_sql(held)
            fired = pool.submit(firing, served)
            until(lambda: database.value(running) == 1, "the firing has begun")
            os.kill(served.worker_pid(), signal.SIGSTOP)
        by_hand = ops("run", "period", environ=environ)
        os.kill(served.worker_pid(), signal.SIGCONT)
        assert fired.result().fields["run_id"] == 1
    assert by_hand.returncode == NO
    assert "the job is running elsewhere (run 1 of period_reset, fired by Cloud Scheduler at 1" in by_hand.stdout
    database.execute("UPDATE billing_accounts SET current_period_end = :past", past=NOON - timedelta(days=60))
    with database.engine.begin() as blocking:
        blocking.exec_driver_sql(held)
        command = [sys.executable, "-m", "ops", "run", "period"]
        worked = subprocess.Popen(command, cwd=REPOSITORY, env={"PATH": os.environ["PATH"], **environ})
        until(lambda: database.value(running) == 1, "the run by hand has begun")
        worked.send_signal(signal.SIGSTOP)
    refused = firing(served, NOON + timedelta(days=1))
    worked.send_signal(signal.SIGCONT)
    worked.wait(60)
    assert (refused.status, refused.fields["status"]) == (409, "busy")
    assert "(run 2 of period_reset, begun on an operator's command line at " in refused.fields["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nothing"], WRONG, "There is no job 'nothing'. The jobs are period, stripe, "),
        (["period", "--as-of", "2026-05-15T12:00:00Z"], USAGE, "needs --dry-run"),
        (["all", "--allow-deletes", "5"], USAGE, "is for one job"),
        (["period", "--allow-deletes", "5"], USAGE, "say --reason WHY"),
        (["period", "--limit", "0"], USAGE, "--limit"),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], code: int, sentence: str, environ: dict[str, str]) -> None:
    done = ops("run", *arguments, environ=environ)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in " ".join(done.stderr.split())


def test_what_a_script_may_try_again_has_an_exit_code_of_its_own() -> None:
    environ = {"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}
    down = ops("run", "period", environ=environ)
    assert (down.returncode, "unavailable" in down.stdout, "s3cret" in down.stdout + down.stderr) == (DOWN, True, False)
    assert ops("run", "period", environ={}).returncode == WRONG


def test_what_the_cleanups_will_take_is_told_from_a_day_to_come(
    database: TestDatabase, environ: dict[str, str], bucket: str, gcs_front: GcsFront
) -> None:
    database.execute("UPDATE maintenance.identity SET bucket = :bucket", bucket=bucket)
    # A counter is kept for 13 months.
    database.account("ann")
    database.use("ann", datetime.now(UTC).replace(day=1) - timedelta(days=300), 1)
    there = {**environ, "GCS_BUCKET_NAME": bucket, "STORAGE_EMULATOR_HOST": gcs_front.url}
    found = {}
    for days in ("0", "200"):
        done = ops("upcoming", "--days", days, "--json", environ=there)
        told = {row["job"]: row for row in json.loads(done.stdout)}
        assert (done.returncode, len(told), all(row["dry_run"] for row in told.values())) == (0, 4, True)
        found[days] = told["usage_counter_cleanup"]["deleted_count"]
    assert found == {"0": 0, "200": 1}
    assert len(database.counters("ann")) == 1


def _without_a_reader(*arguments: str, environ: dict[str, str], log_too: bool = False) -> int:
    """Run a command whose reader is gone before it writes; give the exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "ops", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environ},
        stdout=writing,
        stderr=writing if log_too else subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert log_too or done.stderr == b""
    return done.returncode


def test_who_stops_reading_ends_no_run_and_turns_no_answer_round(
    database: TestDatabase, environ: dict[str, str]
) -> None:
    database.account("ann", "free")
    # As in `ops run period 2>&1 | head -1`.
    assert _without_a_reader("run", "period", environ=environ, log_too=True) == 0
    assert database.rows("SELECT status FROM maintenance.runs") == [{"status": "completed"}]
    database.execute("UPDATE maintenance.identity SET bound_at = '2020-01-01'")
    assert _without_a_reader("status", environ=environ) == NO
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ops", "actions"],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], **environ},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (WRONG, "What was printed is not all there: No space left on device.\n")
