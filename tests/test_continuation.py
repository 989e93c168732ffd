"""A firing that does not fit into one run: its next step is queued on Cloud Tasks, once; the last one completes it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from google.cloud import tasks_v2

from devstack.serving import Answer, Served, fire
from shared.cloud_tasks import CloudTasks
from shared.continuation import task_name
from shared.continuation_settings import ContinuationSettings, continuation_settings
from shared.errors import BadRequest, Misconfigured, Unavailable
from shared.invocation import LARGEST_STEP, parse_task
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.serving import request
from tests.support.tasks import QUEUE, tasks_emulator
from tests.support.wait import until

SLOT = datetime(2026, 5, 15, 0, 30, tzinfo=UTC)
ATTEMPTS = "SELECT step, trigger, status FROM maintenance.runs ORDER BY id"
# The shortest there is: a run stops 60 s before, so after one second.
SHORT = {"JOB_TIMEOUT_SECONDS": "61"}


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
            assert taking.names[0].endswith("-period-reset-1778805000-0-1")
            taking.refuse = grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(Misconfigured, match=r"roles/cloudtasks\.enqueuer"):
                queue.queue("another", "http://127.0.0.1:1/", {})
            taking.refuse = grpc.StatusCode.UNAVAILABLE
            with pytest.raises(Unavailable):
                queue.queue("another", "http://127.0.0.1:1/", {})
        finally:
            queue.close()


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


def test_after_the_last_step_nothing_is_queued_and_somebody_is_told(installation: Installation, tasks: str) -> None:
    served = installation.serve(CONTINUATION_QUEUE=QUEUE, CLOUD_TASKS_EMULATOR_HOST=tasks)
    with installation.locked():
        answer = task(served, step=LARGEST_STEP)
    assert answer == (503, "incomplete")
    (line,) = [line for line in served.log_lines() if line["event"] == "steps"]
    assert (line["severity"], line["job"]) == ("ERROR", "period_reset")


# ---- what a task may say


def task(served: Served, **fields: object) -> tuple[int, object]:
    """Deliver a step as Cloud Tasks does."""
    body = {"slot": "2026-05-15T00:30:00Z", "step": 1, "shard": 0, **fields}
    headers = {"X-CloudTasks-TaskName": "x", "Content-Type": "application/json"}
    answer = request(served, "POST", body=json.dumps(body).encode(), headers=headers)
    return answer.status, answer.fields["status"]


def test_only_a_delivery_of_cloud_tasks_may_name_a_step(installation: Installation) -> None:
    served = installation.serve()
    answer = request(served, "POST", body=b'{"slot": "2026-05-15T00:30:00Z", "step": 1, "shard": 0}')
    assert (answer.status, answer.fields["field"]) == (400, "slot")
    assert task(served) == (200, "completed")
    assert task(served) == (200, "replayed")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"slot": None}, "slot"),
        ({"slot": "soon"}, "slot"),
        ({"slot": "2026-05-15T12:05:01Z"}, "slot"),
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


# ---- where the next step is sent


@pytest.mark.parametrize(
    "host", ["period-reset-ab12cd34ef-ew.a.run.app", "period-reset-123456789012.europe-west1.run.app"]
)
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


class Taking:
    """Cloud Tasks' CreateTask alone, with what the emulator does not do: a name is taken once, and errors."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.refuse: grpc.StatusCode | None = None
        self._server = grpc.server(ThreadPoolExecutor(1))
        create = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=tasks_v2.CreateTaskRequest.deserialize,
            response_serializer=tasks_v2.Task.serialize,
        )
        handler = grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", {"CreateTask": create})
        self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> "Taking":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _create(self, request: tasks_v2.CreateTaskRequest, context: grpc.ServicerContext) -> tasks_v2.Task:
        if self.refuse is not None:
            context.abort(self.refuse, "as the test says")
        if request.task.name in self.names:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists")
        self.names.append(request.task.name)
        return request.task
