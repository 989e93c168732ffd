"""How far a run is, on a terminal: a bar with rate and time left.

The run says nothing for this: what it has counted is on record with each batch, and is read from there.
"""

import threading
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

from shared.errors import MaintenanceError
from shared.job import Job
from shared.services import Services
from shared.sql import Statement

_POLL_SECONDS = 0.5
_COUNTS = Statement(
    "counts_now",
    "What the run of a job that goes on now has counted. One by hand is no shard's.",
    "SELECT counts FROM maintenance.runs "
    "WHERE job = :job AND shard = 0 AND status = 'running' ORDER BY id DESC LIMIT 1",
)


class Progress:
    """Shows a job's main count while the `with` block lasts. What cannot be read is not shown."""

    def __init__(self, services: Services, job: Job, *, shown: bool) -> None:
        self._services = services
        self._job = job
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True) if shown else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(self._job.cli, total=self._waiting(), rate="")
            while not self._done.wait(_POLL_SECONDS):
                bar.update(task, completed=self._counted())
                speed = bar.tasks[0].speed
                bar.update(task, rate=f"{speed:.0f}/s" if speed else "")

    def _waiting(self) -> int | None:
        """How many items wait, where the job tells; None: nobody knows, and the bar only moves."""
        services = self._services
        try:
            with services.database.transaction(read_only=True) as transaction:
                waiting = self._job.load().waiting(transaction, services.clock.now(), services.settings)
        except MaintenanceError:
            return None
        return next((value for name, value in waiting.items() if name in ("due_count", "waiting_count")), None)

    def _counted(self) -> int:
        try:
            with self._services.database.transaction(read_only=True) as transaction:
                row = transaction.row(_COUNTS, job=self._job.name)
        except MaintenanceError:
            return 0
        return int(row["counts"].get(self._job.counts[0], 0)) if row else 0
