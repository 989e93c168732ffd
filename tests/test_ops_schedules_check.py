"""`ops schedules check`: whether what is deployed in Cloud Scheduler is what is declared."""

import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from devstack.scheduler_jobs import jobs_of_plan
from devstack.serving import REPOSITORY
from devstack.terraform_plan import installation_plan, why_absent
from ops import declared_schedules
from ops.shell import NO
from tests.support.cloud_scheduler import (
    Cloud,
    address_of,
    changed,
    cloud_of,
    declared,
    make,
)

TERRAFORM = Path(REPOSITORY) / "infra" / "terraform"


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with cloud_of(declared()) as running:
        yield running


def test_what_is_deployed_as_declared_has_no_differences(cloud: Cloud) -> None:
    done = cloud.run("check")
    assert (done.exit_code, done.stdout) == (0, "All 7 schedules are deployed as declared.\n")
    assert json.loads(cloud.run("check", "--json").stdout) == []


def retries(**fields: Any) -> dict[str, Any]:
    (job,) = (job for job in declared() if job.id == "stripe-reconcile")
    return {"retries": dataclasses.replace(job.retries, **fields)}


OTHER = address_of("period-reset")
OLD = "https://europe-west1-bytereview-test.cloudfunctions.net/stripe-reconcile"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"schedule": "15 * * * *"}, "the schedule is 15 * * * *, and should be 15 */2 * * *."),
        ({"time_zone": "Europe/Berlin"}, "the time zone is Europe/Berlin, and should be Etc/UTC."),
        ({"deadline": timedelta(minutes=3)}, "the deadline is 180 s, and should be 1800 s."),
        (retries(count=0), "the number of retries is 0, and should be 2."),
        (retries(duration=timedelta(hours=1)), "the limit of retrying is 3600 s, and should be 0 s."),
        (retries(first_wait=timedelta(seconds=5)), "the wait before the first retry is 5 s, and should be 30 s."),
        (retries(longest_wait=timedelta(hours=1)), "the longest wait before a retry is 3600 s, and should be 240 s."),
        (retries(doublings=5), "the number of doublings is 5, and should be 3."),
        ({"paused": True}, "the state is PAUSED, and should be ENABLED."),
        ({"method": "GET"}, "the method is GET, and should be POST."),
        (
            {"address": OTHER, "audience": OTHER},
            "the function that it calls is period-reset, and should be stripe-reconcile.",
        ),
        (
            {"address": OLD, "audience": OLD},
            f"the function that it calls is {OLD}, and should be stripe-reconcile.",
        ),
        ({"path": "/x"}, None),
        (
            {"account": None},
            "the token's audience is missing: it sends no token, and should be the function's address.",
        ),
        ({"audience": OTHER}, f"the token's audience is {OTHER}, and should be the function's address."),
        ({"body": b'{"dry_run": true}'}, "the body is not empty, and should be empty."),
    ],
)
def test_each_difference_is_a_line(fields: dict[str, Any], sentence: str | None) -> None:
    with cloud_of(changed("stripe-reconcile", **fields)) as cloud:
        done = cloud.run("check")
    assert (done.exit_code, done.stderr) == (NO, "")
    if sentence:
        assert done.stdout == f"stripe-reconcile: {sentence}\n"
    else:
        assert "stripe-reconcile: the function that it calls is https://" in done.stdout


def test_the_other_form_of_a_functions_address_is_as_good() -> None:
    numbered = "https://stripe-reconcile-123456789012.europe-west1.run.app"
    with cloud_of(changed("stripe-reconcile", address=numbered, audience=numbered)) as cloud:
        assert cloud.run("check").exit_code == 0


def test_all_differences_are_told_at_once() -> None:
    """Of the health check too; a schedule that is missing, and one that nothing declares."""
    jobs = [
        job for job in changed("maintenance-health", method="POST", schedule="0 * * * *") if job.id != "opt-out-cleanup"
    ]
    with cloud_of([*jobs, make("nightly-backup", schedule="0 1 * * *")]) as cloud:
        lines = cloud.run("check").stdout.splitlines()
        assert lines == [
            "maintenance-health: the schedule is 0 * * * *, and should be */5 * * * *.",
            "maintenance-health: the method is POST, and should be GET.",
            "nightly-backup: it is deployed, and nothing declares it.",
            "opt-out-cleanup: it is not deployed.",
        ]
        told = cloud.run("check", "--ignore", "nightly-backup", "--json")
    assert (told.exit_code, json.loads(told.stdout)[1:]) == (
        NO,
        [
            {"schedule": "maintenance-health", "what": "the method", "deployed": "POST", "declared": "GET"},
            {"schedule": "opt-out-cleanup", "what": "schedule", "deployed": None, "declared": "deployed"},
        ],
    )


def test_terraforms_figures_are_those_that_are_declared() -> None:
    jobs, scheduler = (TERRAFORM / "jobs.tf").read_text(), (TERRAFORM / "scheduler.tf").read_text()
    figures = dict(re.findall(r"^  (\w+_(?:seconds|doublings)) +=\s+(\d+)$", jobs, re.MULTILINE))
    assert figures == {
        "answer_seconds": str(declared_schedules.ANSWER_SECONDS),
        "backoff_first_seconds": str(declared_schedules.FIRST_WAIT),
        "backoff_longest_seconds": str(declared_schedules.LONGEST_WAIT),
        "backoff_doublings": str(declared_schedules.DOUBLINGS),
    }
    health = scheduler.partition('"google_cloud_scheduler_job" "health"')[2]
    assert f'"{declared_schedules.HEALTH_SCHEDULE}"' in health
    assert f'"{declared_schedules.HEALTH_CRON}"' in health
    assert f'"{declared_schedules.HEALTH_DEADLINE}s"' in health


@pytest.mark.slow
@pytest.mark.skipif(why_absent() is not None, reason=why_absent() or "")
@pytest.mark.timeout(300)
def test_what_terraform_deploys_passes_the_check() -> None:
    """With addresses as Google gives them, which a plan made offline cannot know."""
    jobs = [
        dataclasses.replace(job, address=address_of(job.function), audience=address_of(job.function))
        for job in jobs_of_plan(installation_plan())
    ]
    place = jobs[0].name.split("/")
    with cloud_of(jobs) as cloud:
        done = cloud.run("check", "--project", place[1], "--region", place[3])
    assert (done.stdout, done.exit_code) == ("All 7 schedules are deployed as declared.\n", 0)
