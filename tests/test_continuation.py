"""A firing that does not fit into one run: its next step is queued on Cloud Tasks, once; the last one completes it."""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import google.auth
import grpc  # type: ignore[import-untyped]
import pytest
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from devstack.serving import Answer, Served, fire
from functions.registry import JOBS
from shared.clock import SystemClock, format_rfc3339
from shared.cloud_tasks import CloudTasks
from shared.continuation import task_name
from shared.continuation_settings import ContinuationSettings, continuation_settings
from shared.errors import BadRequest, Misconfigured, Unavailable
from shared.invocation import LARGEST_STEP, Invocation, parse_task
from shared.runner import run_job
from shared.services import Services
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.serving import RawAnswer, request
from tests.support.tasks import QUEUE, Taking, tasks_emulator
from tests.support.wait import until
from tests.test_http_contract import problems

# A short while ago: functions are served on the machine's clock here.
SLOT = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
HOST = "period-reset-ab12cd34ef-ew.a.run.app"
ACCOUNT = "period-reset@bytereview-test.iam.gserviceaccount.com"
ATTEMPTS = "SELECT step, trigger, status FROM maintenance.runs ORDER BY id"
# The shortest there is: a run stops 60 s before, so after one second.
SHORT = {"JOB_TIMEOUT_SECONDS": "61"}
# Time enough to find out that an account stays locked.
LONG = {"JOB_TIMEOUT_SECONDS": "600"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a queue."""
    with tasks_emulator(tmp_path_factory.mktemp("tasks") / "log") as address:
        yield address


class Installation:
    """period_reset on its own clock, with a queue, and an account that is due."""

    def __init__(self, cleanup: ExitStack, folder: Path, environ: dict[str, str], database: TestDatabase) -> None:
        self._cleanup = cleanup
        self._folder = folder
        self._environ = {**environ, **SHORT}
        self.database = database
        database.account("ann", "free")

    def serve(self, name: str = "one", **settings: str) -> Served:
        served = Served("period_reset", {**self._environ, **settings}, log=self._folder / f"{name}.log")
        return self._cleanup.enter_context(served)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While the account is locked by another session, so that a run ends with work left."""
        with self.database.engine.begin() as held:
            held.exec_driver_sql("SELECT FROM billing_accounts FOR UPDATE")
            yield

    def attempts(self) -> list[tuple[int, str, str]]:
        return [(row["step"], row["trigger"], row["status"]) for row in self.database.rows(ATTEMPTS)]


@pytest.fixture
def installation(tmp_path: Path, environ: dict[str, str], database: TestDatabase) -> Iterator[Installation]:
    with ExitStack() as cleanup:
        yield Installation(cleanup, tmp_path, environ, database)


def fired(served: Served) -> Answer:
    return fire(served.url, job="period_reset", slot=SLOT)


# ---- the whole way


def test_work_that_is_left_goes_on_in_the_next_step_and_completes_the_slot(
    installation: Installation, tasks: str
) -> None:
    served = installation.serve(CONTINUATION_QUEUE=QUEUE, CLOUD_TASKS_EMULATOR_HOST=tasks)
    with installation.locked():
        answer = fired(served)
    # Whoever fired is not to try again.
    assert (answer.status, answer.fields["status"], answer.fields["success"]) == (200, "incomplete", False)
    assert (answer.fields["continued_by"], "step 1 goes on" in answer.fields["message"]) == (1, True)
    until(lambda: installation.attempts()[-1][2] == "completed", "the last step has completed")
    attempts = installation.attempts()
    assert (attempts[0], attempts[-1][1]) == ((0, "schedule", "incomplete"), "task")
    assert [step for step, _, _ in attempts] == list(range(len(attempts)))
    again = fired(served)
    assert (again.status, again.fields["status"], again.fields["updated_count"]) == (200, "replayed", 1)


def test_a_step_is_queued_once_however_often_its_run_is_delivered() -> None:
    # The emulator takes a name twice.
    with Taking() as taking:
        queue = CloudTasks(QUEUE, taking.address)
        try:
            for step in (1, 1, 2, 1):
                queue.queue(task_name("period_reset", SLOT, 0, step), "http://127.0.0.1:1/", {"step": step})
            assert [name.rpartition("-")[2] for name in taking.names] == ["1", "2"]
            assert taking.names[0].startswith(f"{QUEUE}/tasks/")
            assert taking.names[0].endswith(f"-period-reset-{int(SLOT.timestamp())}-0-1")
            taking.refuse = grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(Misconfigured, match=r"roles/cloudtasks\.enqueuer"):
                queue.queue("another", "http://127.0.0.1:1/", {})
            taking.refuse = grpc.StatusCode.UNAVAILABLE
            with pytest.raises(Unavailable):
                queue.queue("another", "http://127.0.0.1:1/", {})
        finally:
            queue.close()


def test_rows_that_stay_locked_are_tried_again_with_waits_and_burn_no_step(installation: Installation) -> None:
    with Taking() as taking:
        served = installation.serve(CONTINUATION_QUEUE=QUEUE, CLOUD_TASKS_EMULATOR_HOST=taking.address, **LONG)
        with installation.locked():
            answer = fired(served)
            assert (answer.status, answer.fields["status"]) == (503, "incomplete")
            # Cloud Tasks delivers the same step again, also the last one.
            assert task(served, step=LARGEST_STEP) == (503, "incomplete")
        assert taking.names == []
        assert [line for line in served.log_lines() if line["event"] == "steps"] == []
    assert [step for step, _, _ in installation.attempts()] == [0, LARGEST_STEP]


def test_without_a_queue_whoever_fired_tries_again(installation: Installation) -> None:
    served = installation.serve()
    with installation.locked():
        answer = fired(served)
    assert (answer.status, answer.fields["status"], "continued_by" in answer.fields) == (503, "incomplete", False)


def test_where_the_queue_does_not_answer_whoever_fired_tries_again(installation: Installation) -> None:
    served = installation.serve(CONTINUATION_QUEUE=QUEUE, CLOUD_TASKS_EMULATOR_HOST="127.0.0.1:1")
    with installation.locked():
        answer = fired(served)
    assert (answer.status, answer.fields["status"]) == (503, "incomplete")
    lines = [line for line in served.log_lines() if line["event"] == "degraded"]
    assert ["could not be queued" in line["message"] for line in lines] == [True]


def test_a_run_by_hand_is_not_continued(installation: Installation, tasks: str) -> None:
    served = installation.serve(CONTINUATION_QUEUE=QUEUE, CLOUD_TASKS_EMULATOR_HOST=tasks)
    with installation.locked():
        answer = fire(served.url, job="period_reset", slot=None)
    assert (answer.status, "continued_by" in answer.fields) == (503, False)


def test_after_the_last_step_nothing_is_queued_or_tried_again_and_somebody_is_told(installation: Installation) -> None:
    with Taking() as taking:
        served = installation.serve(CONTINUATION_QUEUE=QUEUE, CLOUD_TASKS_EMULATOR_HOST=taking.address)
        with installation.locked():
            before, last = (delivered(served, step=step) for step in (LARGEST_STEP - 1, LARGEST_STEP))
        assert [name.rpartition("-")[2] for name in taking.names] == [str(LARGEST_STEP)]
    for answer in (before, last):
        assert (answer.status, answer.fields["status"], answer.fields["success"]) == (200, "incomplete", False)
        assert problems(answer, "POST") == []
    assert (before.fields["continued_by"], "last_step" in before.fields) == (LARGEST_STEP, False)
    assert (last.fields["last_step"], "continued_by" in last.fields) == (LARGEST_STEP, False)
    assert "it was the last step" in last.fields["message"]
    (line,) = [line for line in served.log_lines() if line["event"] == "steps"]
    assert (line["severity"], line["job"]) == ("ERROR", "period_reset")


def test_whatever_breaks_while_a_step_is_queued_the_runs_line_is_logged(
    installation: Installation, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("s3cret")

    monkeypatch.setattr(google.auth, "default", broken)
    settings = {**environ, **SHORT, "CONTINUATION_QUEUE": QUEUE, "K_SERVICE": "period-reset"}
    told = io.StringIO()
    with closing(Services(settings, SystemClock(), told)) as services, installation.locked():
        outcome = run_job(services, JOBS["period_reset"], Invocation("schedule", SLOT, host=HOST))
    assert (outcome.status.value, "continued_by" in outcome.details) == ("incomplete", False)
    lines = [json.loads(line) for line in told.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["start", "degraded", "finish"]
    assert lines[1]["message"].endswith("could not be queued: RuntimeError")


def test_where_nothing_is_left_nothing_is_said_of_a_next_step(environ: dict[str, str]) -> None:
    settings = {**environ, "MAX_CONCURRENT_JOBS": "none"}
    told = io.StringIO()
    with closing(Services(settings, SystemClock(), told)) as services:
        outcome = run_job(services, JOBS["period_reset"], Invocation("schedule", SLOT, host=HOST))
    assert outcome.status.value == "misconfigured"
    assert [json.loads(line)["event"] for line in told.getvalue().splitlines()] == ["answer"]


# ---- what a task may say


def delivered(served: Served, **fields: object) -> RawAnswer:
    """Deliver a step as Cloud Tasks does."""
    body = {"slot": format_rfc3339(SLOT), "step": 1, "shard": 0, **fields}
    headers = {"X-CloudTasks-TaskName": "x", "Content-Type": "application/json"}
    return request(served, "POST", body=json.dumps(body).encode(), headers=headers)


def task(served: Served, **fields: object) -> tuple[int, object]:
    answer = delivered(served, **fields)
    return answer.status, answer.fields["status"]


def test_a_step_without_the_header_of_a_delivery_is_an_unknown_field(installation: Installation) -> None:
    # The header says what the body is, and proves nothing: who may call at all is Cloud Run's to know.
    served = installation.serve()
    answer = request(served, "POST", body=json.dumps({"slot": format_rfc3339(SLOT), "step": 1, "shard": 0}).encode())
    assert (answer.status, answer.fields["field"]) == (400, "slot")
    assert task(served) == (200, "completed")
    assert task(served) == (200, "replayed")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"slot": None}, "slot"),
        ({"slot": "soon"}, "slot"),
        ({"slot": "2026-05-15T12:05:01Z"}, "slot"),
        ({"slot": "2026-05-13T23:59:59Z"}, "slot"),
        ({"step": 0}, "step"),
        ({"step": True}, "step"),
        ({"step": LARGEST_STEP + 1}, "step"),
        ({"shard": 1}, "shard"),
        ({"dry_run": True}, "dry_run"),
    ],
)
def test_a_task_that_says_something_else_is_refused_by_name(changes: dict[str, object], field: str) -> None:
    body = {"slot": "2026-05-15T00:30:00Z", "step": 1, "shard": 0, **changes}
    with pytest.raises(BadRequest) as refused:
        parse_task(json.dumps(body).encode(), NOON)
    assert refused.value.field == field
    with pytest.raises(BadRequest):
        parse_task(b"{}", NOON)


