"""Who goes, told once more from the rules in words: plain loops over copies of all tables and of the bucket's list.

Slow and obvious, and without a look at the SQL. Each function takes the state before a cleanup and the state after it,
and gives what is wrong with the latter, in words; nothing where all is well.

Which of several runs wait for a draft is not always settled by the rules: where A goes if B stays and B goes if A
stays, either is right. So a model does not foretell, it judges: what went may go, nothing that stayed could have gone
too, and all else follows from that, row by row.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

from tests.cleanup.model_holds import is_held, is_object_held
from tests.cleanup.model_outbox import drain, judge_erasures, judge_outbox, names_of
from tests.cleanup.state import Row, State, differences, miscounted

DAY = timedelta(days=1)
_ENDS = ("completed", "partially_completed", "failed", "cancelled")
_ZIPS = ("application/zip", "application/x-zip-compressed")
ERASING = ("abandoned_cleanup", "opt_out_cleanup")


# ---- abandoned_cleanup and opt_out_cleanup


@dataclass
class Due:
    """The runs that should go: each with whether only its content does. `held`: those that somebody holds."""

    only_content: dict[str, bool]
    held: set[str]


def due(state: State, job: str, now: datetime) -> Due:
    """Who goes, files that others use left aside."""
    found = Due({}, set())
    for run in state.tables["job_runs"]:
        if job == "abandoned_cleanup":
            only_content = False
            goes = _is_abandoned(state, run, now)
        else:
            only_content = _is_needed_by_an_automation(state, run)
            goes = _is_opted_out(run, now) and not (only_content and _has_no_content(state, run))
        if goes and is_held(state, now, run=run["id"], job=run["job_id"]):
            found.held.add(run["id"])
        elif goes:
            found.only_content[run["id"]] = only_content
    return found


def _is_abandoned(state: State, run: Row, now: datetime) -> bool:
    filling = [
        firing for firing in state.of_run("automation_runs", run["id"]) if firing["status"] in ("pending", "running")
    ]
    return (
        run["config_step"] != "submitted"
        and run["status"] in ("pending", "cancelled")
        and now - run["last_active_at"] > 30 * DAY
        and not filling
        and not _is_needed_by_an_automation(state, run)
    )


def _is_opted_out(run: Row, now: datetime) -> bool:
    if run["persist_data"]:
        return False
    if run["config_step"] != "submitted":
        return bool(run["status"] == "cancelled" and now - run["last_active_at"] > 30 * DAY)
    return run["status"] in _ENDS and now - (run["completed_at"] or run["last_active_at"]) > 7 * DAY


def _is_needed_by_an_automation(state: State, run: Row) -> bool:
    if not any(automation["job_id"] == run["job_id"] for automation in state.tables["automations"]):
        return False
    siblings = [other for other in state.tables["job_runs"] if other["job_id"] == run["job_id"]]
    return bool(run["created_at"] == max(other["created_at"] for other in siblings))


def _has_no_content(state: State, run: Row) -> bool:
    """No files, tasks or results: results hang on tasks."""
    return not state.of_run("source_files", run["id"]) and not state.of_run("extraction_tasks", run["id"])


def judge_erasure(
    before: State, after: State, job: str, now: datetime, counts: Mapping[str, int] | None = None
) -> list[str]:
    """What is wrong after a run of one of the two that completed. `counts`: what it told, if nothing came before it."""
    asked = due(before, job, now)
    gone = {run for run in asked.only_content if _went(before, after, run, asked.only_content[run])}
    wrong = [f"{run} went, and a draft needs its file" for run in _stuck(before, gone)]
    stayed = sorted(set(asked.only_content) - gone)
    for size in range(1, len(stayed) + 1):
        for more in combinations(stayed, size):
            if not _stuck(before, gone | set(more)):
                wrong.append(f"{more} stayed, and nothing spoke against it")
    expected, moved = _without(before, {run: asked.only_content[run] for run in gone})
    parents = _idle_parents(expected, now) if job == "abandoned_cleanup" else set()
    _delete_jobs(expected, parents)
    drain(expected, now)
    wrong += differences(expected, after)
    if counts is not None:
        told = {"jobs_cleaned": len(gone), "held": len(asked.held), "waiting_on_draft": len(stayed)}
        told |= {"files_rehomed": moved, "due_count": len(stayed), "open_objects": 0}
        if job == "abandoned_cleanup":
            told["parents_deleted"] = len(parents)
        wrong += miscounted(told, counts)
    return wrong + judge_outbox(after, now)


def _went(before: State, after: State, run: str, only_content: bool) -> bool:
    if not only_content:
        return run not in after.by_id("job_runs")
    return all(
        not {row["id"] for row in before.of_run(table, run)} & {row["id"] for row in after.of_run(table, run)}
        for table in ("source_files", "extraction_tasks")
    )


def _users_of(state: State, file: Row, gone: Collection[str]) -> list[Row]:
    """The other runs with a task that uses a file, but for those that go."""
    tasks = {link["task_id"] for link in state.tables["source_files_to_tasks"] if link["source_file_id"] == file["id"]}
    users = {task["job_run_id"] for task in state.tables["extraction_tasks"] if task["id"] in tasks}
    users -= {file["job_run_id"], *gone}
    return [run for run in state.tables["job_runs"] if run["id"] in users]


def _new_owner(state: State, file: Row, gone: Collection[str]) -> str | None:
    """The oldest submitted run that needs a file; None where no run that stays does. Raises where only drafts do."""
    users = _users_of(state, file, gone)
    submitted = [run for run in users if run["config_step"] == "submitted"]
    if users and not submitted:
        raise LookupError
    return min(submitted, key=lambda run: (run["created_at"], run["id"]))["id"] if submitted else None


def _stuck(state: State, gone: Collection[str]) -> set[str]:
    """Those of the runs with a file that nobody but drafts would need when all of them were gone."""
    found = set()
    for file in state.tables["source_files"]:
        if file["job_run_id"] in gone:
            try:
                _new_owner(state, file, gone)
            except LookupError:
                found.add(file["job_run_id"])
    return found


def _without(before: State, gone: Mapping[str, bool]) -> tuple[State, int]:
    """The state without these runs, and how many files moved to others."""
    left = before.copied()
    moved = 0
    for file in before.tables["source_files"]:
        if file["job_run_id"] not in gone:
            continue
        left.objects.pop(f"jobs/{file['job_run_id']}/conversions/{file['id']}.pdf", None)
        try:
            owner = _new_owner(before, file, gone)
        except LookupError:
            owner = None
        if owner is not None:
            left.by_id("source_files")[file["id"]]["job_run_id"] = owner
            moved += 1
        else:
            left.objects.pop(file["gcs_object_name"], None)
            _delete(left, "source_files", lambda row, file=file: row["id"] == file["id"])
    for run, only_content in gone.items():
        _delete(left, "extraction_tasks", lambda row, run=run: row["job_run_id"] == run)
        if only_content:
            _delete(left, "job_exports", lambda row, run=run: row["job_run_id"] == run and row["external_id"] is None)
        else:
            for table in ("job_exports", "job_fields", "automation_runs"):
                _delete(left, table, lambda row, run=run: row["job_run_id"] == run)
            _delete(left, "job_runs", lambda row, run=run: row["id"] == run)
    _mend(left)
    return left, moved


def _idle_parents(state: State, now: datetime) -> set[str]:
    with_children = {row["job_id"] for table in ("job_runs", "automations") for row in state.tables[table]}
    return {
        job["id"]
        for job in state.tables["extraction_jobs"]
        if job["id"] not in with_children
        and now - job["last_active_at"] > 30 * DAY
        and not is_held(state, now, run=None, job=job["id"])
    }


def _delete_jobs(state: State, jobs: Collection[str]) -> None:
    _delete(state, "extraction_jobs", lambda row: row["id"] in jobs)


def _delete(state: State, table: str, which: Any) -> None:
    state.tables[table] = [row for row in state.tables[table] if not which(row)]


def _mend(state: State) -> None:
    """What the database does by itself: what hangs on a deleted row goes, what only points at one points at nothing."""
    files, tasks, runs = (state.by_id(table) for table in ("source_files", "extraction_tasks", "job_runs"))
    _delete(
        state,
        "source_files_to_tasks",
        lambda row: row["source_file_id"] not in files or row["task_id"] not in tasks,
    )
    _delete(state, "extraction_results", lambda row: row["task_id"] not in tasks)
    for event in state.tables["usage_events"]:
        event["task_id"] = event["task_id"] if event["task_id"] in tasks else None
    for run in state.tables["job_runs"]:
        run["append_from_run_id"] = run["append_from_run_id"] if run["append_from_run_id"] in runs else None


# ---- artifact_cleanup


def judge_artifacts(before: State, after: State, now: datetime, counts: Mapping[str, int] | None = None) -> list[str]:
    """What is wrong after an artifact_cleanup that completed."""
    expected = before.copied()
    drain(expected, now)
    kinds = {name: kind for name in before.objects if (kind := _kind(before, name, now)) is not None}
    held = {name for name in kinds if is_object_held(before, name, now)}
    for name in kinds:
        if name not in held:
            expected.objects.pop(name, None)
    wrong = differences(expected, after)
    if counts is not None:
        told = {"artifacts_cleaned": len(kinds) - len(held), "held": len(held), "listed_count": len(before.objects)}
        for kind in ("zip", "conversion", "temp_upload", "orphan"):
            told[f"{kind}s_cleaned"] = sum(1 for name in kinds if kinds[name] == kind and name not in held)
        wrong += miscounted(told, counts)
    return wrong + judge_outbox(after, now)


def must_refuse(before: State) -> bool:
    """Whether a sweep must be refused whatever the limits: no row names any of the objects there are."""
    return bool(before.objects) and not before.tables["source_files"]


def _kind(state: State, name: str, now: datetime) -> str | None:
    """As what an object goes; None where it stays."""
    age = now - state.objects[name].created_at
    files = [file for file in state.tables["source_files"] if file["gcs_object_name"] == name]
    if files:
        is_zip = files[0]["file_type"] in _ZIPS or files[0]["original_filename"].endswith(".zip")
        return "zip" if is_zip and files[0]["status"] == "unpacked" and age > 7 * DAY else None
    top = name.split("/")[0]
    if top == "temp_uploads":
        return "temp_upload" if age > 7 * DAY else None
    if name.split("/")[2:3] == ["conversions"] and name.endswith(".pdf"):
        return "conversion" if age > 7 * DAY else None
    return "orphan" if top in ("jobs", "imports") and age > 14 * DAY else None


# ---- usage_counter_cleanup


def judge_counters(before: State, after: State, now: datetime, counts: Mapping[str, int] | None = None) -> list[str]:
    """What is wrong after a usage_counter_cleanup that completed, our own tables included."""
    months = now.year * 12 + now.month - 1 - 13
    first = datetime(months // 12, months % 12 + 1, 1, tzinfo=now.tzinfo)
    current = {row["user_id"]: row["current_period_start"] for row in before.tables["billing_accounts"]}
    expected = before.copied()
    _delete(
        expected,
        "usage_counters",
        lambda row: row["period_start"] < first and current.get(row["user_id"]) != row["period_start"],
    )
    wrong = differences(expected, after)
    files, erasures = before.by_id("source_files"), before.by_id("maintenance.erasures")
    left = {row["id"] for row in after.tables["maintenance.object_deletions"]}
    for row in before.tables["maintenance.object_deletions"]:
        is_old = row["done_at"] is not None and now - row["done_at"] > 90 * DAY
        is_shown = row["kind"] == "zip" and row["source_file_id"] in files
        is_proof = row["erasure_id"] is not None and erasures[str(row["erasure_id"])]["completed_at"] is None
        if (row["id"] in left) == (is_old and not is_shown and not is_proof):
            wrong.append(f"outbox row {row['id']} ({row['kind']}, {row['done_at']}) is {row['id'] in left}")
    if after.tables["maintenance.erasures"] != before.tables["maintenance.erasures"]:
        wrong.append("erasures changed")
    if counts is not None:
        gone = len(before.tables["usage_counters"]) - len(expected.tables["usage_counters"])
        wrong += miscounted({"deleted_count": gone}, counts)
    return wrong


# ---- at any moment


def judge_crash(before: State, after: State, job: str, now: datetime) -> list[str]:
    """What is wrong after a run that died somewhere: less may be gone than should be, and nothing is forgotten."""
    gone: dict[str, bool] = {}
    if job in ERASING:
        asked = due(before, job, now).only_content
        gone = {run: asked[run] for run in asked if _went(before, after, run, asked[run])}
    wrong = [f"{run} went, and a draft needs its file" for run in _stuck(before, gone)]
    expected, _ = _without(before, gone)
    may_go = _may_be_gone(before, expected, job, now)
    if job == "abandoned_cleanup":
        _delete_jobs(expected, _idle_parents(expected, now) - set(after.by_id("extraction_jobs")))
    if job == "usage_counter_cleanup":
        left = expected.copied()
        expected.tables["usage_counters"] = after.tables["usage_counters"]
        if any(row not in left.tables["usage_counters"] for row in after.tables["usage_counters"]):
            wrong.append("a counter changed")
    waiting = {name for row in after.open_rows() for name in names_of(row)}
    drained = expected.copied()
    drain(drained, now)
    for name in before.objects:
        if name not in after.objects and name not in may_go:
            wrong.append(f"{name} is gone")
        if name in after.objects and name not in drained.objects and name not in waiting:
            wrong.append(f"{name} is forgotten")
    expected.objects = after.objects
    return wrong + differences(expected, after) + judge_names(after) + judge_erasures(after)


def _may_be_gone(before: State, expected: State, job: str, now: datetime) -> set[str]:
    drained = expected.copied()
    if job != "usage_counter_cleanup":
        drain(drained, now)
    if job == "artifact_cleanup":
        for name in before.objects:
            if _kind(before, name, now) is not None and not is_object_held(before, name, now):
                drained.objects.pop(name, None)
    return set(before.objects) - set(drained.objects)


def judge_names(state: State) -> list[str]:
    """Rows that name a missing object, but for uploads that never ended and ZIPs that were taken."""
    taken = {
        row["source_file_id"]
        for row in state.tables["maintenance.object_deletions"]
        if row["kind"] == "zip" and row["state"] in ("pending", "deleted", "absent")
    }
    return [
        f"the row of {file['gcs_object_name']} names nothing"
        for file in state.tables["source_files"]
        if file["gcs_object_name"] not in state.objects
        and file["status"] not in ("uploading", "importing")
        and file["id"] not in taken
    ]
