"""The service's jobs, runs, files and objects, made in few words, for tests of the cleanups."""

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from devstack import buckets
from devstack.gcs_front import GcsFront
from shared.outcome import Outcome
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase

DAY = timedelta(days=1)
TABLES = (
    "users", "extraction_jobs", "job_runs", "job_fields", "source_files", "extraction_tasks", "source_files_to_tasks",
    "extraction_results", "job_exports", "automations", "automation_runs", "usage_events", "usage_counters",
)  # fmt: skip


class CleanupWorld:
    """A database and a bucket with what the service puts there. Ages are in days before noon of 15 May 2026."""

    def __init__(
        self, database: TestDatabase, front: GcsFront, bucket: str, make: MakeEnvironment, clock: ManualClock
    ) -> None:
        self.database = database
        self.front = front
        self.bucket = bucket
        self.clock = clock
        self._make = make
        self._url = front.upstream
        front.default_created = NOON - 100 * DAY
        database.execute("UPDATE maintenance.identity SET bucket = :bucket", bucket=bucket)
        database.execute("INSERT INTO data_types (id, display_name) VALUES ('string', 'Text') ON CONFLICT DO NOTHING")

    def environment(self, changes: Mapping[str, str | None] | None = None) -> Environment:
        """An environment of this database and bucket, in which waiting takes no time."""
        settings = {"GCS_BUCKET_NAME": self.bucket, "STORAGE_EMULATOR_HOST": self.front.url, **(changes or {})}
        return self._make(settings, self.clock, virtual=True)

    def run(self, job: str, changes: Mapping[str, str | None] | None = None, **fields: object) -> Outcome:
        """Run a job once, by hand."""
        return self.environment(changes).run(job, **fields)  # type: ignore[arg-type]

    def add(self, table: str, **values: object) -> str:
        """Add a row; give its id."""
        key = str(values.setdefault("id", str(uuid.uuid4())))
        names = ", ".join(values)
        self.database.execute(
            f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values
        )
        return key

    def user(self, name: str = "ann") -> str:
        """A user, made if there is none of that name."""
        self.database.execute(
            "INSERT INTO users (id, email) VALUES (:id, :email) ON CONFLICT DO NOTHING", id=name, email=f"{name}@x.org"
        )
        return name

    def job(self, user: str = "ann", age: float = 100, **columns: object) -> str:
        """An extraction job, idle for so many days."""
        moment = self.ago(age)
        return self.add("extraction_jobs", user_id=self.user(user), last_active_at=moment, created_at=moment, **columns)

    def draft(self, job: str, age: float = 100, **columns: object) -> str:
        """A run that was never submitted, idle for so many days."""
        values = {"config_step": "fields", "status": "pending", **columns}
        return self._run(job, age, **values)

    def submitted(self, job: str, age: float = 100, **columns: object) -> str:
        """A run that was submitted and completed so many days ago."""
        values = {"config_step": "submitted", "status": "completed", **columns}
        if values["status"] == "completed":
            values.setdefault("completed_at", self.ago(age))
        return self._run(job, age, **values)

    def _run(self, job: str, age: float, **values: object) -> str:
        moment = self.ago(age)
        run = self.add("job_runs", job_id=job, **{"last_active_at": moment, "created_at": moment, **values})
        self.add("job_fields", job_run_id=run, field_name="total", data_type_id="string", ai_prompt="?")
        return run

    def file(self, run: str, name: str | None = None, *, stored: bool = True, **columns: object) -> str:
        """A source file of a run, with its object; give its id."""
        key = str(uuid.uuid4())
        name = f"jobs/{run}/extracted/{key}.pdf" if name is None else name
        values = {
            "original_filename": "a.pdf",
            "original_path": "a.pdf",
            "file_type": "application/pdf",
            "file_size_bytes": 10,
            "status": "uploaded",
            "source_type": "upload",
            **columns,
        }
        self.add("source_files", id=key, job_run_id=run, gcs_object_name=name, **values)
        if stored:
            self.put(name)
        return key

    def task(self, run: str, *files: str, result: bool = True) -> str:
        """A task of a run that uses files, with its result."""
        task = self.add("extraction_tasks", job_run_id=run, processing_mode="individual", status="completed")
        for file in files:
            self.database.execute(
                "INSERT INTO source_files_to_tasks (source_file_id, task_id) VALUES (:f, :t)", f=file, t=task
            )
        if result:
            self.add("extraction_results", task_id=task, extracted_data="{}")
        return task

    def automation(self, job: str, user: str = "ann") -> str:
        """An automation of a job."""
        return self.add(
            "automations",
            user_id=self.user(user),
            name="mail",
            trigger_type="gmail",
            trigger_config="{}",
            job_id=job,
            processing_mode="individual",
        )

    def automation_run(self, automation: str, run: str, status: str) -> str:
        """An automation's firing that fills, or filled, a run."""
        return self.add("automation_runs", automation_id=automation, job_run_id=run, status=status)

    def appended(self, source: str, age: float = 100, *, draft: bool = False, **columns: object) -> str:
        """A run appended to another: its own task, result and links, on all files that the other one's tasks use."""
        job = str(self.database.value("SELECT CAST(job_id AS text) FROM job_runs WHERE id = :run", run=source))
        make = self.draft if draft else self.submitted
        run = make(job, age, append_from_run_id=source, **columns)
        self.task(run, *self.used_by(source))
        return run

    def used_by(self, run: str) -> list[str]:
        """The files that the tasks of a run use."""
        rows = self.database.rows(
            "SELECT DISTINCT CAST(link.source_file_id AS text) AS file FROM source_files_to_tasks AS link "
            "JOIN extraction_tasks AS task ON task.id = link.task_id WHERE task.job_run_id = :run ORDER BY 1",
            run=run,
        )
        return [row["file"] for row in rows]

    def submit(self, run: str, status: str = "in_progress") -> None:
        """Submit a draft, as the service does."""
        self.database.execute(
            "UPDATE job_runs SET config_step = 'submitted', status = :status WHERE id = :run", run=run, status=status
        )

    def export(self, run: str, external_id: str | None = None) -> str:
        """An export of a run: a download, or a file in Drive."""
        return self.add(
            "job_exports",
            job_run_id=run,
            dest_type="gdrive" if external_id else "download",
            file_type="csv",
            status="completed",
            external_id=external_id,
        )

    def usage(self, task: str, user: str = "ann", pages: int = 3) -> str:
        """A usage event of a task."""
        return self.add("usage_events", user_id=self.user(user), source="extraction", task_id=task, pages=pages)

    def conversion(self, file: str) -> str:
        """The conversion of a file, as an object; give its name."""
        return self.put(f"jobs/{self.owner(file)}/conversions/{file}.pdf")

    def count(self, table: str, where: str = "true", **parameters: object) -> int:
        """How many rows a table has."""
        return int(self.database.value(f"SELECT count(*) FROM {table} WHERE {where}", **parameters))

    def named_objects(self) -> set[str]:
        """The names of the objects that the service's rows name."""
        return {row["name"] for row in self.database.rows("SELECT gcs_object_name AS name FROM source_files")}

    def hold(self, scope: str, subject: str, until: datetime | None = None) -> None:
        """Hold a user, a job or a run."""
        self.add_maintenance(
            "holds", scope=scope, subject=subject, until=until, reason="a case", by="lea", created_at=NOON
        )

    def add_maintenance(self, table: str, **values: object) -> None:
        """Add a row to one of our own tables."""
        self.database.execute(
            f"INSERT INTO maintenance.{table} ({', '.join(values)}) "
            f"VALUES ({', '.join(f':{name}' for name in values)})",
            **values,
        )

    def put(self, name: str, age: float = 100) -> str:
        """An object of the bucket, so many days old."""
        buckets.put(self._url, self.bucket, name)
        self.front.created[name] = self.ago(age)
        return name

    def objects(self, prefix: str = "") -> set[str]:
        """The names of the objects there are."""
        return buckets.names(self._url, self.bucket, prefix)

    def ago(self, days: float) -> datetime:
        """So many days before noon of 15 May 2026."""
        return NOON - days * DAY

    def has(self, table: str, key: str) -> bool:
        """Whether a row is there."""
        return bool(self.database.value(f"SELECT count(*) FROM {table} WHERE id = :key", key=key))

    def owner(self, file: str) -> str | None:
        """The run that a file belongs to; None where it is gone."""
        rows = self.database.rows(
            "SELECT CAST(job_run_id AS text) AS run FROM source_files WHERE id = :file", file=file
        )
        return rows[0]["run"] if rows else None

    def object_of(self, file: str) -> str:
        """The name of a file's object."""
        return str(self.database.value("SELECT gcs_object_name FROM source_files WHERE id = :file", file=file))

    def outbox(self) -> list[Mapping[str, Any]]:
        """All rows of the outbox, oldest first."""
        return list(self.database.rows("SELECT * FROM maintenance.object_deletions ORDER BY id"))

    def erasures(self) -> list[Mapping[str, Any]]:
        """All erasures, oldest first."""
        return list(
            self.database.rows("SELECT *, CAST(job_run_id AS text) AS erased FROM maintenance.erasures ORDER BY id")
        )

    def checksum(self) -> str:
        """One value that changes with any change to the service's rows, our own, or the bucket's objects."""
        tables = [*TABLES, "maintenance.object_deletions", "maintenance.erasures", "maintenance.cursors"]
        parts = [
            self.database.value(f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) v FROM {table} t")
            for table in tables
        ]
        return " ".join([*parts, *sorted(self.objects())])
