"""Erasing beside the live service: its transactions at every point of a run, and rows that others hold."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Connection, text

from functions.cleanup import erasing
from shared.outcome import Outcome, Status
from shared.postgres import Transaction
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON
from tests.support.database import TestDatabase
from tests.support.wait import until

# Sessions that wait for another's lock: the test's own, which play the service, and those of the job.
WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND (application_name = 'a test') = :tests"
)


class Gone(Exception):
    """What the service's transaction is about is not there any more: it gives up, and tells its user so."""


class Service:
    """One transaction of the service, in words of its code. Raises Gone, or the database's error."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, sql: str, **parameters: object) -> list[dict[str, Any]]:
        result = self._connection.execute(text(sql), parameters)
        if result.rowcount == 0:
            raise Gone
        return [dict(row) for row in result.mappings()] if result.returns_rows else []

    def all(self, sql: str, **parameters: object) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(text(sql), parameters).mappings()]

    def new_run(self, job: str, step: str = "upload", status: str = "pending", source: str | None = None) -> str:
        run = str(uuid.uuid4())
        self.run(
            "INSERT INTO job_runs (id, job_id, append_from_run_id, config_step, status, last_active_at, created_at) "
            "VALUES (:id, :job, :source, :step, :status, :now, :now)",
            id=run, job=job, source=source, step=step, status=status, now=NOON,
        )  # fmt: skip
        return run

    def new_file(self, run: str) -> str:
        key = str(uuid.uuid4())
        self.run(
            "INSERT INTO source_files (id, job_run_id, original_filename, original_path, gcs_object_name, file_type, "
            "file_size_bytes, status, source_type) "
            "VALUES (:id, :run, 'b.pdf', 'b.pdf', :name, 'application/pdf', 1, 'uploaded', 'upload')",
            id=key, run=run, name=f"jobs/{run}/extracted/{key}.pdf",
        )  # fmt: skip
        return key

    def new_task(self, run: str, files: list[str]) -> None:
        task = str(uuid.uuid4())
        self.run(
            "INSERT INTO extraction_tasks (id, job_run_id, processing_mode, status) VALUES (:id, :run, 'x', 'pending')",
            id=task, run=run,
        )  # fmt: skip
        for file in files:
            self.run("INSERT INTO source_files_to_tasks (source_file_id, task_id) VALUES (:f, :t)", f=file, t=task)

    def touch(self, job: str) -> None:
        self.run("UPDATE extraction_jobs SET last_active_at = :now WHERE id = :job", now=NOON, job=job)


@dataclass
class Scene:
    """What a round is about: a job, a run that is due, its files; and what a committed transaction must find again."""

    job: str
    run: str
    files: list[str]
    later: str | None = None
    kept: list[tuple[str, str]] = field(default_factory=list)

    def keep(self, *kept: tuple[str, str]) -> None:
        self.kept += kept


Action = Callable[[Service, Scene], None]


def resume(service: Service, scene: Scene) -> None:
    service.run(
        "UPDATE job_runs SET last_active_at = :now, config_step = 'review', status = 'pending' WHERE id = :run",
        now=NOON, run=scene.run,
    )  # fmt: skip
    scene.keep(("job_runs", scene.run), *(("source_files", file) for file in scene.files))


def upload(service: Service, scene: Scene) -> None:
    service.run("UPDATE job_runs SET last_active_at = :now WHERE id = :run", now=NOON, run=scene.run)
    scene.keep(("source_files", service.new_file(scene.run)), ("job_runs", scene.run))


def submit(service: Service, scene: Scene) -> None:
    service.run(
        "UPDATE job_runs SET config_step = 'submitted', status = 'in_progress', last_active_at = :now WHERE id = :run",
        now=NOON, run=scene.run,
    )  # fmt: skip
    files = service.all("SELECT CAST(id AS text) AS id FROM source_files WHERE job_run_id = :run", run=scene.run)
    service.new_task(scene.run, [file["id"] for file in files])
    service.touch(scene.job)
    scene.keep(("job_runs", scene.run), *(("source_files", file) for file in scene.files))


def begin_a_run(service: Service, scene: Scene) -> None:
    scene.keep(("job_runs", service.new_run(scene.job)), ("extraction_jobs", scene.job))


def _append(service: Service, scene: Scene, step: str, status: str) -> None:
    run = service.new_run(scene.job, step, status, source=scene.run)
    files = service.all(
        "SELECT DISTINCT CAST(link.source_file_id AS text) AS id FROM source_files_to_tasks AS link "
        "JOIN extraction_tasks AS task ON task.id = link.task_id WHERE task.job_run_id = :run",
        run=scene.run,
    )
    service.new_task(run, [file["id"] for file in files])
    scene.keep(("job_runs", run), *(("source_files", file["id"]) for file in files))


def append_a_draft(service: Service, scene: Scene) -> None:
    _append(service, scene, "upload", "pending")


def append_and_submit(service: Service, scene: Scene) -> None:
    _append(service, scene, "submitted", "in_progress")


def create_an_automation(service: Service, scene: Scene) -> None:
    key = str(uuid.uuid4())
    service.run(
        "INSERT INTO automations (id, user_id, name, trigger_type, trigger_config, job_id, processing_mode) "
        "VALUES (:id, 'ann', 'mail', 'gmail', '{}', :job, 'x')",
        id=key, job=scene.job,
    )  # fmt: skip
    scene.keep(("automations", key), ("extraction_jobs", scene.job))


def an_automation_fires(service: Service, scene: Scene) -> None:
    """It takes the latest run where that is a pending draft, and otherwise makes one with the same fields."""
    automations = service.all("SELECT CAST(id AS text) AS id FROM automations WHERE job_id = :job", job=scene.job)
    (latest,) = service.all(
        "SELECT CAST(id AS text) AS id, config_step, status FROM job_runs WHERE job_id = :job "
        "ORDER BY created_at DESC LIMIT 1",
        job=scene.job,
    )
    run = latest["id"]
    if (latest["config_step"] == "submitted") or latest["status"] != "pending":
        run = service.new_run(scene.job)
        service.run(
            "INSERT INTO job_fields (job_run_id, field_name, data_type_id, ai_prompt, display_order) "
            "SELECT CAST(:run AS uuid), field_name, data_type_id, ai_prompt, display_order FROM job_fields "
            "WHERE job_run_id = :latest",
            run=run, latest=latest["id"],
        )  # fmt: skip
    firing = str(uuid.uuid4())
    service.run(
        "INSERT INTO automation_runs (id, automation_id, job_run_id, status) "
        "VALUES (:id, :automation, :run, 'running')",
        id=firing, automation=automations[0]["id"], run=run,
    )  # fmt: skip
    scene.keep(("automation_runs", firing), ("job_runs", run), ("source_files", service.new_file(run)))


def delete_the_job(service: Service, scene: Scene) -> None:
    service.run("DELETE FROM extraction_jobs WHERE id = :job", job=scene.job)


def delete_the_run_that_gets_the_file(service: Service, scene: Scene) -> None:
    service.run("DELETE FROM job_runs WHERE id = :run", run=scene.later)


def use_the_task(service: Service, scene: Scene) -> None:
    """Bill a page of the task that is about to go: the event must outlive it."""
    task = service.all("SELECT CAST(id AS text) AS id FROM extraction_tasks WHERE job_run_id = :run", run=scene.run)
    event = str(uuid.uuid4())
    service.run(
        "INSERT INTO usage_events (id, user_id, source, task_id, pages) VALUES (:id, 'ann', 'x', :task, 1)",
        id=event, task=task[0]["id"] if task else str(uuid.uuid4()),
    )  # fmt: skip
    scene.keep(("usage_events", event))


def a_draft(world: CleanupWorld) -> Scene:
    job = world.job()
    run = world.draft(job)
    return Scene(job, run, [world.file(run), world.file(run)])


def a_draft_behind_an_automation(world: CleanupWorld) -> Scene:
    """An older draft goes; the latest run is the automation's."""
    scene = a_draft(world)
    world.draft(scene.job, age=50)
    world.automation(scene.job)
    return scene