def test_a_step_of_yesterdays_firing_is_taken() -> None:
    body = {"slot": "2026-05-14T00:00:00Z", "step": LARGEST_STEP, "shard": 0}
    assert parse_task(json.dumps(body).encode(), NOON) == Invocation("task", NOON - timedelta(hours=36), step=48)


# ---- where the next step is sent


@pytest.mark.parametrize("host", [HOST, "period-reset-123456789012.europe-west1.run.app"])
def test_the_next_step_is_sent_to_the_functions_own_address(host: str) -> None:
    assert ContinuationSettings(QUEUE, "period-reset", None).own_url(host) == f"https://{host}/"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "period-reset-ab12cd34ef-ew.a.run.app.evil.example.com",
        "opt-out-cleanup-ab12cd34ef-ew.a.run.app",
        "period-reset.run.app",
        "period-reset-ab12cd34ef-ew.a.run.app:8080@evil",
        "localhost:8080",
        "",
    ],
)
def test_no_token_is_sent_to_anybody_elses_address(host: str) -> None:
    with pytest.raises(Misconfigured):
        ContinuationSettings(QUEUE, "period-reset", "127.0.0.1:1").own_url(host)
    if not host.startswith("localhost"):
        with pytest.raises(Misconfigured):
            ContinuationSettings(QUEUE, None, "127.0.0.1:1").own_url(host)
    with pytest.raises(Misconfigured):
        ContinuationSettings(QUEUE, None, None).own_url(host)


