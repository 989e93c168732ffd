"""Shards as an installation gives them: what is deployed says so, and what Terraform takes is what the code can do."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from devstack.serving import REPOSITORY
from functions.registry import JOBS, load_jobs
from shared.job import ShardedJobModule
from shared.settings import parse_settings
from shared.shards import LARGEST_SHARDS
from tests.infra.installing import Json, json_lines, once, planned_resources, terraform

pytestmark = pytest.mark.timeout(600)

_GIVEN: Mapping[str, object] = {
    "project_id": "demo-project",
    "region": "europe-west1",
    "stripe_meter_id": "mtr_1",
    "shards": {"stripe_reconcile": 4},
}
_STEPS = [name for name in vars(ShardedJobModule) if not name.startswith("_")]


@pytest.fixture(scope="module")
def plan(shared_folder: Path) -> Json:
    def make() -> str:
        file = shared_folder / "sharded.tfvars.json"
        file.write_text(json.dumps(_GIVEN))
        done = terraform("plan", "-out=p.plan", f"-var-file={file}", "then", "show", "-json", "p.plan")
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    (plan,) = json_lines(once(shared_folder / "sharded-plan.txt", make))
    return plan


def test_the_deployed_declaration_says_so_and_changes_nothing_else(plan: Json, tmp_path: Path) -> None:
    (archive,) = (
        each["values"] for each in plan["prior_state"]["values"]["root_module"]["resources"]
        if each["address"] == "data.archive_file.source"
    )  # fmt: skip
    (text,) = (each["content"] for each in archive["source"] if each["filename"] == "functions/jobs.json")
    (tmp_path / "jobs.json").write_text(text, encoding="utf-8")
    assert {name: job.shards for name, job in load_jobs(tmp_path / "jobs.json").items()} == {
        name: 4 if name == "stripe_reconcile" else 1 for name in JOBS
    }
    declared = json.loads((REPOSITORY / "functions/jobs.json").read_text(encoding="utf-8"))
    assert [{key: value for key, value in job.items() if key != "shards"} for job in json.loads(text)] == declared


def test_all_shards_have_room_everywhere(plan: Json) -> None:
    resources = planned_resources(plan)
    functions = resources.of("google_cloudfunctions2_function")
    for name, function in functions.items():
        service = function["service_config"][0]
        assert service["max_instance_count"] == (6 if name == "stripe_reconcile" else 2)
        assert service["max_instance_request_concurrency"] == (1 if name == "stripe_reconcile" else 4)
        environ = {key: value for key, value in service["environment_variables"].items() if value is not None}
        environ |= {"DATABASE_URL": "postgresql://u@h/d"}
        for name_of in ("CLOUD_SQL_INSTANCE", "DB_NAME", "DB_USER", "CLOUD_SQL_IP_TYPE"):
            environ.pop(name_of, None)
        assert parse_settings(environ).max_concurrent_jobs == 5 + 4
    (queue,) = resources.of("google_cloud_tasks_queue").values()
    (limits,) = queue["rate_limits"]
    assert (limits["max_concurrent_dispatches"], limits["max_dispatches_per_second"]) == (5 + 4, 4)


def test_what_can_be_cut_up_is_what_has_the_steps_for_it() -> None:
    assert _STEPS == ["open_slot", "run_shard", "close_slot"]
    text = (REPOSITORY / "infra/terraform/jobs.tf").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^  can_be_sharded = (\[.*\])$", text, re.MULTILINE)
    assert json.loads(listed) == [
        name for name, job in JOBS.items() if all(hasattr(job.load(), step) for step in _STEPS)
    ]
    assert re.findall(r"^  largest_shards = (\d+)$", text, re.MULTILINE) == [str(LARGEST_SHARDS)]
    # And none is declared with shards that has not all of them.
    assert {name for name, job in JOBS.items() if job.shards > 1} <= set(json.loads(listed))
