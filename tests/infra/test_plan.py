"""The plan against functions/jobs.json and the code: what is deployed, and what fires it."""

import itertools
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from cronsim import CronSim

import main
from functions.registry import JOBS
from shared.job import Job
from tests.infra.conftest import Install
from tests.infra.installing import Installation
from tests.infra.names import BUILDER, INVOKER, PROJECT, account, slug

pytestmark = pytest.mark.timeout(600)

# Written out, and not read from jobs.json: these are what users were promised.
SCHEDULES = {
    "period_reset": "30 0 * * *",
    "stripe_reconcile": "15 */2 * * *",
    "usage_counter_cleanup": "0 2 * * 0",
    "abandoned_cleanup": "0 1 * * *",
    "artifact_cleanup": "0 3 * * *",
    "opt_out_cleanup": "0 4 * * 6",
}


def test_each_job_is_fired_at_its_time_as_the_invoker(default: Installation) -> None:
    fired = default.applied.of("google_cloud_scheduler_job", "job")
    assert {name: job["schedule"] for name, job in fired.items()} == SCHEDULES
    functions = default.applied.of("google_cloudfunctions2_function")
    for name, job in fired.items():
        assert job["name"] == slug(name)
        assert job["time_zone"] == "Etc/UTC"
        assert job["paused"] is False
        (target,) = job["http_target"]
        uri = functions[name]["service_config"][0]["uri"]
        assert uri
        assert (target["http_method"], target["uri"]) == ("POST", uri)
        (token,) = target["oidc_token"]
        assert token == {"service_account_email": INVOKER, "audience": uri}
    assert len({job["http_target"][0]["uri"] for job in fired.values()}) == len(JOBS)


def test_the_health_check_is_asked_every_five_minutes(default: Installation) -> None:
    health = default.applied.of("google_cloud_scheduler_job", "health")["health"]
    function = default.applied.of("google_cloudfunctions2_function")["period_reset"]
    uri = function["service_config"][0]["uri"]
    assert (health["schedule"], health["time_zone"], health["paused"]) == ("*/5 * * * *", "Etc/UTC", False)
    (target,) = health["http_target"]
    assert (target["http_method"], target["uri"]) == ("GET", uri)
    assert target["oidc_token"] == [{"service_account_email": INVOKER, "audience": uri}]


def test_each_function_is_what_its_job_declares(default: Installation) -> None:
    functions = default.planned.of("google_cloudfunctions2_function")
    assert set(functions) == set(JOBS)
    (source,) = default.planned.of("google_storage_bucket_object").values()
    for name, function in functions.items():
        job = JOBS[name]
        assert function["name"] == slug(name)
        assert function["description"] == job.description
        build = function["build_config"][0]
        assert build["runtime"] == "python313"
        # functions-framework looks for this name in main.py.
        assert callable(getattr(main, build["entry_point"]))
        assert build["entry_point"] == name
        assert build["source"][0]["storage_source"][0]["object"] == source["name"]
        service = function["service_config"][0]
        assert service["timeout_seconds"] == job.timeout_seconds
        assert service["available_memory"] == f"{job.memory_mib}Mi"
        assert service["max_instance_request_concurrency"] == 4
        assert service["available_cpu"] == "1"
        assert (service["min_instance_count"], service["max_instance_count"]) == (0, 2)
        assert service["ingress_settings"] == "ALLOW_INTERNAL_ONLY"
        assert service["service_account_email"] == account(name)
        assert service["environment_variables"]["MAINTENANCE_MODE"] == "report"
    builders = {each["build_config"][0]["service_account"] for each in default.applied.of(
        "google_cloudfunctions2_function").values()}  # fmt: skip
    assert builders == {f"projects/{PROJECT}/serviceAccounts/{BUILDER.removeprefix('serviceAccount:')}"}


def test_there_is_one_archive_named_by_its_content(default: Installation) -> None:
    (source,) = default.planned.of("google_storage_bucket_object").values()
    (built,) = [
        each["values"] for each in default.plan["prior_state"]["values"]["root_module"]["resources"]
        if each["address"] == "data.archive_file.source"
    ]  # fmt: skip
    assert source["name"] == f"source-{built['output_sha256']}.zip"


