"""What Stripe took first and refused later becomes a dead letter, and the service's event is not reported any more.

Stripe keeps such reports for 30 days ("Retrieve Event", Stripe API reference). Each names some of the events only: how
many it does not name is logged, and the audit finds their pages.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus

from functions.stripe_reconcile.reading import OutOfTime, ReadRefused
from functions.stripe_reconcile.run_state import RunState, statements
from functions.stripe_reconcile.settling import UNMARK_REJECTED
from shared.clock import format_rfc3339, parse_rfc3339
from shared.errors import Unavailable
from shared.stripe_calls import RefusalReport

_STATEMENTS = statements("refusals.sql")
_KEPT_FOR = timedelta(days=30)
# Reports may appear a little out of order. One that is read twice changes nothing the second time.
_OVERLAP = timedelta(hours=1)
_CLOCKS_DIFFER = timedelta(minutes=10)
# So long a time is listed at once: the memory for a month of reports need not be there.
_AT_ONCE = timedelta(days=5)
_EVENT_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?::\d+)?", re.IGNORECASE)


def note_refusals(state: RunState) -> None:
    """Read all reports that are new, and note what they name. Raises Unavailable, Misconfigured or OutOfTime.

    Where it raises, reports may be unread, and no event may be taken for one that Stripe counts. Half of the time that
    is left is not used for it: what is ready needs no reading.
    """
    stop_at = state.ctx.time_left() / 2
    with state.ctx.reading() as transaction:
        row = transaction.row(_STATEMENTS["cursor"])
    seen = parse_rfc3339(row["value"]) if row else None
    start = (seen - _OVERLAP) if seen else state.ctx.now - _KEPT_FOR
    while True:
        end = start + _AT_ONCE
        # By another clock some are newer than now.
        is_last = end > state.ctx.now - _OVERLAP
        for report in _reports(state, start, None if is_last else end):
            if state.ctx.time_left() <= 0:
                raise OutOfTime("There was no time left to note what Stripe refused later.")
            if state.ctx.time_left() < stop_at:
                raise Unavailable(
                    "stripe",
                    "There are more reports of what Stripe refused later than half a run can read. The next attempt "
                    "goes on after those that were read; until then only what needs no proof is sent.",
                )
            if report.meter_id in (None, state.target.meter_id):
                _note(state, report, is_new=seen is None or report.created > seen)
            with state.ctx.batch() as batch:
                # Never further than what Stripe has shown; and a time that cannot be would hide all reports to come.
                batch.execute(_STATEMENTS["move_cursor"], value=format_rfc3339(min(report.created, state.ctx.now)))
        if is_last:
            break
        start = end
    with state.ctx.batch() as batch:
        batch.execute(UNMARK_REJECTED)


def _reports(state: RunState, since: datetime, until: datetime | None) -> Sequence[RefusalReport]:
    try:
        return state.reader.once(lambda stripe: stripe.refusal_reports(since, until))
    except ReadRefused as error:
        raise _untold(error) from error


def _whole(state: RunState, report: RefusalReport) -> RefusalReport:
    """The report with its refusals; one that Stripe has no more, because its 30 days are over, has none."""
    if report.refusals is not None:
        return report
    try:
        return state.reader.once(lambda stripe: stripe.refusal_report(report.id))
    except ReadRefused as error:
        if error.answer.status == HTTPStatus.NOT_FOUND:
            return replace(report, refusals=())
        raise _untold(error) from error


def _untold(error: ReadRefused) -> Unavailable:
    return Unavailable("stripe", f"Stripe does not tell what it refused later: {error}")


def _note(state: RunState, listed: RefusalReport, *, is_new: bool) -> None:
    report = _whole(state, listed)
    refusals = report.refusals or ()
    if not report.is_readable and is_new:
        state.ctx.attention(
            f"Stripe's report {report.id} of refused meter events cannot be read. Look at it there.", count=1
        )
    named = [(identifier, refusal.code, text) for refusal in refusals for identifier, text in refusal.named.items()]
    unnamed = sum(max(0, refusal.count - len(refusal.named)) for refusal in refusals)
    if unnamed and is_new and report.meter_id is not None:
        state.ctx.attention(
            f"Stripe refused {unnamed} more meter events than its report {report.id} names. Their pages show as drift.",
            count=unnamed,
        )
    if not named:
        return
    with state.ctx.batch() as batch:
        left_before = report.created + _CLOCKS_DIFFER
        ours = batch.rows(_STATEMENTS["refuse_ours"], **_columns(named), left_before=left_before)[0]
        known = {
            row["identifier"]
            for row in batch.rows(_STATEMENTS["known_refusals"], identifiers=[identifier for identifier, _, _ in named])
        }
        theirs = [each for each in named if each[0] not in known]
        ids = [match[1] for identifier, _, _ in theirs if (match := _EVENT_ID.fullmatch(identifier))]
        found = [ours]
        if ids:
            found.append(batch.rows(_STATEMENTS["refuse_theirs"], **_columns(theirs), ids=ids)[0])
            theirs = [each for each in theirs if each[0] not in found[-1]["identifiers"]]
        if theirs:
            found.append(batch.rows(_STATEMENTS["refuse_theirs"], **_columns(theirs), ids=None)[0])
        for row in found:
            batch.count(refused_count=int(row["refused_count"]), refused_pages=int(row["refused_pages"]))


def _columns(named: Sequence[tuple[str, str, str]]) -> dict[str, object]:
    return {
        "identifiers": [identifier for identifier, _, _ in named],
        "codes": [code for _, code, _ in named],
        "messages": [message for _, _, message in named],
    }
