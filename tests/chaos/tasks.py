"""A queue as Cloud Tasks has it: each task is delivered until it is answered well, some twice, and in no order."""

import json
import random
from dataclasses import dataclass
from datetime import datetime

import grpc  # type: ignore[import-untyped]
from google.cloud import tasks_v2

from functions.registry import JOBS
from shared.clock import parse_rfc3339
from tests.chaos.schedule import Schedule
from tests.support.tasks import QUEUE, Taking

_TWICE = 0.2


@dataclass(frozen=True)
class Task:
    """One task: of which firing it is, and what is delivered."""

    name: str
    body: bytes

    @property
    def job(self) -> str:
        """The function that it is for; a stand-in's address is that of all."""
        return next(job for job in JOBS if f"-{job.replace('_', '-')}-" in self.name)

    @property
    def slot(self) -> datetime:
        """The firing's."""
        return parse_rfc3339(json.loads(self.body)["slot"])

    @property
    def shard(self) -> int:
        """The shard's number, 0 for what closes the firing."""
        return int(json.loads(self.body)["shard"])


class Tasks(Taking):
    """The queue of one schedule. `left` are tasks that have to be delivered, once more or for the first time."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._chance = random.Random(f"tasks {schedule.seed}")  # noqa: S311  nothing secret
        self._refused = schedule.refused_tasks
        self._known = 0
        self.left: list[Task] = []

    @property
    def environ(self) -> dict[str, str]:
        """The settings of a machine that uses it."""
        return {"CONTINUATION_QUEUE": QUEUE, "CLOUD_TASKS_EMULATOR_HOST": self.address}

    def take_new(self) -> list[Task]:
        """What came since the last look, in some order, and some of it twice."""
        came, self._known = self.requests[self._known :], len(self.requests)
        found = [Task(each.task.name, each.task.http_request.body) for each in came]
        found += [task for task in found if self._chance.random() < _TWICE]
        self._chance.shuffle(found)
        return found

    def take_left(self) -> list[Task]:
        """All that has to be delivered now, each once."""
        left, self.left = list(dict.fromkeys([*self.left, *self.take_new()])), []
        return left

    def some_machine(self, machines: int) -> int:
        """Where a delivery goes."""
        return self._chance.randrange(machines)

    def _create(self, request: tasks_v2.CreateTaskRequest, context: grpc.ServicerContext) -> tasks_v2.Task:
        if self._refused > 0:
            self._refused -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "as the schedule says")
        return super()._create(request, context)
