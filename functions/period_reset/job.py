"""Move every free account whose billing period has ended to the calendar month (UTC) that contains now.

Invariants, each held by the SQL beside this file and not by the guards around the run:

- A paid account is never written. The condition stands in the locking SELECT and again in the UPDATE, so an upgrade
  that commits at any moment keeps its Stripe period.
- A usage counter that exists is never touched: pages used stay used.
- An account is moved together with its counter, in one transaction, or not at all.
- A second run at any time changes nothing: an account in its month is not due.

Accounts that others hold locked are passed by and tried again; in a conflict with the service this job yields.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from functions.period_reset.month import Month, month_of
from shared.context import Context
from shared.errors import DataRejected, LockLost
from shared.job import JobResult
from shared.postgres import Transaction
from shared.settings import Settings
from shared.sql import load_statements

STATEMENTS = load_statements(Path(__file__).with_name("queries.sql"))

BATCH_SIZE = 5_000
# Accounts that stay locked by others are waited for this often, so long in all; then the run is incomplete.
_WAITS_SECONDS = (0.25, 0.5, 1.0, 1.0, 1.0)
_STALE_AFTER = timedelta(days=2)


def run(ctx: Context) -> JobResult:
    """Reset all due accounts; in a dry run, count them."""
    month = month_of(ctx.now)
    if ctx.dry_run:
        return _dry_run(ctx, month)
    sweep = _Sweep(ctx, month)
    waits = iter(_WAITS_SECONDS)
    while sweep.may_go_on():
        if sweep.one_pass():
            continue
        left = _what_waits(ctx)
        # An account that the database refuses would be refused again: it is counted, logged, and not waited for.
        if left["due_count"] <= len(sweep.refused):
            return JobResult(_completed(ctx), gauges=left)
        pause = next(waits, None)
        if pause is None:
            held = left["due_count"] - len(sweep.refused)
            message = f"Period reset stopped after {_users(ctx)}: {held} more stayed locked by other sessions"
            return JobResult(message, complete=False, gauges=left)
        ctx.wait(pause)
    left = _what_waits(ctx)
    if sweep.limit_reached():
        return JobResult(f"{_completed(ctx)} (limit reached)", gauges=left)
    message = f"Period reset ran out of time after {_users(ctx)}: {left['due_count']} more wait"
    return JobResult(message, complete=left["due_count"] == 0, gauges=left)


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """How many accounts are due, and how many paid ones have missed a webhook."""
    parameters = _parameters(month_of(now), now, settings)
    row = transaction.row(STATEMENTS["what_waits"], **parameters, stale_before=now - _STALE_AFTER)
    return {"due_count": row["due"], "stale_paid_count": row["stale_paid"]} if row else {}


class _Sweep:
    """Passes over the accounts by ascending key, in batches that shrink where a lock is lost."""

    def __init__(self, ctx: Context, month: Month) -> None:
        self._ctx = ctx
        self._parameters = _parameters(month, ctx.now, ctx.settings)
        self.refused: set[str] = set()

    def limit_reached(self) -> bool:
        """Whether as many accounts were treated as the request allows."""
        return self._ctx.limit is not None and self._treated() >= self._ctx.limit

    def may_go_on(self) -> bool:
        """Whether there is time, and the limit allows more."""
        return not self.limit_reached() and self._ctx.time_left() > 0

    def one_pass(self) -> int:
        """Go over all keys once; give how many accounts were moved."""
        first_key, size, locked, moved = "", BATCH_SIZE, set[str](), 0
        while self.may_go_on():
            if self._ctx.limit is not None:
                size = min(size, self._ctx.limit - self._treated())
            try:
                row = self._batch(first_key, size, locked)
            except (LockLost, DataRejected) as error:
                if size > 1:
                    size //= 2
                    continue
                key = self._next_key(first_key, locked)
                if key is None:
                    return moved
                if isinstance(error, DataRejected):
                    self.refused.add(key)
                    self._ctx.item_failed(key, error.reason)
                else:
                    locked.add(key)
                first_key = key
                continue
            moved += int(row["moved"])
            if row["found"] < size:
                return moved
            first_key, size = row["last_key"], min(size * 2, BATCH_SIZE)
        return moved

    def _treated(self) -> int:
        return self._ctx.counts["updated_count"] + self._ctx.counts["failed_count"]

    def _batch(self, first_key: str, size: int, locked: set[str]) -> Mapping[str, Any]:
        # Not durable: what a crash of the server loses is due again, and the run's last commit makes all of it durable.
        with self._ctx.batch(durable=False) as batch:
            row = batch.row(
                STATEMENTS["reset_batch"],
                **self._parameters,
                first_key=first_key,
                passed_by=sorted(self.refused | locked),
                size=size,
            )
            assert row is not None  # noqa: S101  a SELECT without FROM always gives one row
            batch.count(updated_count=row["moved"], counters_created=row["counters_created"])
        return row

    def _next_key(self, first_key: str, locked: set[str]) -> str | None:
        with self._ctx.reading() as transaction:
            row = transaction.row(
                STATEMENTS["next_due"], **self._parameters, first_key=first_key, passed_by=sorted(self.refused | locked)
            )
        return row["user_id"] if row else None


def _dry_run(ctx: Context, month: Month) -> JobResult:
    gauges = _what_waits(ctx)
    due = gauges["due_count"] if ctx.limit is None else min(gauges["due_count"], ctx.limit)
    ctx.counts["updated_count"] = due
    return JobResult(f"Dry run: period reset would move {_users(ctx)} to {month}", gauges=gauges)


def _what_waits(ctx: Context) -> dict[str, int]:
    with ctx.reading() as transaction:
        return dict(waiting(transaction, ctx.now, ctx.settings))


def _parameters(month: Month, now: datetime, settings: Settings) -> dict[str, object]:
    return {
        "free_plans": list(settings.free_plan_codes),
        "now": now,
        "month_start": month.start,
        "month_end": month.end,
    }


def _completed(ctx: Context) -> str:
    return f"Period reset completed for {_users(ctx)}"


def _users(ctx: Context) -> str:
    count = ctx.total("updated_count")
    return f"{count} free user{'' if count == 1 else 's'}"
