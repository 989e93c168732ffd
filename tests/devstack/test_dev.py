"""`make dev`: a local cloud, in which the operator's commands find what they find at Google."""

import json
import shlex
import signal

from devstack.local_cloud import schedules
from functions.registry import JOBS
from tests.support.commands import run_command
from tests.support.programs import Start
from tests.support.wait import until
from tests.test_ops_schedules import declared


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


def test_what_is_fired_here_is_what_is_fired_at_google() -> None:
    ours = {job.id: (job.schedule, job.deadline, job.retries, job.method) for job in schedules()}
    assert ours == {job.id: (job.schedule, job.deadline, job.retries, job.method) for job in declared()}


def _last_run(environ: dict[str, str]) -> object:
    rows = json.loads(run_command("history", "period", "--limit", "1", "--json", environ=environ).stdout)
    return rows[0]["status"] if rows else None
