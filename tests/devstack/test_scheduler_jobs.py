"""Jobs are read out of Terraform's plan as it says them, and what the stand-in would play wrongly is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from devstack.scheduler_jobs import PlanError, Retries, ScheduledJob, jobs_of_plan, read_duration

URI = "https://period-reset-abc-ew.a.run.app"
ACCOUNT = "invoker@bytereview-test.iam.gserviceaccount.com"

# As `terraform show -json` writes it, cut down to what is read. The health job leaves its waits to Google, so what the
# provider computed for them counts for nothing.
_FUNCTION = {
    "address": 'google_cloudfunctions2_function.job["period_reset"]',
    "mode": "managed",
    "type": "google_cloudfunctions2_function",
    "name": "job",
    "index": "period_reset",
    "values": {"name": "period-reset", "service_config": [{"uri": URI}]},
}
_JOB = {
    "address": 'google_cloud_scheduler_job.job["period_reset"]',
    "mode": "managed",
    "type": "google_cloud_scheduler_job",
    "name": "job",
    "index": "period_reset",
    "values": {
        "name": "period-reset",
        "project": "bytereview-test",
        "region": "europe-west1",
        "description": "Moves accounts",
        "schedule": "30 0 * * *",
        "time_zone": "Etc/UTC",
        "attempt_deadline": "1800s",
        "paused": True,
        "pubsub_target": [],
        "app_engine_http_target": [],
        "http_target": [
            {
                "http_method": "POST",
                "uri": URI,
                "headers": None,
                "body": None,
                "oauth_token": [],
                "oidc_token": [{"audience": URI, "service_account_email": ACCOUNT}],
            }
        ],
        "retry_config": [
            {
                "retry_count": 3,
                "max_retry_duration": "0s",
                "min_backoff_duration": "30s",
                "max_backoff_duration": "240s",
                "max_doublings": 3,
            }
        ],
    },
}
_HEALTH = {
    "address": "google_cloud_scheduler_job.health",
    "mode": "managed",
    "type": "google_cloud_scheduler_job",
    "name": "health",
    "values": {
        "name": "maintenance-health",
        "project": "bytereview-test",
        "region": "europe-west1",
        "description": None,
        "schedule": "*/5 * * * *",
        "time_zone": "UTC",
        "attempt_deadline": "60s",
        "paused": False,
        "http_target": [
            {
                "http_method": "GET",
                "uri": f"{URI}/health?deep=1",
                "headers": {"X-Own": "1"},
                "body": None,
                "oidc_token": [{"audience": None, "service_account_email": ACCOUNT}],
            }
        ],
        "retry_config": [{"retry_count": 0, "min_backoff_duration": "offline", "max_doublings": 7327}],
    },
}
_WAITS = ("retry_count", "max_retry_duration", "min_backoff_duration", "max_backoff_duration", "max_doublings")
_PLAN: dict[str, Any] = {
    "planned_values": {"root_module": {"resources": [_FUNCTION, _JOB, _HEALTH]}},
    "configuration": {
        "root_module": {
            "resources": [
                {
                    "address": "google_cloud_scheduler_job.job",
                    "expressions": {"retry_config": [{name: {} for name in _WAITS}]},
                },
                {
                    "address": "google_cloud_scheduler_job.health",
                    "expressions": {"retry_config": [{"retry_count": {"constant_value": 0}}]},
                },
            ]
        }
    },
}

Values = dict[str, Any]


def changed(change: Callable[[Values], object]) -> dict[str, Any]:
    """The plan with its first job's values changed."""
    plan = copy.deepcopy(_PLAN)
    change(plan["planned_values"]["root_module"]["resources"][1]["values"])
    return plan


def of_target(**fields: Any) -> Callable[[Values], object]:
    return lambda values: values["http_target"][0].update(fields)


