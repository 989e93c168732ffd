"""All there is at one moment, and how two moments differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Row = dict[str, Any]
Tables = dict[str, list[Row]]
# The service's own tables that the cleanups delete from, or whose columns their deletions set to NULL.
HOST = (
    "users", "billing_accounts", "extraction_jobs", "job_runs", "job_fields", "source_files", "extraction_tasks",
    "source_files_to_tasks", "extraction_results", "job_exports", "automations", "automation_runs", "usage_events",
    "usage_counters", "maintenance.holds",
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """An object of the bucket."""

    created_at: datetime
    generation: int


@dataclass
class State:
    """All there is at one moment: every row of every table, every object by name."""

    tables: Tables
    objects: dict[str, Stored]

    def open_rows(self) -> list[Row]:
        """The outbox, as far as it is not done with."""
        return [row for row in self.tables["maintenance.object_deletions"] if row["done_at"] is None]

    def copied(self) -> "State":
        return State({name: [dict(row) for row in rows] for name, rows in self.tables.items()}, dict(self.objects))

    def of_run(self, table: str, run: str) -> list[Row]:
        """A run's rows of a table."""
        return [row for row in self.tables[table] if row["job_run_id"] == run]

    def by_id(self, table: str) -> dict[str, Row]:
        return {str(row["id"]): row for row in self.tables[table]}


def differences(expected: State, found: State) -> list[str]:
    """Rows and objects that are too many, too few, or other than they should be."""
    wrong = []
    for table in HOST:
        should, are = _sorted(expected.tables[table]), _sorted(found.tables[table])
        wrong += [f"{table}: missing or changed: {row}" for row in should if row not in are]
        wrong += [f"{table}: left or changed: {row}" for row in are if row not in should]
    for name in sorted({*expected.objects, *found.objects}):
        if expected.objects.get(name) != found.objects.get(name):
            is_left = "left" if name in found.objects else "missing"
            wrong.append(f"object {name} is {is_left}")
    return wrong


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=str)


def miscounted(told: Mapping[str, int], counts: Mapping[str, int]) -> list[str]:
    """Counts that are other than they should be."""
    return [
        f"{name} is {counts.get(name)} and should be {number}"
        for name, number in told.items()
        if counts.get(name) != number
    ]
