"""The document service, as far as the cleanups meet it: what its users do, on real tables and a real bucket.

Each method is one commit, or the few that the service itself needs. What it leaves behind is left behind here too.
"""

from calendar import monthrange
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from tests.cleanup.service_tables import ServiceTables
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase

_COPIED_RUN = (
    "INSERT INTO job_fields (id, job_run_id, field_name, data_type_id, ai_prompt) "
    "SELECT md5(id::text || :new)::uuid, :new, field_name, data_type_id, ai_prompt FROM job_fields "
    "WHERE job_run_id = :old"
)
# A draft that was left alone for so long may be marked as one to delete.
_IDLE = timedelta(days=30)
ENDS = ("completed", "partially_completed", "failed", "cancelled")


class Service(ServiceTables):
    """Users, jobs, runs, files, automations. `put` uploads an object, over an older one of the same name."""

    def __init__(self, database: TestDatabase, clock: ManualClock, put: Callable[[str], object]) -> None:
        super().__init__(database, clock)
        self.put = put

    # ---- accounts

    def sign_up(self) -> str:
        """A free user, with the calendar month for a period."""
        user = f"user{self._next()}"
        start = self._now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = start.replace(day=monthrange(start.year, start.month)[1], hour=23, minute=59, second=59)
        self.database.account(user, "free", start, end)
        self._add("usage_counters", key=None, user_id=user, period_start=start, period_end=end, pages_total=1)
        return user

    def keep_an_old_counter(self, user: str, months: int, current: bool) -> None:
        """A counter of so many months ago; with `current`, of an account whose period nobody moved since."""
        first = self._now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        number = first.year * 12 + first.month - 1 - months
        start = first.replace(year=number // 12, month=number % 12 + 1)
        self.database.execute(
            "INSERT INTO usage_counters VALUES (:u, :s, :s, 1) ON CONFLICT DO NOTHING", u=user, s=start
        )
        if current:
            self.database.execute(
                "UPDATE billing_accounts SET current_period_start = :s WHERE user_id = :u", s=start, u=user
            )

    def delete_user(self, user: str) -> None:
        """All rows go; what is in the bucket stays behind."""
        self.database.execute("DELETE FROM users WHERE id = :user", user=user)

    # ---- jobs and runs

    def new_job(self, user: str, keep: bool) -> str:
        """A job with its first draft; give the draft's id."""
        now = self._now()
        job = self._add("extraction_jobs", user_id=user, last_active_at=now, created_at=now)
        run = self._run(job, persist_data=keep)
        self._add("job_fields", job_run_id=run, field_name="total", data_type_id="string", ai_prompt="?")
        return run

    def new_run(self, job: str) -> str:
        """One more draft of a job, with the fields of the latest run. Where there was none, with none."""
        latest = self._latest(job)
        keep = latest is None or bool(latest["persist_data"] or latest["config_step"] != "submitted")
        run = self._run(job, persist_data=keep)
        if latest is not None:
            self.database.execute(_COPIED_RUN, new=run, old=latest["id"])
        return run

    def wizard_step(self, run: str) -> None:
        """The user looks at a draft again."""
        self.database.execute(
            "UPDATE job_runs SET config_step = CASE config_step WHEN 'upload' THEN 'fields' ELSE 'review' END, "
            "last_active_at = :now WHERE id = :run AND config_step <> 'submitted'",
            run=run,
            now=self._now(),
        )
        self._touch_job(run)

    def submit(self, run: str, together: bool, done: int) -> None:
        """Submit a draft: tasks for every file that is the draft's own, of which so many are done at once."""
        now = self._now()
        self.database.execute(
            "UPDATE job_runs SET config_step = 'submitted', status = 'in_progress', last_active_at = :now "
            "WHERE id = :run",
            run=run,
            now=now,
        )
        self._touch_job(run)
        files = self.files(f"job_run_id = '{run}'")
        for group in [files] if together and files else [[file] for file in files]:
            task = self._add("extraction_tasks", job_run_id=run, processing_mode="x", status="pending", created_at=now)
            for file in group:
                self._add("source_files_to_tasks", key=None, source_file_id=file, task_id=task)
        self.work(run, done)

    def work(self, run: str, most: int) -> None:
        """So many of a run's tasks are done: with a result, and with pages to bill."""
        user = self.database.value(
            "SELECT user_id FROM extraction_jobs JOIN job_runs ON job_id = extraction_jobs.id WHERE job_runs.id = :run",
            run=run,
        )
        tasks = self.database.rows(
            "SELECT id FROM extraction_tasks WHERE job_run_id = :run AND status = 'pending' ORDER BY id LIMIT :most",
            run=run,
            most=most,
        )
        for task in tasks:
            self.database.execute("UPDATE extraction_tasks SET status = 'completed' WHERE id = :id", id=task["id"])
            self._add("extraction_results", task_id=task["id"], extracted_data="{}", processed_at=self.clock.now())
            self._add(
                "usage_events", user_id=user, source="x", task_id=task["id"], pages=2, occurred_at=self.clock.now()
            )

    def end(self, run: str, how: str) -> None:
        """A submitted run ends. Only a completed one has a time of completion."""
        if how == "completed":
            self.work(run, 99)
        now = self._now()
        self.database.execute(
            "UPDATE job_runs SET status = :how, last_active_at = :now, completed_at = :at "
            "WHERE id = :run AND config_step = 'submitted' AND status = 'in_progress'",
            run=run,
            how=how,
            now=now,
            at=now if how == "completed" else None,
        )
        self.database.execute(
            "UPDATE automation_runs SET status = :status WHERE job_run_id = :run AND status = 'running'",
            run=run,
            status="failed" if how == "failed" else "completed",
        )

    def append(self, old: str) -> str:
        """A draft made from an older run: with its done tasks and their results, and links to the same files."""
        found = self.database.row("SELECT job_id, persist_data FROM job_runs WHERE id = :run", run=old)
        new = self._run(str(found["job_id"]), persist_data=found["persist_data"], append_from_run_id=old)
        self.database.execute(_COPIED_RUN, new=new, old=old)
        tasks = self._ids(
            f"SELECT id FROM extraction_tasks WHERE job_run_id = '{old}' AND status = 'completed' ORDER BY id"
        )
        for task in tasks:
            copy = self._add(
                "extraction_tasks", job_run_id=new, processing_mode="x", status="completed", created_at=self.clock.now()
            )
            self.database.execute(
                "INSERT INTO source_files_to_tasks SELECT source_file_id, :copy FROM source_files_to_tasks "
                "WHERE task_id = :task",
                copy=copy,
                task=task,
            )
            self._add("extraction_results", task_id=copy, extracted_data="{}", processed_at=self.clock.now())
        return new

    def opt_out(self, run: str) -> None:
        self.database.execute("UPDATE job_runs SET persist_data = false WHERE id = :run", run=run)

    def give_up_idle_drafts(self) -> None:
        """Drafts that were left alone for 30 days are marked as to be deleted."""
        self.database.execute(
            "UPDATE job_runs SET status = 'cancelled', persist_data = false "
            "WHERE config_step <> 'submitted' AND status = 'pending' AND last_active_at < :before",
            before=self._now() - _IDLE,
        )

    def delete_job(self, job: str) -> None:
        """Rows go, with the automations; what is in the bucket stays behind."""
        self.database.execute("DELETE FROM extraction_jobs WHERE id = :job", job=job)

    def export(self, run: str, drive: bool) -> None:
        self._add(
            "job_exports",
            job_run_id=run,
            dest_type="gdrive" if drive else "download",
            file_type="csv",
            status="completed",
            external_id=f"drive{self._number}" if drive else None,
            created_at=self.clock.now(),
            updated_at=self.clock.now(),
        )

    # ---- files

    def upload(self, run: str, how: str) -> str:
        """An upload into a draft: a plain file, a ZIP, a row that a broken upload left, or an old row's member."""
        zipped = how in ("zip", "ZIP")
        name = f"a{self._number}{'.zip' if how == 'zip' else ''}"
        where = f"jobs/{self._job_of(run)}/runs/{run}" if how != "member" else f"jobs/{run}/extracted"
        return self._file(
            run,
            f"{where}/{self._uuid()}{'.zip' if zipped else '.docx'}",
            original_filename=name,
            file_type="application/x-zip-compressed" if how == "ZIP" else "application/octet-stream",
            status={"broken": "uploading", "member": "unpacked"}.get(how, "uploaded"),
        )

    def unpack(self, file: str, members: int) -> None:
        """A ZIP's members become files of their own."""
        run = str(self.database.value("SELECT job_run_id FROM source_files WHERE id = :file", file=file))
        self.database.execute("UPDATE source_files SET status = 'unpacking' WHERE id = :file", file=file)
        for _ in range(members):
            self._file(run, f"jobs/{run}/extracted/{self._uuid()}.pdf")
        self.database.execute("UPDATE source_files SET status = 'unpacked' WHERE id = :file", file=file)

    def convert(self, file: str) -> None:
        """A conversion to PDF, under the name of the run that the file belongs to."""
        run = self.database.value("SELECT job_run_id FROM source_files WHERE id = :file", file=file)
        self._now()
        self.put(f"jobs/{run}/conversions/{file}.pdf")

    def import_from_drive(self, run: str, number: int, finished: bool) -> None:
        """One of a few Drive files: each time it has the same object's name, and the row comes before the object."""
        self.import_as(run, f"imports/{run}/drive{number}_bill of #{number}.pdf", finished)

    def import_as(self, run: str, name: str, finished: bool) -> None:
        """A Drive file under its object's name, whatever there was under it before."""
        found = self.database.rows("SELECT id FROM source_files WHERE gcs_object_name = :name", name=name)
        if found:
            self._now()
            self.put(name)
            self.database.execute("UPDATE source_files SET status = 'uploaded' WHERE id = :id", id=found[0]["id"])
        else:
            self._file(run, name, status="uploaded" if finished else "importing", source_type="drive")

    def remove(self, file: str) -> None:
        """The user takes a file out of a draft: its row goes, unless a task has it."""
        self.database.execute(
            "DELETE FROM source_files AS file USING job_runs AS run WHERE file.id = :file AND run.id = file.job_run_id "
            "AND run.config_step <> 'submitted' "
            "AND NOT EXISTS (SELECT FROM source_files_to_tasks WHERE source_file_id = file.id)",
            file=file,
        )

    def leave_scratch(self, user: str) -> None:
        self._now()
        self.put(f"temp_uploads/{user}/{int(self.clock.now().timestamp())}_{self._uuid()}_a.pdf")

    # ---- automations

    def automate(self, job: str) -> str:
        user = self.database.value("SELECT user_id FROM extraction_jobs WHERE id = :job", job=job)
        return self._add(
            "automations",
            user_id=user,
            name="mail",
            is_enabled=self._number % 3 > 0,
            trigger_type="gmail",
            trigger_config="{}",
            job_id=job,
            processing_mode="x",
            created_at=self._now(),
            updated_at=self.clock.now(),
        )

    def stop_automating(self, automation: str) -> None:
        self.database.execute("DELETE FROM automations WHERE id = :id", id=automation)

    def fire(self, automation: str, attachments: int, submitted: bool) -> None:
        """Mail arrives: into the latest run if that is a pending draft, else into a new run like it."""
        job = str(self.database.value("SELECT job_id FROM automations WHERE id = :id", id=automation))
        latest = self._latest(job)
        taken = latest is not None and latest["config_step"] != "submitted" and latest["status"] == "pending"
        run = str(latest["id"]) if latest is not None and taken else self.new_run(job)
        self._add(
            "automation_runs",
            automation_id=automation,
            job_run_id=run,
            status="running" if submitted or attachments else "pending",
            triggered_at=self._now(),
        )
        for _ in range(attachments):
            self._file(
                run,
                f"jobs/{job}/runs/{run}/gmail_imports/mail{self._next()}.pdf",
                status="uploaded",
                source_type="gmail",
            )
        if submitted:
            self.submit(run, together=False, done=99)

    # ---- an operator

    def hold(self, scope: str, subject: str, until: datetime | None) -> None:
        self.database.execute(
            "INSERT INTO maintenance.holds (scope, subject, reason, until, by, created_at) "
            "VALUES (:scope, :subject, 'a case', :until, 'lea', :now)",
            scope=scope,
            subject=subject,
            until=until,
            now=self._now(),
        )

    def release_holds(self) -> None:
        self.database.execute("DELETE FROM maintenance.holds")

    # ---- how

    def _run(self, job: str, **columns: object) -> str:
        now = self._now()
        values = {"config_step": "upload", "status": "pending", "last_active_at": now, "created_at": now, **columns}
        run = self._add("job_runs", job_id=job, **values)  # type: ignore[arg-type]
        self._touch_job(run)
        return run

    def _file(self, run: str, name: str, **columns: object) -> str:
        """A row, and then its object, unless the upload broke off."""
        values: Mapping[str, object] = {
            "original_filename": "a.pdf",
            "file_type": "application/pdf",
            "status": "uploaded",
            "source_type": "upload",
            **columns,
        }
        file = self._add(
            "source_files",
            job_run_id=run,
            gcs_object_name=name,
            original_path="a",
            file_size_bytes=1,
            updated_at=self._now(),
            **values,  # type: ignore[arg-type]
        )
        self.database.execute(
            "UPDATE job_runs SET last_active_at = :now WHERE id = :run AND config_step <> 'submitted'",
            run=run,
            now=self.clock.now(),
        )
        if values["status"] not in ("uploading", "importing"):
            self.put(name)
        return file

    def _touch_job(self, run: str) -> None:
        self.database.execute(
            "UPDATE extraction_jobs SET last_active_at = :now WHERE id = (SELECT job_id FROM job_runs WHERE id = :run)",
            now=self.clock.now(),
            run=run,
        )
