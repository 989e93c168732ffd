"""Jobs that do as they are told, for tests of what surrounds a job."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from functions.registry import JOBS
from shared.context import Context
from shared.job import Job, JobResult
from shared.postgres import Transaction
from shared.settings import Settings

# What each such job does, by its name. Tests fill this.
ORDERS: dict[str, Callable[[Context], JobResult]] = {}


def run(ctx: Context) -> JobResult:
    """Do what the test ordered for this job."""
    return ORDERS[ctx.job.name](ctx)


# A job in shards is told what to do by its context's share.
open_slot = run_shard = close_slot = run


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:  # noqa: ARG001
    """Nothing ever waits."""
    return {}


def ordered(name: str, order: Callable[[Context], JobResult], *, shards: int = 1) -> Job:
    """A job of that name that does what is ordered."""
    ORDERS[name] = order
    return replace(JOBS["period_reset"], name=name, cli=name.replace("_", ""), module=__name__, shards=shards)


def count_one(ctx: Context) -> JobResult:
    """An order: one batch that counts one."""
    with ctx.batch() as batch:
        batch.count(updated_count=1)
    return JobResult(f"counted {ctx.total('updated_count')}")


class Gate:
    """An order that says when it runs, and counts one when it is let."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.runs = 0

    def __call__(self, ctx: Context) -> JobResult:
        """Wait for `let_go`, then count one."""
        self.runs += 1
        self.entered.set()
        assert self.let_go.wait(30), "the test never let this job go on"
        return count_one(ctx)
