"""What the service does in a transaction of its own, while a cleanup is at work."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON


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