def a_draft_that_an_automation_filled(world: CleanupWorld) -> Scene:
    """The automation is there and the draft is its latest run: nothing is due until a newer one comes."""
    scene = a_draft(world)
    world.automation(scene.job)
    return scene


def an_ended_run(world: CleanupWorld) -> Scene:
    job = world.job()
    run = world.submitted(job, persist_data=False)
    files = [world.file(run), world.file(run)]
    world.task(run, *files)
    return Scene(job, run, files)


def an_ended_run_of_an_automation(world: CleanupWorld) -> Scene:
    scene = an_ended_run(world)
    world.automation(scene.job)
    return scene


def an_ended_run_with_a_later_one(world: CleanupWorld) -> Scene:
    scene = an_ended_run(world)
    scene.later = world.appended(scene.run, age=20)
    return scene


def an_ended_run_with_a_draft(world: CleanupWorld) -> Scene:
    scene = an_ended_run(world)
    scene.later = world.appended(scene.run, age=20, draft=True)
    return scene


def an_ended_run_with_a_draft_that_is_bare(world: CleanupWorld) -> Scene:
    scene = an_ended_run(world)
    scene.later = world.draft(scene.job, age=20, append_from_run_id=scene.run)
    return scene


def copy_what_it_is_appended_to(service: Service, scene: Scene) -> None:
    """The links come in a transaction of their own, which touches neither the job nor the older run."""
    assert scene.later is not None
    service.new_task(scene.later, scene.files)
    scene.keep(*(("source_files", file) for file in scene.files))


