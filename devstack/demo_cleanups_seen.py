"""What the demo finds after a cleanup, held against what its seed declares: every row and every object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, text

from devstack.demo_cleanups_seed import OBJECTS, Change, Spot, Thing

# The row of each spot; an object has none.
Snapshot = Mapping[Spot, Mapping[str, Any]]
TABLES: Final = (
    "extraction_jobs", "job_runs", "job_fields", "source_files", "extraction_tasks", "source_files_to_tasks",
    "extraction_results", "job_exports", "automations", "automation_runs", "usage_events", "usage_counters",
)  # fmt: skip
_KEYS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "source_files_to_tasks": lambda row: f"{row['source_file_id']}/{row['task_id']}",
    "usage_counters": lambda row: f"{row['user_id']} {row['period_start']}",
}


def _id(row: Mapping[str, Any]) -> str:
    return str(row["id"])


# Of which rows an erasure says how many went.
_COUNTED: Final = (
    "job_runs", "source_files", "extraction_tasks", "extraction_results", "source_files_to_tasks", "job_fields",
    "job_exports", "automation_runs",
)  # fmt: skip


def look(connection: Connection, objects: set[str]) -> Snapshot:
    """Every row of the service's jobs, usage and counters, and every object of the bucket."""
    seen: dict[Spot, Mapping[str, Any]] = {(OBJECTS, name): {} for name in objects}
    for table in TABLES:
        key = _KEYS.get(table, _id)
        for (row,) in connection.execute(text(f"SELECT to_jsonb({table}) FROM {table}")):  # noqa: S608 - all ours
            seen[table, key(row)] = row
    return seen


class Declared:
    """What the seed says must become of everything. What it says nothing about stays as it is."""

    def __init__(self, things: Mapping[Spot, Thing], changes: list[Change]) -> None:
        self.things = things
        self._changes = changes

    def count(self, kind: str, seen: Snapshot, table: str) -> int:
        """How many rows of a table, or objects, there are of a kind."""
        return sum(1 for spot, thing in self.things.items() if thing.kind == kind and spot[0] == table and spot in seen)

    def gone(self, job: str, table: str) -> int:
        """How many rows of a table, or objects, must go with a job."""
        return sum(1 for spot, thing in self.things.items() if thing.goes == job and spot[0] == table)

    def changed(self, job: str, table: str, column: str) -> int:
        """How many rows of a table must have another value in a column after a job."""
        return sum(1 for each in self._changes if (each.job, each.spot[0], each.column) == (job, table, column))

    def after(self, job: str, before: Snapshot) -> Snapshot:
        """What must be there after a job, where `before` was there before it."""
        stays = {spot: row for spot, row in before.items() if not self._goes(spot, job)}
        for change in self._changes:
            if change.job == job:
                stays[change.spot] = {**stays[change.spot], change.column: change.value}
        return stays

    def difference(self, wanted: Snapshot, found: Snapshot) -> str | None:
        """The first thing that is not as it should be, in a sentence; None where all of it is."""
        for spot in sorted({*wanted, *found}):
            if spot not in found:
                return f"{self._told(spot)} is gone, and should have stayed."
            if spot not in wanted:
                return f"{self._told(spot)} is still there, and should have gone."
            if wanted[spot] != found[spot]:
                columns = [name for name, value in wanted[spot].items() if found[spot].get(name) != value]
                return f"{self._told(spot)} was changed, or not as it should have been: {', '.join(columns)}."
        return None

    def erased_rows(self, job: str) -> Mapping[str, Mapping[str, int]]:
        """For each run that a job must erase: how many rows of each table go, and how many objects."""
        rows: dict[str, Counter[str]] = {}
        for (table, _), thing in self.things.items():
            if thing.goes == job and thing.run is not None:
                rows.setdefault(thing.run, Counter())[table] += 1
        return rows

    def _goes(self, spot: Spot, job: str) -> bool:
        return spot in self.things and self.things[spot].goes == job

    def _told(self, spot: Spot) -> str:
        what = "An object" if spot[0] == OBJECTS else f"A row of {spot[0]}"
        return f"{what} of '{self.things[spot].kind}'" if spot in self.things else f"{what} that was not seeded"


@dataclass(frozen=True)
class Erasure:
    """The record of a run's erasure. `told` is the record as a whole, as text."""

    run: str
    user_hash: str
    extent: str
    rows: Mapping[str, int]
    objects: int
    bytes: int
    erased_at: datetime
    completed_at: datetime | None
    copies: str | None
    copies_until: datetime | None
    told: str


def erasures(connection: Connection, job: str) -> list[Erasure]:
    """The records that a job has written."""
    rows = connection.execute(
        text(
            "SELECT CAST(job_run_id AS text) AS run, encode(user_hash, 'hex') AS user_hash, extent, "
            "row_counts AS rows, objects, bytes, erased_at, completed_at, copies, copies_until, "
            "CAST(erasures AS text) AS told FROM maintenance.erasures WHERE job = :job ORDER BY id"
        ),
        {"job": job},
    )
    return [Erasure(**row._mapping) for row in rows]


def wrong_record(
    records: list[Erasure], wanted: Mapping[str, Mapping[str, int]], kept_for: timedelta, size: int
) -> str | None:
    """What is wrong with the records of the runs that were to be erased, in a sentence; None where nothing is."""
    if sorted(record.run for record in records) != sorted(wanted):
        return f"There are {len(records)} records of erasures, and {len(wanted)} runs were to be erased."
    for record in records:
        rows = {table: record.rows.get(table, 0) for table in _COUNTED}
        declared = {table: wanted[record.run].get(table, 0) for table in _COUNTED}
        if rows != declared:
            return f"The record of {record.run} counts {rows}; expected was {declared}."
        if record.extent != ("run" if declared["job_runs"] else "content"):
            return f"The record of {record.run} is one of the {record.extent}."
        # An object and its conversion count as one; a conversion whose object moved may count by itself.
        files = declared["source_files"]
        if not files <= record.objects <= wanted[record.run].get(OBJECTS, 0) or record.bytes != files * size:
            return f"The record of {record.run} counts {record.objects} objects with {record.bytes} bytes, of {files}."
        if record.completed_at is None:
            return f"The record of {record.run} is not complete."
        # Without an object, no copy of one remains.
        until = record.completed_at + kept_for if record.objects else None
        if record.copies_until != until:
            return f"The record of {record.run} says that copies remain until {record.copies_until}, not {until}."
    return None


def written_down(connection: Connection) -> str:
    """All that the cleanups have written down for good: the records of erasures, and the outbox."""
    rows = connection.execute(
        text(
            "SELECT CAST(record AS text) FROM maintenance.erasures AS record "
            "UNION ALL SELECT CAST(outbox AS text) FROM maintenance.object_deletions AS outbox"
        )
    )
    return "\n".join(row[0] for row in rows)
