"""Move every free account whose billing period has ended to the calendar month (UTC) that contains now.

Invariants, each held by the SQL beside this file and not by the guards around the run:

- A paid account is never written. The condition stands in the locking SELECT and again in the UPDATE, so an upgrade
  that commits at any moment keeps its Stripe period.
- A usage counter that exists is never touched: pages used stay used.
- An account is moved together with its counter, in one transaction, or not at all.
- A second run at any time changes nothing: an account in its month is not due.

Accounts that others hold locked are passed by and tried again; in a conflict with the service this job yields.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from functions.period_reset.month import Month, month_of
from functions.period_reset.sweep import STATEMENTS, Sweep, due_parameters
from shared.context import Context
from shared.errors import Misconfigured
from shared.job import JobResult
from shared.postgres import Transaction
from shared.settings import Settings

# Accounts that stay locked by others are waited for this often, so long in all; then the run is incomplete.
_WAITS_SECONDS = (0.25, 0.5, 1.0, 1.0, 1.0)
_STALE_AFTER = timedelta(days=2)


def run(ctx: Context) -> JobResult:
    """Reset all due accounts; in a dry run, count them.

    Raises Misconfigured when FREE_PLAN_CODES names a plan that the service does not have.
    """
    month = month_of(ctx.now)
    if ctx.dry_run:
        return _dry_run(ctx, month)
    sweep = Sweep(ctx, month)
    waits = iter(_WAITS_SECONDS)
    # This reads the table once; a pass that finds nothing goes over all keys, which takes longer.
    found = _look(ctx, month, sweep.refused)
    while found.others_due and sweep.may_go_on():
        moved = sweep.one_pass()
        # An account that the database refused would be refused again: it is counted and logged, and not waited for.
        found = _look(ctx, month, sweep.refused)
        if moved == 0 and found.others_due:
            pause = next(waits, None)
            if pause is None:
                break
            ctx.timer.wait(pause)
    return _result(ctx, sweep, found)


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """How many accounts are due, and how many paid ones have missed a webhook."""
    return _look_with(transaction, month_of(now), now, settings, set()).gauges


@dataclass(frozen=True)
class _Found:
    """What is in the accounts now. `others_due` leaves out the accounts that the database has refused."""

    gauges: Mapping[str, int]
    others_due: int


def _result(ctx: Context, sweep: Sweep, found: _Found) -> JobResult:
    done = f"Period reset completed for {_users(ctx)}"
    if found.others_due == 0:
        return JobResult(done, gauges=found.gauges)
    if sweep.limit_reached:
        return JobResult(f"{done} (limit reached)", gauges=found.gauges)
    if sweep.is_hopeless:
        why = f"the database refused {len(sweep.refused)} accounts, the last ones all in a row; the log says why"
    elif ctx.time_left() <= 0:
        why = f"time ran out, and {found.others_due} more wait"
    else:
        why = f"{found.others_due} more stayed locked by other sessions"
    return JobResult(f"Period reset stopped after {_users(ctx)}: {why}", complete=False, gauges=found.gauges)


def _dry_run(ctx: Context, month: Month) -> JobResult:
    found = _look(ctx, month, set())
    ctx.counts["updated_count"] = found.others_due if ctx.limit is None else min(found.others_due, ctx.limit)
    return JobResult(f"Dry run: period reset would move {_users(ctx)} to {month}", gauges=found.gauges)


def _look(ctx: Context, month: Month, refused: set[str]) -> _Found:
    with ctx.reading() as transaction:
        return _look_with(transaction, month, ctx.now, ctx.settings, refused)


def _look_with(transaction: Transaction, month: Month, now: datetime, settings: Settings, refused: set[str]) -> _Found:
    (row,) = transaction.rows(
        STATEMENTS["what_waits"],
        **due_parameters(month, now, settings),
        stale_before=now - _STALE_AFTER,
        refused=sorted(refused),
    )
    _check_plans(settings.free_plan_codes, row["plans"])
    return _Found({name: row[name] for name in ("due_count", "stale_paid_count")}, row["others_due"])


def _check_plans(codes: Iterable[str], known: Iterable[str] | None) -> None:
    """Refuse a misspelt plan: its accounts would stay blocked, and nobody would hear of it."""
    for code in codes:
        if known and code not in known:
            raise Misconfigured(
                "FREE_PLAN_CODES",
                f"FREE_PLAN_CODES names the plan {code!r}, which the service does not have. It has: "
                f"{', '.join(sorted(known))}.",
            )


def _users(ctx: Context) -> str:
    count = ctx.total("updated_count")
    return f"{count} free user{'' if count == 1 else 's'}"
