"""`make dev`: a local cloud, in which the operator's commands find what they find at Google."""

import json
import shlex
import signal
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from devstack.local_cloud import deploy, schedules
from functions.registry import JOBS
from tests.support.clock import ManualClock
from tests.support.cloud_scheduler import declared
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.programs import Start
from tests.support.wait import until


def test_the_functions_are_served_and_fired_until_ctrl_c(start: Start) -> None:
    dev = start("devstack")
    assert dev.read_until("Ctrl-C stops the servers"), dev.said
    environ = dict(shlex.split(line)[1].split("=", 1) for line in dev.said.splitlines() if line.startswith("export "))
    told, _, exports = dev.said.partition("with this exported first")
    # All the jobs in one list and one block, which does not push the settings off the screen: they come last.
    assert "export " not in told
    assert told.count("curl -X POST") == 2
    assert all(f"#   {name}" in told for name in JOBS)
    assert len(exports.splitlines()) < 20
    checked = run_command("schedules", "check", environ=environ)
    assert (checked.exit_code, checked.stdout) == (0, "All 7 schedules are deployed as declared.\n")
    assert run_command("schedules", "run", "period", environ=environ).exit_code == 0
    until(lambda: _last_run(environ) == "completed", "the function has run", seconds=30)
    found = json.loads(run_command("doctor", "--json", environ=environ).stdout)
    assert [row for row in found if row["verdict"] == "wrong"] == []
    assert dev.end(signal.SIGINT) == 0, dev.said
    assert "Traceback" not in dev.said
    assert dev.left() == []


def test_each_function_is_fired_at_its_time(
    database: TestDatabase, environ: dict[str, str], tmp_path: Path, clock: ManualClock
) -> None:
    clock.set(datetime(2026, 5, 15, 0, 29, 59, tzinfo=UTC))
    runs = "SELECT job, trigger, slot, status FROM maintenance.runs"
    with ExitStack() as cleanup:
        deploy(environ, tmp_path, cleanup, clock)
        clock.set(datetime(2026, 5, 15, 0, 30, tzinfo=UTC))
        until(lambda: [row["status"] for row in database.rows(runs)] == ["completed"], "the firing is done")
    (row,) = database.rows(runs)
    assert (row["job"], row["trigger"], row["slot"]) == ("period_reset", "schedule", clock.now())


def test_what_is_fired_here_is_what_is_fired_at_google() -> None:
    ours = {job.id: (job.schedule, job.deadline, job.retries, job.method) for job in schedules()}
    assert ours == {job.id: (job.schedule, job.deadline, job.retries, job.method) for job in declared()}


def _last_run(environ: dict[str, str]) -> object:
    rows = json.loads(run_command("history", "period", "--limit", "1", "--json", environ=environ).stdout)
    return rows[0]["status"] if rows else None