def submit_the_later_one(service: Service, scene: Scene) -> None:
    service.run(
        "UPDATE job_runs SET config_step = 'submitted', status = 'in_progress' WHERE id = :run", run=scene.later
    )
    assert scene.later is not None
    scene.keep(("job_runs", scene.later), *(("source_files", file) for file in scene.files))


CASES: list[tuple[str, Callable[[CleanupWorld], Scene], Action]] = [
    ("abandoned_cleanup", a_draft, resume),
    ("abandoned_cleanup", a_draft, upload),
    ("abandoned_cleanup", a_draft, submit),
    ("abandoned_cleanup", a_draft, begin_a_run),
    ("abandoned_cleanup", a_draft, append_a_draft),
    ("abandoned_cleanup", a_draft, create_an_automation),
    ("abandoned_cleanup", a_draft, delete_the_job),
    ("abandoned_cleanup", a_draft_behind_an_automation, an_automation_fires),
    ("abandoned_cleanup", a_draft_that_an_automation_filled, an_automation_fires),
    ("opt_out_cleanup", an_ended_run, append_a_draft),
    ("opt_out_cleanup", an_ended_run, append_and_submit),
    ("opt_out_cleanup", an_ended_run, create_an_automation),
    ("opt_out_cleanup", an_ended_run, use_the_task),
    ("opt_out_cleanup", an_ended_run_of_an_automation, an_automation_fires),
    ("opt_out_cleanup", an_ended_run_of_an_automation, begin_a_run),
    ("opt_out_cleanup", an_ended_run_with_a_later_one, append_a_draft),
    ("opt_out_cleanup", an_ended_run_with_a_later_one, delete_the_run_that_gets_the_file),
    ("opt_out_cleanup", an_ended_run_with_a_later_one, delete_the_job),
    ("opt_out_cleanup", an_ended_run_with_a_draft_that_is_bare, copy_what_it_is_appended_to),
    ("opt_out_cleanup", an_ended_run_with_a_draft, submit_the_later_one),
    ("opt_out_cleanup", an_ended_run_with_a_draft, delete_the_run_that_gets_the_file),
]


# What the service leaves behind when it deletes rows is artifact_cleanup's business.
LEAVING_OBJECTS = (delete_the_job, delete_the_run_that_gets_the_file)