def test_the_settings_are_checked() -> None:
    assert continuation_settings({}) is None
    found = continuation_settings({"CONTINUATION_QUEUE": f" {QUEUE} ", "K_SERVICE": "period-reset"})
    assert found == ContinuationSettings(QUEUE, "period-reset", None)
    with pytest.raises(Misconfigured, match="projects/PROJECT"):
        continuation_settings({"CONTINUATION_QUEUE": "maintenance"})


def test_a_queue_that_does_not_answer_is_told() -> None:
    down = CloudTasks(QUEUE, "127.0.0.1:1")
    try:
        with pytest.raises(Unavailable):
            down.queue("a", "http://127.0.0.1:1/", {})
    finally:
        down.close()


# ---- what is asked of Cloud Tasks


class CloudRun(Credentials):
    """Google's login as it is on Cloud Run: the account has its name once a token was asked for."""

    def __init__(self, *, serves: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Google's
        self.service_account_email = "default"
        self._serves = serves

    def refresh(self, request: object) -> None:
        del request
        if not self._serves:
            raise RefreshError("the metadata server is away")  # type: ignore[no-untyped-call]  # Google's
        self.service_account_email, self.token = ACCOUNT, "a token"


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Taking]:
    """Cloud Tasks' own address leads to it."""
    with Taking() as taking:

        def channel(host: str, credentials: object, **_: object) -> grpc.Channel:
            assert (host, type(credentials)) == ("cloudtasks.googleapis.com:443", CloudRun)
            return grpc.insecure_channel(taking.address)

        monkeypatch.setattr(CloudTasksGrpcTransport, "create_channel", channel)
        yield taking


