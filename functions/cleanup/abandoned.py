"""Erase drafts that were never started, with their files; and extraction jobs that are left with nothing.

Dangers beside those of `functions.cleanup.erasing`, each held by the rules in abandoned.sql:

- The latest run of a job with an automation is a draft that waits for mail, or the model of the next run: it stays.
- A draft that an automation is just filling is in use, however old it is.
- A user may come back to a draft at any moment, marked for deletion or not: what was active since stays.
- Deleting a job deletes its automations: one that has any stays.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from functions.cleanup.draining import drain_shard
from functions.cleanup.erasing import Plan, rules
from functions.cleanup.erasure_job import Words, run_erasure, waiting_for
from shared.context import Context
from shared.job import JobResult
from shared.postgres import Transaction
from shared.settings import Settings

_RULES = rules(Path(__file__).with_name("abandoned.sql"))
_WORDS = Words("Abandoned cleanup", "draft")


def run(ctx: Context) -> JobResult:
    """Erase abandoned drafts. Raises Refused, Misconfigured or Unavailable."""
    return run_erasure(ctx, _plan(ctx.now, ctx.settings), _WORDS)


def open_slot(ctx: Context) -> JobResult:
    """The same, but for the objects, which are left to the shards. Raises Refused, Misconfigured or Unavailable."""
    return run_erasure(ctx, _plan(ctx.now, ctx.settings), _WORDS, drains=False)


run_shard = drain_shard
close_slot = run


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """How many drafts are due or held, and how many objects wait."""
    return waiting_for(transaction, _plan(now, settings), settings.cleanup.bucket, now)


def _plan(now: datetime, settings: Settings) -> Plan:
    idle_before = now - settings.cleanup.abandoned_after
    return Plan(
        rules=_RULES,
        parameters={"now": now, "drafted_before": idle_before},
        parents={"idle_before": idle_before, "only_jobs": None},
    )
