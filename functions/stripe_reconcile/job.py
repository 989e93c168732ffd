"""Report usage that never reached Stripe: every billable page once, in the right period, or visibly not.

Invariants, each held by the SQL and the decisions beside this file and not by the guards around the run:

- An event is sent as it was frozen before its first attempt, at the time when it occurred, under its own identifier.
- It is sent again only while Stripe knows that identifier; later, or where somebody else may have sent it, only after
  Stripe's own sums have shown that it is not there (docs/adr/0005 says what that leaves).
- It is marked as reported only when Stripe has it, or when it is certain that it was not to be billed.
- What cannot be told is left as it is, counted, and shown: in doubt, blocked, refused, too old.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

from functions.stripe_reconcile.audit import audit
from functions.stripe_reconcile.classify import Asked, ask_next, decide_by_asking, decide_from_tables, would_classify
from functions.stripe_reconcile.preflight import Target, target_of
from functions.stripe_reconcile.proving import prove_next
from functions.stripe_reconcile.reading import OutOfTime, Reader, ReadRefused
from functions.stripe_reconcile.refusals import note_refusals
from functions.stripe_reconcile.run_state import RunState, statements
from functions.stripe_reconcile.sending import send_ready
from functions.stripe_reconcile.settling import adopt_orphans, take_stock
from shared.context import Context
from shared.errors import LockLost, MaintenanceError, Misconfigured, Unavailable
from shared.job import FAILED_COUNT, JobResult
from shared.postgres import Transaction
from shared.settings import Settings
from shared.stripe_settings import StripeSettings

_STATEMENTS = statements("waiting.sql")
_NOT_BILLABLE = ("zero_pages", "free", "not_subscribed")
# What only a person can do something about, and what it is.
_ATTENTION = {
    "in_doubt": "may or may not be at Stripe",
    "blocked": "cannot be told whether to bill",
    "dead_letter": "were refused by Stripe, or are too old for it",
}


def run(ctx: Context) -> JobResult:
    """Report what was not reported; in a dry run, say what would be sent.

    Raises Misconfigured when key, rights or meter are wrong, and Unavailable when Stripe fails call after call.
    """
    state = _prepared(ctx)
    if ctx.dry_run:
        return _dry_run(state)
    adopt_orphans(state)
    take_stock(state)
    decide_from_tables(state)
    _report(state)
    if state.may_go_on():
        _audit(state)
    return _result(state)


def open_slot(ctx: Context) -> JobResult:
    """Decide what our own tables tell enough about. Raises as `run` does."""
    state = _prepared(ctx)
    take_stock(state)
    with suppress(Unavailable, LockLost, OutOfTime):
        # So that the shards find nothing new in it. Each looks once more, and proves nothing where it cannot.
        note_refusals(state)
    decide_from_tables(state)
    is_over = ctx.time_left() <= 0
    why = "stopped: time ran out while events were being decided" if is_over else "decided what the tables tell"
    return JobResult(f"Stripe reconcile {why}", complete=not is_over)


def run_shard(ctx: Context) -> JobResult:
    """Report what was not reported for the shard's customers. Raises as `run` does."""
    state = _prepared(ctx)
    adopt_orphans(state)
    _report(state)
    taken, sent, is_over = ctx.total("success_count"), ctx.total("retry_count"), ctx.time_left() <= 0
    told = (
        f"Stripe reconcile, {ctx.share}, {'stopped' if is_over else 'completed'}: Stripe has {taken} more; {sent} sent"
    )
    return JobResult(f"{told}; time ran out" if is_over else told, complete=not is_over)


def close_slot(ctx: Context) -> JobResult:
    """Hold what Stripe has against its sums, and tell of all of it. Raises as `run` does."""
    # What the shards asked about, and could not decide, is for the next firing: asking anew would take as long as they.
    # Nor does it meet again what the opening could not decide.
    ctx.failed_count += ctx.left.get(FAILED_COUNT, 0)
    state = _prepared(ctx)
    take_stock(state)
    if state.may_go_on():
        _audit(state)
    return _result(state)


def _report(state: RunState) -> None:
    """Ask, look and send, until nothing is left or time is up."""
    pace = state.ctx.pace("events", state.settings.rate)
    more = proves = True
    trouble: MaintenanceError | None = None
    try:
        note_refusals(state)
    except OutOfTime:
        more = False
    except (Unavailable, LockLost) as error:
        # Without it nothing may be looked for: what is known to be there may not be. All else goes on.
        proves, trouble = False, error
    while more:
        # Asking and looking go in slices of some seconds, so that what is ready does not wait for all of them.
        asked = looked = False
        try:
            asked = state.may_go_on() and decide_by_asking(state)
            if proves and state.may_go_on():
                note_refusals(state)
                looked = prove_next(state)
        except (Unavailable, LockLost) as error:
            more, trouble = False, trouble or error
        except OutOfTime:
            break
        send_ready(state, pace)
        more = more and (asked or looked) and state.may_go_on()
    if trouble is not None:
        raise trouble


