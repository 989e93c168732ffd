"""Google's own client lists, runs, pauses and resumes the jobs of the Cloud Scheduler stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.scheduler_v1 import CloudSchedulerClient, HttpMethod, Job, ListJobsRequest
from google.cloud.scheduler_v1.services.cloud_scheduler.transports import CloudSchedulerRestTransport

from devstack.scheduler import Scheduler
from devstack.scheduler_api import SchedulerApi
from devstack.scheduler_ledger import Outcome
from tests.support.clock import NOON, ManualClock
from tests.support.scheduler import LOCATION, Function, make_job
from tests.support.wait import until

ONE = datetime(2026, 5, 16, 1, 0, tzinfo=UTC)
NIGHTLY = f"{LOCATION}/jobs/nightly"
DAY = timedelta(days=1)


@pytest.fixture
def function(clock: ManualClock) -> Iterator[Function]:
    with Function(clock) as serving:
        yield serving


@pytest.fixture
def scheduler(function: Function) -> Scheduler:
    jobs = (
        make_job("nightly", account="a@b", audience="https://nightly.test", body=b"{}", headers={"X-Own": "1"}),
        make_job("hourly", "0 * * * *", description="Every hour", method="GET", path="/health"),
        make_job("idle", paused=True),
    )
    return Scheduler(jobs, {job.function: function.url for job in jobs}, function.clock)


@pytest.fixture
def api(scheduler: Scheduler) -> Iterator[SchedulerApi]:
    with SchedulerApi(scheduler) as serving:
        yield serving


@pytest.fixture
def client(api: SchedulerApi) -> Iterator[CloudSchedulerClient]:
    transport = CloudSchedulerRestTransport(
        host=api.url.removeprefix("http://"),
        url_scheme="http",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
    )
    with CloudSchedulerClient(transport=transport) as made:
        yield made


def test_a_job_is_shown_with_all_that_the_plan_says(client: CloudSchedulerClient) -> None:
    job = client.get_job(name=NIGHTLY)
    assert (job.name, job.schedule, job.time_zone, job.state) == (NIGHTLY, "0 1 * * *", "Etc/UTC", Job.State.ENABLED)
    assert (job.schedule_time, job.user_update_time) == (ONE, NOON)
    assert job.attempt_deadline == timedelta(minutes=3)
    assert job.retry_config.retry_count == 2
    assert job.retry_config.min_backoff_duration == timedelta(seconds=30)
    assert job.retry_config.max_backoff_duration == timedelta(minutes=4)
    assert job.retry_config.max_retry_duration == timedelta(0)
    assert job.retry_config.max_doublings == 3
    assert (job.http_target.uri, job.http_target.http_method) == ("https://nightly.test", HttpMethod.POST)
    assert (job.http_target.body, dict(job.http_target.headers)) == (b"{}", {"X-Own": "1"})
    token = job.http_target.oidc_token
    assert (token.service_account_email, token.audience) == ("a@b", "https://nightly.test")
    assert "last_attempt_time" not in job
    assert "status" not in job


def test_all_jobs_are_listed_in_pages(client: CloudSchedulerClient) -> None:
    names = [f"{LOCATION}/jobs/{job}" for job in ("nightly", "hourly", "idle")]
    assert [job.name for job in client.list_jobs(parent=LOCATION)] == names
    pages = list(client.list_jobs(ListJobsRequest(parent=LOCATION, page_size=2)).pages)
    assert [[job.name for job in page.jobs] for page in pages] == [names[:2], names[2:]]
    listed = {job.name: job for job in pages[0].jobs}[names[1]]
    assert (listed.description, listed.http_target.http_method) == ("Every hour", HttpMethod.GET)
    assert listed.http_target.uri == "https://hourly.test/health"


def test_another_location_has_no_jobs(client: CloudSchedulerClient) -> None:
    assert list(client.list_jobs(parent="projects/bytereview-test/locations/europe-west2")) == []


def test_a_run_comes_back_before_the_function_has_answered(
    client: CloudSchedulerClient, scheduler: Scheduler, function: Function
) -> None:
    function.hold()
    assert client.run_job(name=NIGHTLY).name == NIGHTLY
    until(lambda: len(function.arrived) == 1, "the request went out")
    assert function.answered == 0
    (request,) = function.arrived
    assert (request.job, request.slot, request.body) == ("nightly", "2026-05-16T01:00:00Z", b"{}")
    function.release()
    scheduler.settle()
    (firing,) = scheduler.ledger.of("nightly", forced=True)
    assert firing.outcome is Outcome.SUCCEEDED
    job = client.get_job(name=NIGHTLY)
    assert (job.last_attempt_time, job.status.code, "status" in job) == (NOON, 0, True)


def test_the_status_is_the_last_attempts_and_the_next_time_a_retrys(
    client: CloudSchedulerClient, scheduler: Scheduler, function: Function
) -> None:
    function.answers.append(503)
    client.pause_job(name=f"{LOCATION}/jobs/hourly")
    scheduler.run_until(ONE)
    job = client.get_job(name=NIGHTLY)
    assert (job.status.code, job.last_attempt_time) == (14, ONE)
    assert job.schedule_time == ONE + timedelta(seconds=30)
    scheduler.run_until(ONE + timedelta(minutes=1))
    job = client.get_job(name=NIGHTLY)
    assert (job.status.code, job.last_attempt_time) == (0, ONE + timedelta(seconds=30))
    assert job.schedule_time == ONE + DAY


def test_a_paused_job_does_not_fire_until_it_is_resumed(
    client: CloudSchedulerClient, scheduler: Scheduler, function: Function
) -> None:
    name = f"{LOCATION}/jobs/hourly"
    paused = client.pause_job(name=name)
    assert paused.state is Job.State.PAUSED
    assert "schedule_time" not in paused
    scheduler.run_until(NOON + timedelta(hours=3))
    assert function.arrived == []
    resumed = client.resume_job(name=name)
    assert (resumed.state, resumed.schedule_time) == (Job.State.ENABLED, NOON + timedelta(hours=4))
    scheduler.run_until(NOON + timedelta(hours=4))
    assert function.moments == [NOON + timedelta(hours=4)]


def test_errors_are_googles(client: CloudSchedulerClient) -> None:
    with pytest.raises(exceptions.BadRequest, match="must be ENABLED"):
        client.pause_job(name=f"{LOCATION}/jobs/idle")
    with pytest.raises(exceptions.BadRequest, match="must be PAUSED"):
        client.resume_job(name=NIGHTLY)
    for call in (client.get_job, client.run_job, client.pause_job, client.resume_job):
        with pytest.raises(exceptions.NotFound, match=f"{LOCATION}/jobs/nobody"):
            call(name=f"{LOCATION}/jobs/nobody")
    with pytest.raises(exceptions.BadRequest, match="page token"):
        client.list_jobs(ListJobsRequest(parent=LOCATION, page_token="x"))
    with pytest.raises(exceptions.MethodNotImplemented, match="The stand-in has no DELETE"):
        client.delete_job(name=NIGHTLY)


def test_an_error_is_json_as_google_writes_it(api: SchedulerApi) -> None:
    answer = requests.post(f"{api.url}/v1/{LOCATION}/jobs/idle:pause", json={}, timeout=30)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (400, "FAILED_PRECONDITION")