@pytest.mark.parametrize("variant", ["default", "full"])
def test_a_firing_with_all_its_attempts_is_over_before_the_next(installed: Install, variant: str) -> None:
    done = installed(variant)
    functions = done.planned.of("google_cloudfunctions2_function")
    for name, fired in done.planned.of("google_cloud_scheduler_job", "job").items():
        deadline = int(fired["attempt_deadline"].removesuffix("s"))
        assert 15 <= deadline <= 1800
        service = functions[name]["service_config"][0]
        assert service["timeout_seconds"] <= deadline - 90
        assert service["environment_variables"]["JOB_TIMEOUT_SECONDS"] == str(service["timeout_seconds"])
        (retry,) = fired["retry_config"]
        assert 0 <= retry["retry_count"] <= 5
        assert retry["max_retry_duration"] == "0s"
        attempts = (retry["retry_count"] + 1) * deadline
        waits = _longest_waits(retry, "min_backoff_duration", "max_backoff_duration", retry["retry_count"])
        assert attempts + waits < _shortest_interval(fired["schedule"]).total_seconds()


def test_a_step_is_tried_until_the_longest_run_of_another_is_over_and_no_more(default: Installation) -> None:
    (queue,) = default.planned.of("google_cloud_tasks_queue").values()
    (retry,) = queue["retry_config"]
    waits = _longest_waits(retry, "min_backoff", "max_backoff", retry["max_attempts"] - 1)
    longest = max(
        each["service_config"][0]["timeout_seconds"]
        for each in default.planned.of("google_cloudfunctions2_function").values()
    )
    assert longest < waits < 1.5 * longest


def _longest_waits(retry: dict[str, Any], first: str, longest: str, retries: int) -> int:
    """The waits between attempts: doubled so many times, then longer by the last step each time, up to the longest."""
    wait = int(retry[first].removesuffix("s"))
    waits = []
    for number in range(retries):
        waits.append(min(wait, int(retry[longest].removesuffix("s"))))
        wait += wait if number < retry["max_doublings"] else wait // 2
    return sum(waits)


def _shortest_interval(cron: str) -> timedelta:
    firings = CronSim(cron, datetime(2026, 1, 1))  # noqa: DTZ001  as in UTC, where no hour is skipped
    times = [next(firings) for _ in range(400)]
    return min(after - before for before, after in itertools.pairwise(times))


def test_the_declared_retries_are_those_of_the_plan(default: Installation) -> None:
    fired = default.planned.of("google_cloud_scheduler_job", "job")
    assert {name: job["retry_config"][0]["retry_count"] for name, job in fired.items()} == {
        name: job.retries for name, job in JOBS.items()
    }
    assert fired["stripe_reconcile"]["retry_config"][0]["retry_count"] <= 2


def test_the_database_admits_nobody_but_the_connector(installed: Install) -> None:
    (open_,) = installed("default").planned.of("google_sql_database_instance").values()
    (private,) = installed("full").planned.of("google_sql_database_instance").values()
    for database, is_public in ((open_, True), (private, False)):
        settings = database["settings"][0]
        network = settings["ip_configuration"][0]
        assert network["ipv4_enabled"] is is_public
        assert not network["authorized_networks"]
        assert network["ssl_mode"] == "ENCRYPTED_ONLY"
        assert settings["connector_enforcement"] == "REQUIRED"
        assert settings["edition"] == "ENTERPRISE"
        assert settings["tier"].startswith("db-custom-")
        assert settings["availability_type"] in ("ZONAL", "REGIONAL")
        backup = settings["backup_configuration"][0]
        assert backup["enabled"]
        assert backup["point_in_time_recovery_enabled"]
        assert backup["backup_retention_settings"][0]["retained_backups"] == 14
        assert database["deletion_protection"]
        assert settings["deletion_protection_enabled"]


def test_a_tear_down_stops_at_nothing_that_goes_with_something_else(installed: Install) -> None:
    made = installed("full").planned
    for kind in ("google_sql_user", "google_sql_database", "google_service_networking_connection"):
        assert made.of(kind)
        assert {each["deletion_policy"] for each in made.of(kind).values()} == {"ABANDON"}, kind
    logins = installed("existing").planned.of("google_sql_user")
    assert len(logins) == len(JOBS)
    assert {login["deletion_policy"] for login in logins.values()} == {"ABANDON"}


def test_images_are_kept_long_enough_to_go_back(default: Installation) -> None:
    (images,) = default.planned.of("google_artifact_registry_repository").values()
    policies = {policy["action"]: policy for policy in images["cleanup_policies"]}
    assert policies["KEEP"]["most_recent_versions"][0]["keep_count"] >= 3
    assert policies["DELETE"]["condition"][0]["older_than"] == f"{30 * 86400}s"


