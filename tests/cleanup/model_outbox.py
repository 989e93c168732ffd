"""What becomes of the outbox, told once more from the rules in words: for `tests.cleanup.model`."""

import re
from collections.abc import Iterator
from datetime import datetime

from tests.cleanup.model_holds import is_object_held
from tests.cleanup.state import Row, State


def drain(state: State, now: datetime) -> None:
    """Take away what the open rows of the outbox stand for, but for what is needed again, or held."""
    for row in state.open_rows():
        for name in names_of(row):
            if name in state.objects and _may_go(state, row, name) and not _is_row_held(state, row, now):
                del state.objects[name]


def _is_row_held(state: State, row: Row, now: datetime) -> bool:
    """What an erasure left behind has no row that a hold could keep; all else may be held since it was found."""
    if row["erasure_id"] is not None:
        return False
    hangs_on = {row["source_file_id"], row["job_run_id"]} - {None}
    return is_object_held(state, row["object_name"], now, hangs_on)


def names_of(row: Row) -> Iterator[str]:
    """The objects that a row of the outbox stands for."""
    yield row["object_name"]
    if row["kind"] == "source":
        yield f"jobs/{row['job_run_id']}/conversions/{row['source_file_id']}.pdf"


def _may_go(state: State, row: Row, name: str) -> bool:
    if row["generation"] is not None and row["generation"] != state.objects[name].generation:
        return False
    may_come_back = name.startswith("imports/") or "/gmail_imports/" in name
    if row["generation"] is None and may_come_back and state.objects[name].created_at > row["requested_at"]:
        # Uploaded since: its row may be about to come. If none does, it is an orphan one day.
        return False
    named = [file for file in state.tables["source_files"] if file["gcs_object_name"] == name]
    if row["kind"] == "zip":
        return all(file["id"] == row["source_file_id"] and file["status"] == "unpacked" for file in named)
    return not named


def judge_outbox(state: State, now: datetime) -> list[str]:
    """What is wrong with our own records after a run that completed: only what is held is open, and no name is kept."""
    wrong = [
        f"{row['object_name']} is still to go ({row['state']})"
        for row in state.open_rows()
        if not (row["state"] == "held" and _is_row_held(state, row, now))
    ]
    for row in state.tables["maintenance.object_deletions"]:
        if row["done_at"] is not None and re.fullmatch("[0-9a-f]{64}", row["object_name"]) is None:
            wrong.append(f"the name {row['object_name']} is kept")
    for erasure in state.tables["maintenance.erasures"]:
        if erasure["completed_at"] is None:
            wrong.append(f"the erasure of {erasure['job_run_id']} is not complete")
    return wrong + judge_erasures(state)


def judge_erasures(state: State) -> list[str]:
    """Erasures that are on record and did not take place, or not once."""
    runs, files = state.by_id("job_runs"), state.by_id("source_files")
    whole = [row["job_run_id"] for row in state.tables["maintenance.erasures"] if row["extent"] == "run"]
    wrong = [f"the run {run} was erased, and is there" for run in whole if run in runs]
    wrong += [f"the run {run} was erased more than once" for run in {*whole} if whole.count(run) > 1]
    return wrong + [
        f"{row['object_name']} is to go, and its row is there"
        for row in state.open_rows()
        if row["kind"] == "source" and row["source_file_id"] in files
    ]
