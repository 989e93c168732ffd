"""Who is held, told once more from the rules in words: for `tests.cleanup.model`."""

from collections.abc import Collection
from datetime import datetime

from tests.cleanup.state import Row, State


def is_held(state: State, now: datetime, *, run: str | None, job: str | None) -> bool:
    """Whether a run or an extraction job is held: by itself, through its job, or through its user."""
    jobs = state.by_id("extraction_jobs")
    names = {("run", run), ("job", job), ("user", jobs[job]["user_id"] if job in jobs else None)}
    return any((hold["scope"], hold["subject"]) in names for hold in _holds(state, now))


def _holds(state: State, now: datetime) -> list[Row]:
    return [hold for hold in state.tables["maintenance.holds"] if hold["until"] is None or hold["until"] > now]


def is_object_held(state: State, name: str, now: datetime, hangs_on: Collection[str] = ()) -> bool:
    """Held through a row, or through what its name says of jobs, runs, files and users.

    One of which nothing tells whose it is stays as long as anything of a user or a job is held.
    """
    if name.startswith("temp_uploads/"):
        rest = name.removeprefix("temp_uploads/")
        return any(hold["scope"] == "user" and rest.startswith(hold["subject"] + "/") for hold in _holds(state, now))
    runs, files, jobs = (state.by_id(table) for table in ("job_runs", "source_files", "extraction_jobs"))
    owners = {file["job_run_id"] for file in files.values() if file["gcs_object_name"] == name} | {*hangs_on}
    parts = {part.split(".")[0] for part in name.split("/")} | owners
    owners |= {files[part]["job_run_id"] for part in parts if part in files}
    if any(
        is_held(state, now, run=part, job=runs[part]["job_id"] if part in runs else part) for part in owners | parts
    ):
        return True
    is_known = any(each in runs or each in jobs or each in files for each in {name.split("/")[1], *owners})
    return not is_known and any(hold["scope"] in ("user", "job") for hold in _holds(state, now))
