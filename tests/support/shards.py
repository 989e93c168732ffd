"""A firing in shards, whose tasks tests deliver by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from shared.context import Context
from shared.invocation import Invocation, parse_task
from shared.job import Job, JobResult
from shared.outcome import Outcome
from shared.runner import run_job
from shared.shards import Part
from tests.conftest import Environment, MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.jobs import ordered
from tests.support.tasks import QUEUE, Taking

SHARDS = 3
_HOST = "127.0.0.1:8080"


class Firing:
    """A firing of a job in shards. Each run counts one; `orders` is asked first what else a run does."""

    def __init__(self, make: MakeEnvironment, taking: Taking, database: TestDatabase, clock: ManualClock) -> None:
        self.environment: Environment = make({"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": taking.address})
        self.taking = taking
        self.database = database
        self.clock = clock
        self.parts: list[tuple[Part, int]] = []
        self.orders: Callable[[Context], JobResult | None] = lambda _: None
        self.job: Job = ordered("in_shards", self._order, shards=SHARDS)

    def _order(self, ctx: Context) -> JobResult:
        self.parts.append((ctx.share.part, ctx.share.number))
        with ctx.batch() as batch:
            batch.count(updated_count=1)
        return self.orders(ctx) or JobResult(f"did {ctx.share.part.name}", gauges={"due_count": 7})

    def run(self, **fields: object) -> Outcome:
        """One request that is no task's; the firing itself unless told otherwise."""
        asked = {"trigger": "schedule", "slot": NOON, "host": _HOST, **fields}
        return run_job(self.environment.services, self.job, Invocation(**asked))  # type: ignore[arg-type]

    def deliver(self, number: int) -> Outcome:
        """Deliver a task that was queued, by its number in the queue."""
        body = self.taking.requests[number].task.http_request.body
        invocation = parse_task(body, self.clock.now(), self.job.shards)
        return run_job(self.environment.services, self.job, replace(invocation, host=_HOST))

    @property
    def queued(self) -> list[tuple[int, int]]:
        """Shard and step of each task, by the names."""
        ends = [name.split("-")[-2:] for name in self.taking.names]
        return [(int(shard), int(step)) for shard, step in ends]

    def rows(self) -> Sequence[tuple[int, int, str]]:
        """Shard, step and status of each run on record."""
        rows = self.database.rows("SELECT shard, step, status FROM maintenance.runs ORDER BY id")
        return [(row["shard"], row["step"], row["status"]) for row in rows]
