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
from tests.support.database import TestDatabase
from tests.support.serving import Functions, firing
from tests.support.wait import until
from tests.test_migrate import ops


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
    allowed = ops("run", "usage", "--allow-deletes", "5", "--json", environ=environ)
    assert (allowed.returncode, json.loads(allowed.stdout)["deleted_count"]) == (0, 5)
    assert database.counters("ann") == {}
    action = database.row("SELECT action, arguments FROM maintenance.operator_actions")
    assert action["arguments"]["allow_deletes"] == 5


def test_nothing_is_recorded_in_another_environments_database(database: TestDatabase, environ: dict[str, str]) -> None:
    database.execute("UPDATE maintenance.identity SET instance = 'elsewhere:5432'")
    done = ops("run", "usage", "--allow-deletes", "5", environ=environ)
    assert (done.returncode, "belongs to another environment" in done.stderr) == (WRONG, True)
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
    running = "SELECT count(*) FROM maintenance.runs WHERE status = 'running'"
    with ThreadPoolExecutor(1) as pool:
        with database.engine.begin() as held:
            held.exec_driver_sql("SELECT FROM billing_accounts FOR UPDATE")
            # The job waits for the row, and tries again.
            fired = pool.submit(firing, served)
            until(lambda: database.value(running) == 1, "the firing has begun")
            by_hand = ops("run", "period", environ=environ)
        assert fired.result().fields["status"] == "completed"
        assert by_hand.returncode == NO
        assert "the job is running elsewhere (run 1 of period_reset, fired by Cloud Scheduler at 1" in by_hand.stdout
        database.execute("UPDATE billing_accounts SET current_period_end = :past", past=NOON - timedelta(days=60))
        with database.engine.begin() as held:
            held.exec_driver_sql("SELECT FROM billing_accounts FOR UPDATE")
            worked = pool.submit(ops, "run", "period", environ=environ)
            until(lambda: database.value(running) == 1, "the run by hand has begun")
            refused = firing(served, NOON + timedelta(days=1))
        assert worked.result().returncode == 0
    assert (refused.status, refused.fields["status"]) == (409, "busy")
    assert "(run 2 of period_reset, begun on an operator's command line at " in refused.fields["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nothing"], WRONG, "There is no job 'nothing'. The jobs are period, stripe, "),
        (["period", "--as-of", "2026-05-15T12:00:00Z"], USAGE, "needs --dry-run"),
        (["all", "--allow-deletes", "5"], USAGE, "is for one job"),
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