def test_nothing_is_fired_before_it_may_be_called(default: Installation) -> None:
    declared = default.plan["configuration"]["root_module"]["resources"]
    needs = {each["address"]: each.get("depends_on", []) for each in declared}
    for job in ("google_cloud_scheduler_job.job", "google_cloud_scheduler_job.health"):
        assert "google_cloud_run_v2_service_iam_member.invoker" in needs[job]


def test_the_bucket_is_closed_and_keeps_what_was_deleted_for_a_week(default: Installation) -> None:
    bucket = default.planned.of("google_storage_bucket", "files")["0"]
    assert bucket["uniform_bucket_level_access"]
    assert bucket["public_access_prevention"] == "enforced"
    assert bucket["force_destroy"] is False
    assert bucket["soft_delete_policy"][0]["retention_duration_seconds"] == 7 * 86400
    (rule,) = bucket["lifecycle_rule"]
    assert rule["action"][0]["type"] == "Delete"
    assert rule["condition"][0]["matches_prefix"] == ["temp_uploads/"]
    # A backstop only: the job deletes them after 7 days.
    assert rule["condition"][0]["age"] >= 30


def test_redis_wants_a_password_and_tls(default: Installation) -> None:
    (redis,) = default.planned.of("google_redis_instance").values()
    assert redis["auth_enabled"]
    assert redis["transit_encryption_mode"] == "SERVER_AUTHENTICATION"
    assert redis["tier"] == "BASIC"


def test_the_outputs_say_what_an_operator_asks_for(default: Installation) -> None:
    outputs = {name: each["value"] for name, each in default.state["values"]["outputs"].items()}
    functions = default.applied.of("google_cloudfunctions2_function")
    assert outputs["function_accounts"] == {name: account(name) for name in JOBS}
    assert outputs["function_uris"] == {name: each["service_config"][0]["uri"] for name, each in functions.items()}
    assert outputs["database_users"] == {name: f"fn-{slug(name)}@{PROJECT}.iam" for name in JOBS}
    assert outputs["run_now"] == {
        name: f"gcloud scheduler jobs run {slug(name)} --location=europe-west1 --project={PROJECT}" for name in JOBS
    }
    assert outputs["invoker_account"] == INVOKER
    # Whoever runs a job by hand with these runs it as the function does.
    assert outputs["function_settings"] == {
        name: each["service_config"][0]["environment_variables"] for name, each in functions.items()
    }
    assert {settings["MAINTENANCE_MODE"] for settings in outputs["function_settings"].values()} == {"report"}
    assert not {"STRIPE_SECRET_KEY", "REDIS_URL"} & {
        key for each in outputs["function_settings"].values() for key in each
    }


def test_labels_are_the_applications_and_the_installations(installed: Install) -> None:
    done = installed("full")
    labels = {"app": "maintenance", "environment": "prod", "team": "platform"}
    (database,) = done.planned.of("google_sql_database_instance").values()
    assert database["settings"][0]["user_labels"] == labels
    policies = done.planned.of("google_monitoring_alert_policy")
    assert [policy["user_labels"] for policy in policies.values()] == [labels] * len(policies)
    # Everything else takes them from the provider, which is no part of a plan's values.
    provider = done.plan["configuration"]["provider_config"]["google"]["expressions"]
    assert provider["default_labels"]["references"] == ["var.labels"]


def test_what_is_turned_on_of_google_cloud_stays_on(installed: Install) -> None:
    apis = installed("full").planned.of("google_project_service")
    assert {"cloudfunctions.googleapis.com", "run.googleapis.com", "cloudscheduler.googleapis.com"} <= set(apis)
    assert not any(api["disable_on_destroy"] for api in apis.values())


def job_of(text: str) -> set[str]:
    """The functions that a filter names."""
    (names,) = re.findall(r"service_name=\(([^)]*)\)", text)
    return set(re.findall(r'"([^"]+)"', names))


def test_metrics_are_made_of_the_lines_of_every_function(default: Installation) -> None:
    metrics = default.planned.of("google_logging_metric")
    assert metrics
    every: list[Job] = list(JOBS.values())
    for metric in metrics.values():
        assert job_of(metric["filter"]) == {slug(job.name) for job in every}