def test_the_jobs_of_a_plan() -> None:
    own, health = jobs_of_plan(_PLAN)
    assert own == ScheduledJob(
        name="projects/bytereview-test/locations/europe-west1/jobs/period-reset",
        function="period-reset",
        address=URI,
        schedule="30 0 * * *",
        description="Moves accounts",
        headers={},
        account=ACCOUNT,
        audience=URI,
        deadline=timedelta(minutes=30),
        retries=Retries(3, timedelta(0), timedelta(seconds=30), timedelta(seconds=240), 3),
        paused=True,
    )
    assert health == ScheduledJob(
        name="projects/bytereview-test/locations/europe-west1/jobs/maintenance-health",
        function="period-reset",
        address=URI,
        path="/health?deep=1",
        method="GET",
        schedule="*/5 * * * *",
        time_zone="UTC",
        headers={"X-Own": "1"},
        account=ACCOUNT,
        audience=f"{URI}/health?deep=1",
        deadline=timedelta(seconds=60),
    )
    assert (own.id, health.id) == ("period-reset", "maintenance-health")


def test_jobs_of_modules_are_found_and_a_body_is_decoded() -> None:
    plan = changed(of_target(body="e30="))
    root = plan["planned_values"]["root_module"]
    plan["planned_values"]["root_module"] = {"child_modules": [{"address": "module.a[0]", **root}]}
    for each in root["resources"]:
        each["address"] = f"module.a[0].{each['address']}"
    plan["configuration"]["root_module"] = {"module_calls": {"a": {"module": _PLAN["configuration"]["root_module"]}}}
    own, health = jobs_of_plan(plan)
    assert own.body == b"{}"
    assert health.retries == Retries()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.update(time_zone="Europe/Berlin"), "Europe/Berlin is not UTC"),
        (lambda values: values.update(schedule="every 5 minutes"), "not five fields"),
        (lambda values: values.update(schedule="0 0 L * *"), "not five fields"),
        (lambda values: values.update(schedule="0 0 * * * *"), "not five fields"),
        (lambda values: values.update(schedule="61 * * * *"), "cannot be"),
        (lambda values: values.update(attempt_deadline="half an hour"), "is no duration"),
        (lambda values: values.update(attempt_deadline="1801s"), "not from 15 s to 30 min"),
        (lambda values: values.update(project=None), "project is not known"),
        (lambda values: values.update(pubsub_target=[{}], http_target=[]), "not HTTP"),
        (lambda values: values["retry_config"][0].update(retry_count=6), "not from 0 to 5"),
        (lambda values: values["retry_config"][0].update(min_backoff_duration="soon"), "is no duration"),
        (of_target(uri=None), "is not known. Make the plan after an apply"),
        (of_target(uri="https://elsewhere.test"), "not the address of one function"),
        (of_target(uri=f"{URI}.evil.test"), "not the address of one function"),
        (of_target(oauth_token=[{}]), "OAuth"),
        (of_target(http_method="TRACE"), "TRACE"),
        (of_target(http_method="GET", body="e30="), "takes no body"),
    ],
)
def test_what_would_be_played_wrongly_is_refused(change: Callable[[Values], object], said: str) -> None:
    with pytest.raises(PlanError, match=said) as raised:
        jobs_of_plan(changed(change))
    assert 'google_cloud_scheduler_job.job["period_reset"]' in str(raised.value)


def test_two_jobs_of_one_name_are_refused() -> None:
    plan = changed(lambda values: values.update(name="maintenance-health", region="europe-west2"))
    with pytest.raises(PlanError, match="two jobs of one name"):
        jobs_of_plan(plan)


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(PlanError, match="terraform show -json"):
        jobs_of_plan({"values": {}})


def test_durations() -> None:
    assert read_duration("0.5s") == timedelta(milliseconds=500)
    for wrong in ("5", "5m", "-5s", "1e3s", ""):
        with pytest.raises(ValueError, match="is no duration"):
            read_duration(wrong)
