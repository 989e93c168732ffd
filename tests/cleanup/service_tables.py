"""The document service's tables: finding what there is, and adding rows, each with an id and a moment of its own."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.support.clock import ManualClock
from tests.support.database import TestDatabase

_NAMES = uuid.UUID("5d0f9f6a-6a0c-4d1d-8d39-3f6f1b7f3a11")


class ServiceTables:
    """What stands in the tables, and what is needed to add to it. The same history gives the same ids each time."""

    def __init__(self, database: TestDatabase, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self._number = 0

    # ---- what there is, oldest first

    def users(self) -> list[str]:
        return self._ids("SELECT id FROM users ORDER BY id")

    def jobs(self, where: str = "true") -> list[str]:
        return self._ids(f"SELECT id FROM extraction_jobs AS job WHERE {where} ORDER BY created_at, id")

    def runs(self, where: str = "true") -> list[str]:
        return self._ids(f"SELECT id FROM job_runs AS run WHERE {where} ORDER BY created_at, id")

    def drafts(self) -> list[str]:
        return self.runs("config_step <> 'submitted'")

    def files(self, where: str = "true") -> list[str]:
        return self._ids(f"SELECT id FROM source_files AS file WHERE {where} ORDER BY updated_at, id")

    def automations(self) -> list[str]:
        return self._ids("SELECT id FROM automations ORDER BY created_at, id")

    def objects_to_go(self, like: str) -> list[str]:
        """Names in the outbox: what a user may want again. It is no business of the service's to know."""
        rows = self.database.rows(
            "SELECT object_name AS name FROM maintenance.object_deletions "
            "WHERE done_at IS NULL AND object_name LIKE :like ORDER BY id",
            like=like,
        )
        return [row["name"] for row in rows]

    def _ids(self, sql: str) -> list[str]:
        return [str(row["id"]) for row in self.database.rows(sql)]

    def _latest(self, job: str) -> Mapping[str, Any] | None:
        rows = self.database.rows(
            "SELECT id, config_step, status, persist_data FROM job_runs WHERE job_id = :job "
            "ORDER BY created_at DESC, id LIMIT 1",
            job=job,
        )
        return rows[0] if rows else None

    def _job_of(self, run: str) -> str:
        return str(self.database.value("SELECT job_id FROM job_runs WHERE id = :run", run=run))

    # ---- adding

    def _add(self, table: str, key: str | None = "id", **values: object) -> str:
        if key is not None:
            values[key] = self._uuid()
        names = ", ".join(values)
        self.database.execute(
            f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values
        )
        return str(values.get(key or ""))

    def _uuid(self) -> str:
        return str(uuid.uuid5(_NAMES, str(self._next())))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _now(self) -> datetime:
        self.clock.advance(seconds=1)
        return self.clock.now()
