"""All there is at one moment, and how two moments differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import urllib3

from tests.support.database import TestDatabase

Row = dict[str, Any]
Tables = dict[str, list[Row]]
# The service's own tables that the cleanups delete from, or whose columns their deletions set to NULL.
HOST = (
    "users", "billing_accounts", "extraction_jobs", "job_runs", "job_fields", "source_files", "extraction_tasks",
    "source_files_to_tasks", "extraction_results", "job_exports", "automations", "automation_runs", "usage_events",
    "usage_counters", "maintenance.holds",
)  # fmt: skip
# All of which a state is made.
TABLES: Sequence[str] = (
    "users", "billing_accounts", "extraction_jobs", "job_runs", "job_fields", "source_files", "extraction_tasks",
    "source_files_to_tasks", "extraction_results", "job_exports", "automations", "automation_runs", "usage_events",
    "usage_counters", "maintenance.holds", "maintenance.object_deletions", "maintenance.erasures", "maintenance.runs",
    "maintenance.cursors",
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


def read_tables(database: TestDatabase) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, times as times."""
    parts = [f"SELECT '{table}' AS name, CAST(to_jsonb(t) AS text) AS row FROM {table} AS t" for table in TABLES]
    tables: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    for found in database.rows(" UNION ALL ".join(parts)):
        tables[found["name"]].append({name: _value(name, value) for name, value in json.loads(found["row"]).items()})
    return tables


def read_objects(url: str, bucket: str) -> dict[str, int]:
    """The generations of all objects."""
    query = urlencode({"fields": "items(name,generation)", "maxResults": 10_000})
    told = json.loads(urllib3.request("GET", f"{url}/storage/v1/b/{bucket}/o?{query}").data)
    assert not told.get("nextPageToken")
    return {item["name"]: int(item["generation"]) for item in told.get("items") or ()}


def _value(name: str, value: Any) -> Any:
    is_time = isinstance(value, str) and name.endswith(("_at", "_start", "_end", "until"))
    return datetime.fromisoformat(value) if is_time else value
