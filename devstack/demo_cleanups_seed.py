"""Seed the service's rows and objects for the cleanups, each with what must become of it.

    seeding = Seeding(connection, now)
    job = seeding.job(45)
    draft = seeding.run(job, 45, goes="abandoned_cleanup")
    seeding.file(draft)                      # goes with its run
    seeding.store(url, bucket, front)

So whether something goes is said where it is made, and never worked out. Ids are hashes: the same in every run.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from devstack import buckets
from devstack.gcs_front import GcsFront
from shared.tables import metadata

OBJECTS: Final = "objects"
DATA: Final = b"%PDF-1.7\n".ljust(4096, b".")
_DAY = timedelta(days=1)
_THREADS: Final = 8

# A table or the objects, and which row or object of it.
Spot = tuple[str, str]


@dataclass(frozen=True)
class Thing:
    """A row or an object that was seeded: of which kind, for which run, and the job that it goes with, if any."""

    kind: str
    goes: str | None
    run: str | None = None


@dataclass(frozen=True)
class Change:
    """What must change in something that stays: with which job, which column, to what."""

    spot: Spot
    job: str
    column: str
    value: str | None


@dataclass(frozen=True)
class Run:
    """A run that was seeded. `goes`: the job that takes it, `content`: the job that takes what hangs on it."""

    id: str
    job_id: str
    user: str
    age: float
    goes: str | None
    content: str | None


class Seeding:
    """What was seeded so far. `kind` is the kind of all that is made next; ages are in days before the moment."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.things: dict[Spot, Thing] = {}
        self.changes: list[Change] = []
        self.created: dict[str, datetime] = {}
        self.users: list[str] = []
        self.kind = ""
        self.user = ""
        self.now = now
        self._connection = connection
        self._made = 0
        self._rows: dict[tuple[str, tuple[str, ...]], list[Mapping[str, object]]] = {}

    def begin(self, kind: str, copy: int) -> None:
        """Begin another one of a kind, which has a user of its own."""
        self.kind, self.user = kind, uuid.uuid5(uuid.NAMESPACE_OID, f"{kind}-{copy}").hex
        self.users.append(self.user)
        self.insert("users", id=self.user, email=f"{self.user}@example.com")

    def ago(self, days: float) -> datetime:
        """So many days before the moment."""
        return self.now - days * _DAY

    def add(self, table: str, goes: str | None = None, run: str | None = None, **values: object) -> str:
        """Add a row; give its id."""
        key = str(values.setdefault("id", self.new_id()))
        self.insert(table, **values)
        self.things[table, key] = Thing(self.kind, goes, run)
        return key

    def job(self, age: float, goes: str | None = None) -> str:
        """An extraction job of the kind's user."""
        moment = self.ago(age)
        return self.add("extraction_jobs", goes, user_id=self.user, last_active_at=moment, created_at=moment)

    def run(
        self, job: str, age: float, *, goes: str | None = None, content: str | None = None, **columns: object
    ) -> Run:
        """A run with one field: a draft, idle for so long. With `content`, all but the run and its fields goes."""
        moment = self.ago(age)
        values = {"config_step": "fields", "status": "pending", "last_active_at": moment, "created_at": moment}
        run = self.add("job_runs", goes, **{"id": (key := self.new_id()), "job_id": job, **values, **columns}, run=key)
        self.add(
            "job_fields", goes, run, job_run_id=run, field_name="total", data_type_id="string", ai_prompt="The total?"
        )
        return Run(run, job, self.user, age, goes, goes or content)

    def finished(self, job: str, age: float, status: str = "completed", **columns: Any) -> Run:
        """A run that was submitted, and ended so long ago."""
        values = {"config_step": "submitted", "status": status}
        if status == "completed":
            values["completed_at"] = self.ago(age)  # type: ignore[assignment]
        return self.run(job, age, **{**values, **columns})

    def file(self, run: Run, *, stays: bool = False, conversion: bool = False, **columns: object) -> str:
        """A file of a run, with its object, and a conversion of it if there is one; give its id."""
        goes, key = None if stays else run.content, self.new_id()
        name = f"jobs/{run.job_id}/runs/{run.id}/{key}.pdf"
        values = {
            "original_filename": "invoice.pdf",
            "original_path": "invoice.pdf",
            "gcs_object_name": name,
            "file_type": "application/pdf",
            "file_size_bytes": len(DATA),
            "status": "uploaded",
            "source_type": "upload",
            **columns,
        }
        self.add("source_files", goes, run.id, id=key, job_run_id=run.id, **values)
        self.put(str(values["gcs_object_name"]), run.age, goes, run.id)
        if conversion:
            self.put(f"jobs/{run.id}/conversions/{key}.pdf", run.age, run.content, run.id)
        return key

    def task(self, run: Run, *files: str) -> str:
        """A task of a run that has read files, with its result, and the usage that was billed for it."""
        goes = run.content
        task = self.add(
            "extraction_tasks", goes, run.id, job_run_id=run.id, processing_mode="individual", status="completed"
        )
        self.add("extraction_results", goes, run.id, task_id=task, extracted_data={"total": 12})
        for file in files:
            self.insert("source_files_to_tasks", source_file_id=file, task_id=task)
            self.things["source_files_to_tasks", f"{file}/{task}"] = Thing(self.kind, goes, run.id)
        event = self.add(
            "usage_events", user_id=run.user, source="extraction", task_id=task, pages=3, stripe_reported=True
        )
        if goes is not None:
            self.change(("usage_events", event), goes, "task_id", None)
        return task

    def export(self, run: Run, external_id: str | None = None) -> str:
        """An export of a run: a download, or a file in Drive, which outlives the content."""
        goes = run.goes if external_id else run.content
        dest = "gdrive" if external_id else "download"
        values = {"dest_type": dest, "file_type": "csv", "status": "completed", "external_id": external_id}
        return self.add("job_exports", goes, run.id, job_run_id=run.id, **values)

    def automation(self, job: str) -> str:
        """An automation of a job, which waits for mail."""
        return self.add(
            "automations",
            user_id=self.user,
            name="mail",
            trigger_type="gmail",
            trigger_config={},
            job_id=job,
            processing_mode="individual",
        )

    def firing(self, automation: str, run: Run, status: str) -> str:
        """An automation's firing, which fills or has filled a run."""
        return self.add("automation_runs", run.goes, run.id, automation_id=automation, job_run_id=run.id, status=status)

    def hold(self, run: Run) -> None:
        """Have an operator's hold on a run."""
        self.insert(
            "maintenance.holds", scope="run", subject=run.id, reason="a lawsuit", by="demo", created_at=self.now
        )

    def put(self, name: str, age: float, goes: str | None = None, run: str | None = None) -> str:
        """An object, put into the bucket by `store`; give its name."""
        self.created[name] = self.ago(age)
        self.things[OBJECTS, name] = Thing(self.kind, goes, run)
        return name

    def change(self, spot: Spot, job: str, column: str, value: str | None) -> None:
        """Say what changes in something that stays."""
        self.changes.append(Change(spot, job, column, value))

    def insert(self, table: str, **values: object) -> None:
        """Have a row inserted by `store`."""
        self._rows.setdefault((table, tuple(values)), []).append(values)

    def store(self, url: str, bucket: str, front: GcsFront) -> None:
        """Insert all rows, put all objects into the bucket, and have the front say when they were created."""
        tables = [table.name for table in metadata.sorted_tables]
        for table, columns in sorted(self._rows, key=lambda each: tables.index(each[0]) if each[0] in tables else -1):
            names = ", ".join(columns)
            rows = json.dumps(self._rows[table, columns], default=str)
            self._connection.execute(
                text(
                    f"INSERT INTO {table} ({names}) SELECT {names} "  # noqa: S608 - all ours
                    f"FROM jsonb_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS jsonb))"
                ),
                {"rows": rows},
            )
        self._rows.clear()
        front.created.update(self.created)
        with ThreadPoolExecutor(_THREADS) as executor:
            for _ in executor.map(lambda name: buckets.put(url, bucket, name, DATA), self.created):
                pass

    def new_id(self) -> str:
        """An id that nothing has yet."""
        self._made += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"cleanups-{self._made}"))