def test_a_step_is_a_post_with_the_functions_own_token_for_its_own_address_alone(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google.auth, "default", lambda: (CloudRun(), "bytereview-test"))
    with closing(CloudTasks(QUEUE)) as queue:
        queue.queue("a", f"https://{HOST}/", {"slot": "2026-05-15T00:30:00Z", "step": 1, "shard": 0})
    (asked,) = taking.requests
    assert asked.parent == QUEUE
    assert asked.task.name == f"{QUEUE}/tasks/a"
    # The longest that Cloud Tasks waits for an answer; its own default is ten minutes.
    assert asked.task.dispatch_deadline == timedelta(minutes=30)
    sent = asked.task.http_request
    assert (sent.http_method, sent.url) == (tasks_v2.HttpMethod.POST, f"https://{HOST}/")
    assert dict(sent.headers) == {"Content-Type": "application/json"}
    assert parse_task(sent.body, NOON) == Invocation("task", datetime(2026, 5, 15, 0, 30, tzinfo=UTC), step=1)
    assert (sent.oidc_token.service_account_email, sent.oidc_token.audience) == (ACCOUNT, f"https://{HOST}/")
    assert not sent.oauth_token.service_account_email


def test_without_googles_login_nothing_is_queued(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda: (CloudRun(serves=False), "bytereview-test"))
    with closing(CloudTasks(QUEUE)) as queue, pytest.raises(Unavailable, match="login"):
        queue.queue("a", f"https://{HOST}/", {})
    assert taking.requests == []