class Intruder:
    """The service's transaction, begun at one point of a run, in a thread and a session of its own.

    It commits at once; or, `open`, when the job waits for it, and at the latest when the run is over.
    """

    def __init__(self, database: TestDatabase, action: Action, scene: Scene, *, stays_open: bool) -> None:
        self._database = database
        self._action = action
        self._scene = scene
        self._stays_open = stays_open
        self._did = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.error: Exception | None = None

    def begin(self) -> None:
        """Come back when it is done, or stands open, or waits for a lock of the job's."""
        self._thread.start()
        until(
            lambda: self._did.is_set() or self._database.value(WAITS, tests=True),
            "the service's transaction has run, or waits",
        )

    def end(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def committed(self) -> bool:
        return self.error is None

    def _work(self) -> None:
        try:
            with self._database.engine.begin() as connection:
                self._action(Service(connection), self._scene)
                if self._stays_open:
                    self._did.set()
                    until(
                        lambda: self._over.is_set() or self._database.value(WAITS, tests=False),
                        "the job waits for the service, or is over",
                        60,
                    )
        except Exception as error:  # noqa: BLE001  what it could not do is what the test asks
            self.error = error
        finally:
            self._did.set()


class Points:
    """Calls something after one of the statements of a job, counted from the first one that looks for runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._wanted = -1
        self._seen = 0
        self._thread = threading.get_ident()
        self._call: Callable[[], None] = lambda: None
        self.called = False
        original = Transaction._run

        def run(transaction: Transaction, sql: str, parameters: Any) -> Any:
            answer = original(transaction, sql, parameters)
            if threading.get_ident() == self._thread and (self._seen or "run.ctid" in sql):
                self._seen += 1
                if self._seen == self._wanted:
                    self.called = True
                    self._call()
            return answer

        monkeypatch.setattr(Transaction, "_run", run)

    def at(self, wanted: int, call: Callable[[], None]) -> None:
        """From now on count anew, and call after so many statements."""
        self._seen, self._wanted, self._call, self.called = 0, wanted, call, False


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    return Points(monkeypatch)


def check(world: CleanupWorld, scene: Scene, intruder: Intruder, outcome: Outcome, where: str) -> None:
    assert outcome.status in (Status.COMPLETED, Status.INCOMPLETE), (where, outcome)
    assert outcome.counts["failed_count"] == 0, where
    if intruder.committed:
        for table, key in scene.kept:
            assert world.has(table, key), f"{where}: a row of {table} was lost, of a transaction that had committed"
    # Either all of the run's files are there, each with its object, or none.
    mine = [file for file in scene.files if world.owner(file) is not None]
    ours = {world.object_of(file) for file in mine}
    assert ours <= world.objects(), f"{where}: a row names an object that is gone"
    assert mine in ([], scene.files), f"{where}: a part is gone"


@pytest.mark.parametrize("stays_open", [False, True], ids=["commits", "stays open"])
@pytest.mark.parametrize(
    ("job", "make", "action"), CASES, ids=[f"{make.__name__}-{action.__name__}" for _, make, action in CASES]
)
def test_the_service_comes_at_every_point_of_a_run(
    world: CleanupWorld,
    points: Points,
    job: str,
    make: Callable[[CleanupWorld], Scene],
    action: Action,
    stays_open: bool,
) -> None:
    environment = world.environment()
    point, came = 0, True
    committed = failed = 0
    while came:
        point += 1
        world.database.execute("DELETE FROM users")
        scene = make(world)
        intruder = Intruder(world.database, action, scene, stays_open=stays_open)
        points.at(point, intruder.begin)
        outcome = environment.run(job)
        came = points.called
        points.at(-1, lambda: None)
        if came:
            intruder.end()
            check(world, scene, intruder, outcome, f"after statement {point}")
            committed, failed = committed + intruder.committed, failed + (not intruder.committed)
            # What could not be done now is done by a next run, and what is not needed leaves the bucket with it.
            after = environment.run(job)
            assert after.status is Status.COMPLETED, (point, after)
            check(world, scene, intruder, after, f"after statement {point}, once more")
            if action not in LEAVING_OBJECTS:
                mine = {name for name in world.objects() if scene.run in name}
                assert mine <= world.named_objects(), f"after statement {point}: an object was forgotten"
    assert point > 8, "the points of a whole run"
    assert committed


# ---- rows that others hold


@pytest.mark.parametrize("table", ["extraction_jobs", "job_runs", "source_files"])
@pytest.mark.parametrize("job", ["abandoned_cleanup", "opt_out_cleanup"])
def test_what_another_session_holds_is_passed_by_and_the_others_go(world: CleanupWorld, table: str, job: str) -> None:
    scenes = [(a_draft if job == "abandoned_cleanup" else an_ended_run)(world) for _ in range(5)]
    held = scenes[2]
    key = {"extraction_jobs": held.job, "job_runs": held.run, "source_files": held.files[0]}[table]
    with world.database.engine.connect() as other:
        other.exec_driver_sql(f"SELECT FROM {table} WHERE id = '{key}' FOR UPDATE")
        outcome = world.run(job, slot=NOON)
        assert (outcome.status, outcome.success) == (Status.INCOMPLETE, False)
        assert (outcome.counts["jobs_cleaned"], outcome.counts["due_count"]) == (4, 1)
        assert "1 more stayed locked by other sessions" in outcome.message
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False, False, True, False, False]
    assert world.object_of(held.files[0]) in world.objects()
    again = world.run(job, slot=NOON)
    assert (again.status, again.counts["jobs_cleaned"]) == (Status.COMPLETED, 5)
    assert world.objects() == set()


def test_what_is_let_go_a_moment_later_goes_in_the_same_run(world: CleanupWorld, points: Points) -> None:
    scene = a_draft(world)
    with world.database.engine.connect() as other:
        other.exec_driver_sql(f"SELECT FROM job_runs WHERE id = '{scene.run}' FOR UPDATE")
        # Late in the run, when it has met the lock at least once.
        points.at(25, other.rollback)
        outcome = world.run("abandoned_cleanup")
        assert points.called
    assert (outcome.status, outcome.counts["jobs_cleaned"]) == (Status.COMPLETED, 1)


@pytest.mark.parametrize("lock", ["a row that the deletion changes", "a run that gets a file"])
def test_a_lock_met_later_in_the_batch_costs_one_run_alone(world: CleanupWorld, lock: str) -> None:
    """The usage event whose task goes, or the run that a file moves to: the batch is halved until it stands alone."""
    scenes = [an_ended_run(world) for _ in range(6)]
    if lock == "a run that gets a file":
        held = world.appended(scenes[4].run, age=10)
        sql = f"SELECT FROM job_runs WHERE id = '{held}' FOR UPDATE"
    else:
        task = world.database.value("SELECT id FROM extraction_tasks WHERE job_run_id = :run", run=scenes[4].run)
        held = world.usage(str(task))
        sql = f"SELECT FROM usage_events WHERE id = '{held}' FOR UPDATE"
    with world.database.engine.connect() as other:
        other.exec_driver_sql(sql)
        outcome = world.run("opt_out_cleanup")
    assert (outcome.status, outcome.counts["jobs_cleaned"]) == (Status.INCOMPLETE, 5)
    assert "stayed locked" in outcome.message
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False] * 4 + [True, False]
    assert outcome.counts["failed_count"] == 0
    assert world.run("opt_out_cleanup").counts["jobs_cleaned"] == 1


def refuse_to_delete(world: CleanupWorld, run: str) -> None:
    world.database.script(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF OLD.id = '{run}' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '23000'; END IF; "
        "RETURN OLD; END $$"
    )
    world.database.script("CREATE TRIGGER refuse BEFORE DELETE ON job_runs FOR EACH ROW EXECUTE FUNCTION refuse()")


def test_a_run_that_the_database_will_not_delete_is_counted_and_the_others_go(world: CleanupWorld) -> None:
    scenes = [a_draft(world) for _ in range(7)]
    bad = scenes[3]
    refuse_to_delete(world, bad.run)
    environment = world.environment()
    outcome = environment.run("abandoned_cleanup")
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert {key: outcome.counts[key] for key in ("jobs_cleaned", "failed_count", "due_count")} == {
        "jobs_cleaned": 6,
        "failed_count": 1,
        "due_count": 1,
    }
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False] * 3 + [True] + [False] * 3
    # Nothing of its batch stayed half done: its files, its objects, and no record that says otherwise.
    assert world.object_of(bad.files[0]) in world.objects()
    assert bad.run not in {row["erased"] for row in world.erasures()}
    (line,) = [line for line in environment.lines() if line.get("event") == "item"]
    assert (line["item"], "not this one" in line["message"]) == (bad.run, True)


def test_where_every_run_is_refused_the_run_is_no_success(world: CleanupWorld) -> None:
    scene = a_draft(world)
    refuse_to_delete(world, scene.run)
    outcome = world.run("abandoned_cleanup")
    assert (outcome.status, outcome.success, outcome.counts["failed_count"]) == (Status.COMPLETED, False, 1)


def test_a_user_who_comes_back_between_the_look_and_the_batch_keeps_everything(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "_RUNS_A_BATCH", 2)
    scenes = [a_draft(world) for _ in range(4)]
    batch = erasing.Eraser._batch

    def late(eraser: erasing.Eraser, runs: Any) -> Any:
        world.database.execute("UPDATE job_runs SET last_active_at = :now WHERE id = :run", now=NOON, run=scenes[3].run)
        return batch(eraser, runs)

    monkeypatch.setattr(erasing.Eraser, "_batch", late)
    outcome = world.run("abandoned_cleanup")
    assert [world.has("job_runs", scene.run) for scene in scenes] == [False, False, False, True]
    assert world.object_of(scenes[3].files[0]) in world.objects()
    assert (outcome.status, outcome.counts["jobs_cleaned"], outcome.counts["due_count"]) == (Status.COMPLETED, 3, 0)


def test_two_cleanups_at_once_share_the_work(world: CleanupWorld) -> None:
    """The same runs are due for both: each goes once, with one record."""
    runs = []
    for _ in range(30):
        run = world.draft(world.job(), status="cancelled", persist_data=False)
        world.file(run)
        runs.append(run)
    outcomes: list[Outcome] = []
    jobs = ("abandoned_cleanup", "opt_out_cleanup")
    threads = [threading.Thread(target=lambda job=job: outcomes.append(world.run(job))) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {outcome.status for outcome in outcomes} <= {Status.COMPLETED, Status.INCOMPLETE}
    for job in jobs:
        outcomes.append(world.run(job))
    assert sum(outcome.counts["jobs_cleaned"] for outcome in outcomes) == 30
    assert sorted(row["erased"] for row in world.erasures()) == sorted(runs)
    assert world.count("job_runs") == 0
    assert world.objects() == set()
