"""`python -m ops run`: a job by hand, and the one way past the guard against deleting too much."""

import json

from tests.support.clock import NOON
from tests.support.database import TestDatabase
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
    refused = ops("run", "usage", environ=environ)
    answer = json.loads(refused.stdout)
    assert (refused.returncode, answer["status"], answer["would_delete"], answer["allowed"]) == (1, "refused", 5, 2)
    assert len(database.counters("ann")) == 5
    allowed = ops("run", "usage", "--allow-deletes", "5", environ=environ)
    assert (allowed.returncode, json.loads(allowed.stdout)["deleted_count"]) == (0, 5)
    assert database.counters("ann") == {}
    action = database.row("SELECT action, arguments FROM maintenance.operator_actions")
    assert action["arguments"]["allow_deletes"] == 5


def test_a_job_that_is_not_there_is_named(environ: dict[str, str]) -> None:
    done = ops("run", "nothing", environ=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no job 'nothing'" in done.stderr
