"""Our pages held against Stripe's sums on demand, by the job's own reading. It can write nothing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from functions.registry import JOBS
from functions.stripe_reconcile.audit import Comparison, compare
from functions.stripe_reconcile.preflight import target_of
from functions.stripe_reconcile.reading import Reader, ReadRefused
from functions.stripe_reconcile.run_state import RunState, some, statements
from ops.shell import NO, Column, NotThere, Shell, command
from shared.context import Context
from shared.errors import Misconfigured
from shared.postgres import Row
from shared.sql import load_statements
from shared.start_check import check_start
from shared.stripe_calls import Stripe

_STATEMENTS = load_statements(Path(__file__).with_name("stripe.sql"))
_PERIODS = statements("audit.sql")["periods"]
_JOB = JOBS["stripe_reconcile"]
# As the job's audit: Stripe's periods are a month long.
_PERIODS_FOR = timedelta(days=35)
_AUDIT_FOR = timedelta(hours=1)
_AUDIT = (
    Column("CUSTOMER", "customer"),
    Column("PERIOD", "period"),
    Column("OUR PAGES", "ours", right=True),
    Column("OPEN PAGES", "open", right=True),
    Column("STRIPE'S PAGES", "theirs", right=True),
    Column("SAYS", "says"),
)
_EQUAL = "equal"
_SAYS = {Comparison.EQUAL: _EQUAL, Comparison.DIFFERENT: "differs", Comparison.OPEN: "open"}


def add_audit(stripe: click.Group) -> None:
    """Add this command."""

    @command(stripe, "audit")
    @click.option("--customer", help="Only this customer, cus_….")
    @click.option(
        "--month", type=click.DateTime(["%Y-%m"]), help="The periods that touch this month, such as 2026-01 (UTC)."
    )
    @click.option(
        "--limit", type=click.IntRange(1, 10_000), default=200, show_default=True, help="At most so many customers."
    )
    @click.option("--all", "all_of_it", is_flag=True, help="Show what is equal, too.")
    def audit(shell: Shell, customer: str | None, month: datetime | None, limit: int, all_of_it: bool) -> int:
        """Hold our pages against Stripe's sums now, by customer and period. Only reads: nothing is written down.

        What is equal is only counted, unless it is of one customer or --all is given; --json always has all.

        Without --month: the periods of the last 35 days, and older ones with pages that Stripe was not seen to have
        yet. Customers with pages accepted lately come first. OPEN are pages that Stripe may show or not: accepted
        within the hour, in doubt, not decided yet. Exit code 1 if something differs or cannot be read.

        Example: python -m ops stripe audit --customer cus_123 --month 2026-01
        """
        now = shell.now
        since, until = (now - _PERIODS_FOR, None) if month is None else _bounds(month, now)
        database, settings = shell.services.database, shell.services.settings
        with database.transaction(read_only=True) as transaction:
            check_start(transaction, _JOB, settings, now)
            rows = transaction.rows(_STATEMENTS["customers"], customer=customer, limit=limit)
        if customer is not None and not rows:
            raise NotThere(
                f"No account has the customer {customer}, and nothing was ever accepted for it. Check the id: it "
                "is Stripe's, cus_…."
            )
        state = _state(shell, now)
        with database.transaction(read_only=True) as transaction:
            periods = transaction.rows(
                _PERIODS,
                **some(state.times(), "now", "settled_before", "event_name"),
                customers=[row["customer"] for row in rows],
                since=since,
            )
        if until is not None:
            periods = [period for period in periods if period["ends"] > since and period["starts"] < until]
        found = _compared(state, periods)
        if shell.as_json:
            shell.tell(found)
        else:
            _tell(shell, found, all_of_it or customer is not None)
        return NO if any(row["says"] not in (_EQUAL, "open") for row in found) else 0


def _tell(shell: Shell, found: Sequence[Mapping[str, Any]], all_of_it: bool) -> None:
    """Print the periods that are not equal, and how many are."""
    equal = [] if all_of_it else [row for row in found if row["says"] == _EQUAL]
    shown = [
        {**row, "period": period_of(row["period_start"], row["period_end"])}
        for row in found
        if all_of_it or row["says"] != _EQUAL
    ]
    if shown or not equal:
        shell.table(shown, _AUDIT, "There is nothing to hold against Stripe's sums.")
    if equal:
        customers = len({row["customer"] for row in equal})
        whose = "1 customer is" if customers == 1 else f"{customers:,} customers are"
        periods = "1 period" if len(equal) == 1 else f"{len(equal):,} periods"
        shell.say(f"{whose} equal, in {periods}. --all shows them.")


def _bounds(month: datetime, now: datetime) -> tuple[datetime, datetime]:
    """When a month begins, and when the next one does. Raises NotThere for one that has not begun."""
    first = month.replace(tzinfo=UTC)
    if first > now:
        raise NotThere(f"The month {first:%Y-%m} has not begun. Name {now:%Y-%m} or an earlier one.")
    return first, (first + timedelta(days=32)).replace(day=1)


def _state(shell: Shell, now: datetime) -> RunState:
    """What the job's own reading needs, as in a dry run: it can write nothing."""
    services = shell.services
    settings = services.settings.stripe
    ctx = Context(
        job=_JOB,
        now=now,
        slot=None,
        dry_run=True,
        limit=None,
        settings=services.settings,
        deadline_at=now + _AUDIT_FOR,
        database=services.database,
        clock=services.clock,
        log=services.log,
        timer=services.timer,
        connect_stripe=lambda: services.stripe,
        connect_bucket=lambda: services.bucket,
    )
    reader = Reader(ctx, ctx.connect_stripe())
    meter_id = settings.meter_id or ""
    try:
        target = target_of(reader.once(lambda stripe: stripe.meter(meter_id)), settings)
    except ReadRefused as error:
        raise Misconfigured(
            "STRIPE_METER_PAGES",
            f"Stripe knows no meter {meter_id} in the account of STRIPE_SECRET_KEY: "
            f"{error.answer.message.rstrip('.')}. Correct whichever of the two settings is the wrong one.",
        ) from error
    return RunState(ctx, reader, target, ctx.timer.seconds())


def _compared(state: RunState, periods: Sequence[Row]) -> Sequence[Mapping[str, object]]:
    """Each period with Stripe's sum, and what that says."""

    def read(_: Stripe, period: Row) -> float:
        usage = state.reader.once(
            lambda stripe: stripe.usage(state.target.meter_id, period["customer"], period["starts"], period["ends"])
        )
        return sum(usage.values())

    sums = {
        (period["customer"], period["starts"]): theirs
        for period, theirs in state.reader.each(periods, read, lambda period: str(period["customer"]))
    }
    found = []
    for period in periods:
        settled, undecided = int(period["settled"]), int(period["open"])
        theirs = sums.get((period["customer"], period["starts"]))
        row = {
            "customer": period["customer"],
            "period_start": period["starts"],
            "period_end": period["ends"],
            "ours": settled,
            "open": undecided,
            "theirs": None if theirs is None or isinstance(theirs, ReadRefused) else round(theirs),
        }
        if theirs is None:
            row["says"] = "not read"
        elif isinstance(theirs, ReadRefused):
            row["says"] = theirs.answer.message
        else:
            row["says"] = _SAYS[compare(theirs, settled, undecided)]
        found.append(row)
    return found


def period_of(start: datetime, end: datetime) -> str:
    """A period in words: its days, or the minutes of one that is shorter than a day."""
    if end - start < timedelta(days=1):
        same_day = start.date() == end.date()
        return f"{start:%Y-%m-%d %H:%M} to {end:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}}"
    return f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"
