"""Erase the data of users who opted out of keeping it, once it has served its purpose.

Dangers beside those of `functions.cleanup.erasing`, each held by the rules in opt_out.sql:

- An end other than "completed" has no completed_at: last_active_at tells then.
- The latest run of a job with an automation carries its fields and its template: only its content goes, and what the
  next appended run updates (an export with an external_id) stays.
- A draft that was marked "to be deleted" may have been taken up again: only a cancelled and idle one goes.
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

_RULES = rules(Path(__file__).with_name("opt_out.sql"))
_WORDS = Words("Opt-out cleanup", "run")


def run(ctx: Context) -> JobResult:
    """Erase what is not to be kept. Raises Refused, Misconfigured or Unavailable."""
    return run_erasure(ctx, _plan(ctx.now, ctx.settings), _WORDS)


def open_slot(ctx: Context) -> JobResult:
    """The same, but for the objects, which are left to the shards. Raises Refused, Misconfigured or Unavailable."""
    return run_erasure(ctx, _plan(ctx.now, ctx.settings), _WORDS, drains=False)


run_shard = drain_shard
close_slot = run


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """How many runs are due or held, and how many objects wait."""
    return waiting_for(transaction, _plan(now, settings), settings.cleanup.bucket, now)


def _plan(now: datetime, settings: Settings) -> Plan:
    cleanup = settings.cleanup
    return Plan(
        rules=_RULES,
        parameters={
            "now": now,
            "cancelled_before": now - cleanup.abandoned_after,
            "ended_before": now - cleanup.opt_out_grace,
        },
        parents=None,
    )
