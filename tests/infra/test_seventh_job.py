"""One more entry in jobs.json is one more function with all that belongs to it, and changes nothing else."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from functions.registry import JOBS
from tests.infra.conftest import Install
from tests.infra.installing import Json, arguments, json_lines, once, planned_resources, terraform, tree_copy

pytestmark = pytest.mark.timeout(600)

# In the middle of the alphabet, so that it comes between the others wherever jobs stand in order.
SEVENTH: dict[str, Any] = {
    **asdict(JOBS["opt_out_cleanup"]),
    "name": "file_audit",
    "cli": "audit",
    "module": "functions.file_audit.job",
    "description": "Compares files with what the bucket has",
    "schedule": "45 5 * * 1",
    "timeout_seconds": 600,
    "retries": 1,
    "counts": ["audited_count"],
    "gauges": [],
}
MODULE = '''"""A seventh job."""


def run(ctx):
    """Do nothing."""


def waiting(transaction, now, settings):
    """Nothing waits."""
    return {}
'''


def with_entries(folder: Path, *changed: dict[str, Any]) -> Path:
    """A copy of the tree with these entries in jobs.json: instead of those of the same name, or after all others."""
    tree = tree_copy(folder)
    file = tree / "functions/jobs.json"
    entries = {entry["name"]: entry for entry in json.loads(file.read_text(encoding="utf-8"))}
    entries |= {entry["name"]: entry for entry in changed}
    file.write_text(json.dumps(list(entries.values())), encoding="utf-8")
    return tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seventh")
    tree = with_entries(folder, SEVENTH)
    package = tree / "functions/file_audit"
    package.mkdir()
    (package / "__init__.py").write_text('"""A seventh job."""\n')
    (package / "job.py").write_text(MODULE)
    return tree


@pytest.fixture(scope="module")
def plan(tree: Path, shared_folder: Path) -> Json:
    given = arguments("default", tree)

    def make() -> str:
        done = terraform("plan", "-out=p.plan", *given, "then", "show", "-json", "p.plan", root=tree)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    (plan,) = json_lines(once(shared_folder / "seventh-plan.txt", make))
    return plan


def test_it_gets_all_that_a_job_has(installed: Install, plan: Json) -> None:
    before, after = installed().planned.by_address, planned_resources(plan).by_address
    # Opt_out_cleanup needs the same services: what is there for the one is there for the other.
    like = {address for address in before if re.search(r'\["(?:items/)?opt_out_cleanup\b', address)}
    kinds = {address.split("[")[0] for address in like}
    assert {
        "google_cloudfunctions2_function.job", "google_cloud_scheduler_job.job", "google_service_account.function",
        "google_sql_user.function", "google_cloud_run_v2_service_iam_member.invoker", "google_logging_metric.figure",
        "google_storage_bucket_iam_member.cleaner", "google_project_iam_member.database",
    } <= kinds  # fmt: skip
    assert set(after) - set(before) == {address.replace("opt_out_cleanup", "file_audit") for address in like}
    assert set(before) <= set(after)
    function = after['google_cloudfunctions2_function.job["file_audit"]']
    assert (function["name"], function["build_config"][0]["entry_point"]) == ("file-audit", "file_audit")
    assert function["service_config"][0]["timeout_seconds"] == 600
    fired = after['google_cloud_scheduler_job.job["file_audit"]']
    assert (fired["schedule"], fired["attempt_deadline"]) == ("45 5 * * 1", "690s")
    assert after['google_service_account.function["file_audit"]']["account_id"] == "fn-file-audit"


def test_nothing_else_changes_but_what_speaks_of_all_jobs(installed: Install, plan: Json) -> None:
    before, after = installed().planned.by_address, planned_resources(plan).by_address
    changed = set()
    for address, values in before.items():
        if values != after[address]:
            changed.add(address.split(".")[0])
            # What is left when the seventh job and the archive's name are taken out is as before.
            assert _without_the_seventh(after[address]) == _without_the_seventh(values), address
    assert changed == {
        "google_cloudfunctions2_function", "google_storage_bucket_object", "google_logging_metric",
        "google_monitoring_dashboard",
    }  # fmt: skip


def _without_the_seventh(values: Json) -> Json:
    left = dict(values)
    if "dashboard_json" in left:
        tiles = json.loads(left["dashboard_json"])["mosaicLayout"]["tiles"]
        # Later tiles move up a place.
        widgets = [tile["widget"] for tile in tiles if not tile["widget"]["title"].startswith("file_audit")]
        left["dashboard_json"] = json.dumps(widgets)
    text = json.dumps(left).replace(r"\"file-audit\" OR ", "").replace(r"\\\"file-audit\\\" OR ", "")
    return json.loads(re.sub(r"source-[0-9a-f]{64}\.zip", "source.zip", text))


def test_its_lateness_and_failures_alert_too(installed: Install, plan: Json) -> None:
    after = planned_resources(plan)
    for metric in after.of("google_logging_metric").values():
        assert '"file-audit"' in metric["filter"], metric["name"]
    # The policies are as they were: their conditions are grouped by the job that a line names.
    before = installed().planned.of("google_monitoring_alert_policy")
    assert after.of("google_monitoring_alert_policy") == before
    (overdue,) = (each for each in before["overdue"]["conditions"] if each["display_name"] == "overdue")
    assert overdue["condition_threshold"][0]["aggregations"][0]["group_by_fields"] == ["metric.label.job"]
    (dashboard,) = after.of("google_monitoring_dashboard").values()
    assert "file_audit: audited_count" in dashboard["dashboard_json"]


def test_it_is_in_the_archive_and_main_exports_it(installed: Install, tree: Path, plan: Json) -> None:
    def names(of: Json) -> set[str]:
        (built,) = [
            each["values"] for each in of["prior_state"]["values"]["root_module"]["resources"]
            if each["address"] == "data.archive_file.source"
        ]  # fmt: skip
        return {source["filename"] for source in built["source"]}

    new = {"functions/file_audit/__init__.py", "functions/file_audit/job.py"}
    assert names(plan) - names(installed().plan) == new
    loaded = subprocess.run(
        [sys.executable, "-c", "import main; print(main.file_audit.__name__, len(main.JOBS))"],
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (loaded.stdout, loaded.stderr) == (f"file_audit {len(JOBS) + 1}\n", "")


def refusals(tree: Path, *options: str) -> str:
    """What terraform says about a plan that it refuses, in one line."""
    done = terraform("plan", *arguments("default", tree), *options, root=tree)
    assert done.returncode == 1
    return " ".join(re.sub(r"[│\s]+", " ", done.stderr).split())


def test_a_name_that_is_too_long_for_an_account_is_refused(tmp_path: Path) -> None:
    said = refusals(with_entries(tmp_path, {**SEVENTH, "name": "audit_of_files_and_objects_2"}))
    assert "its account fn-audit-of-files-and-objects-2 has more than the 30 characters" in said


def test_a_declaration_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    declared = {name: asdict(job) for name, job in JOBS.items()}
    tree = with_entries(
        tmp_path,
        {**SEVENTH, "name": "audit_of_files_and_objects2"},
        {**declared["period_reset"], "timeout_seconds": 1711},
        {**declared["abandoned_cleanup"], "retries": 6},
        {**declared["artifact_cleanup"], "schedule": "0 3 * * MON"},
        {**declared["opt_out_cleanup"], "schedule": "0 4-2 * * 6"},
        {**declared["stripe_reconcile"], "retries": 3},
    )
    project = "p" * 30
    said = refusals(tree, f"-var=project_id={project}")
    for refusal in (
        f"its login fn-audit-of-files-and-objects2@{project}.iam has more than PostgreSQL's 63 characters",
        "period_reset: the deadline is 1801 s. Cloud Scheduler takes 15 to 1800 s.",
        "abandoned_cleanup: 6 retries. Cloud Scheduler takes 0 to 5.",
        'artifact_cleanup: the schedule "0 3 * * MON" is not understood',
        'opt_out_cleanup: the schedule "0 4-2 * * 6" is not understood, or a range in it counts backwards',
        "stripe_reconcile: a firing with all its 3 retries takes up to",
    ):
        assert refusal in said, said
    # What cannot be read is told of once, and without the patterns that it was held against.
    assert said.count("artifact_cleanup:") == said.count("opt_out_cleanup:") == 1
    assert "[0-9]" not in said