def waiting(transaction: Transaction, now: datetime, settings: Settings) -> Mapping[str, int]:
    """What waits to be reported, what is in somebody's way, and what only a person can decide."""
    (row,) = transaction.rows(_STATEMENTS["waiting"], now=now, before=now - settings.stripe.min_age)
    return {name: int(value) for name, value in row.items()}


def _prepared(ctx: Context) -> RunState:
    settings = ctx.settings.stripe
    reader = Reader(ctx, ctx.connect_stripe())
    return RunState(ctx, reader, _target(reader, settings.meter_id or "", settings), ctx.timer.seconds())


def _target(reader: Reader, meter_id: str, settings: StripeSettings) -> Target:
    try:
        return target_of(reader.once(lambda stripe: stripe.meter(meter_id)), settings)
    except OutOfTime as error:
        raise Unavailable("stripe", "Stripe put the first read off for longer than a run lasts. Try again.") from error
    except ReadRefused as error:
        raise Misconfigured(
            "STRIPE_METER_PAGES",
            f"Stripe knows no meter {meter_id} in the account of STRIPE_SECRET_KEY: "
            f"{error.answer.message.rstrip('.')}. Nothing was marked.",
        ) from error


def _audit(state: RunState) -> None:
    try:
        audit(state)
    except (Unavailable, LockLost, OutOfTime) as error:
        # What was to be reported is; the next run holds it against Stripe's sums.
        state.ctx.attention(f"Not compared with Stripe's sums: {error}")


def _result(state: RunState) -> JobResult:
    ctx = state.ctx
    with ctx.reading() as transaction:
        gauges = waiting(transaction, ctx.moment(), ctx.settings)
    for kind, what in _ATTENTION.items():
        if gauges[f"{kind}_count"]:
            ctx.attention(
                f"{gauges[f'{kind}_count']} events with {gauges[f'{kind}_pages']} pages {what}.",
                kind=kind,
                count=gauges[f"{kind}_count"],
                pages=gauges[f"{kind}_pages"],
            )
    taken = ctx.total("success_count")
    told = f"Stripe has {taken} more event{'' if taken == 1 else 's'}; {ctx.total('retry_count')} sent"
    if ctx.limit is not None and not state.room(1):
        return JobResult(f"Stripe reconcile completed (limit reached): {told}", gauges=gauges)
    if ctx.time_left() <= 0:
        why = f"time ran out, and {gauges['waiting_count']} more wait"
        return JobResult(f"Stripe reconcile stopped: {told}; {why}", complete=False, gauges=gauges)
    return JobResult(f"Stripe reconcile completed: {told}", gauges=gauges)


def _dry_run(state: RunState) -> JobResult:
    """Decide everything as a run would, reading subscriptions as it would, and write nothing."""
    ctx = state.ctx
    asked = Asked()
    while ctx.time_left() > 0:
        more = ask_next(state, [*asked.customers, *state.passed_by])
        if more is None:
            break
        asked.extend(more)
    verdicts = {row["verdict"]: row for row in would_classify(state, asked)}
    for verdict in _NOT_BILLABLE:
        if verdict in verdicts:
            events, pages = int(verdicts[verdict]["events"]), int(verdicts[verdict]["pages"])
            ctx.counts.update({f"{verdict}_count": events, "not_billable_count": events, "not_billable_pages": pages})
            if pages:
                ctx.counts[f"{verdict}_pages"] = pages
    with ctx.reading() as transaction:
        gauges = waiting(transaction, ctx.now, ctx.settings)
    sent = verdicts.get("billable", {"events": 0, "pages": 0, "customers": 0, "to_prove": 0})
    ctx.counts.update(retry_count=int(sent["events"]), retry_pages=int(sent["pages"]))
    told = (
        f"Dry run: stripe reconcile would send {sent['events']} events with {sent['pages']} pages for "
        f"{sent['customers']} customers"
    )
    if ctx.limit is not None:
        told += f", of which a run with this limit takes {ctx.limit} at most"
    if sent["to_prove"]:
        told += f"; {sent['to_prove']} of them only after Stripe's sums have shown that they are not there yet"
    if "ask" in verdicts:
        told += f"; {verdicts['ask']['events']} more could not be decided"
    return JobResult(told, gauges=gauges)
