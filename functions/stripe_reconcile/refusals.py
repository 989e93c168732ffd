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
# A list gives the newest first and may stop anywhere, so a time is noted when all of its reports are there. Times with
# more are listed by halves, but for the narrowest.
_AT_ONCE, _NARROWEST = 100, timedelta(seconds=1)
# A report that is made while a run looks for events speaks of those that it knows. Far less than clocks may differ.
_FRESH_SECONDS = 120
_EVENT_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?::\d+)?", re.IGNORECASE)


def note_refusals(state: RunState) -> None:
    """Read all reports that are new, unless this run just did, and note what they name.

    Raises Unavailable, Misconfigured or OutOfTime. Where it does, reports may be unread, and no event may be taken for
    one that Stripe counts. Half of the time that is left is not used for it: what is ready goes on, and if a report
    speaks of it, then of the repetition too.
    """
    now = state.ctx.timer.seconds()
    if state.refusals_read_at is None or now - state.refusals_read_at > _FRESH_SECONDS:
        _note_new(state)
        state.refusals_read_at = now


def _note_new(state: RunState) -> None:
    stop_at = state.ctx.time_left() / 2
    with state.ctx.reading() as transaction:
        row = transaction.row(_STATEMENTS["cursor"])
    seen = parse_rfc3339(row["value"]) if row else None
    start = state.ctx.now - _KEPT_FOR
    if seen is not None:
        start = max(start, seen - _OVERLAP)
    span = max(state.ctx.now - start, _NARROWEST)
    while True:
        # By another clock some are newer than now.
        until = start + span if start + span < state.ctx.now else None
        most = _AT_ONCE if span > _NARROWEST else None
        _check_time(state, stop_at)
        reports = _reports(state, start, until, most)
        if len(reports) == most:
            span /= 2
            continue
        for report in reports:
            _check_time(state, stop_at)
            if report.meter_id in (None, state.target.meter_id):
                _note(state, report, is_new=seen is None or report.created > seen)
            with state.ctx.batch() as batch:
                # Never further than what Stripe has shown; and a time that cannot be would hide all reports to come.
                value = min(report.created, state.ctx.now + _CLOCKS_DIFFER)
                batch.execute(_STATEMENTS["move_cursor"], value=format_rfc3339(value))
        if until is None:
            break
        start = until
        if len(reports) < _AT_ONCE / 2:
            span *= 2
    with state.ctx.batch() as batch:
        batch.execute(UNMARK_REJECTED)


def _check_time(state: RunState, stop_at: float) -> None:
    left = state.ctx.time_left()
    if left <= 0:
        raise OutOfTime("There was no time left to note what Stripe refused later.")
    if left < stop_at:
        raise Unavailable(
            "stripe",
            "There are more reports of what Stripe refused later than half a run can read. The next attempt goes on an "
            "hour before the last that was read; until then nothing is looked for in Stripe's sums.",
        )


def _reports(state: RunState, since: datetime, until: datetime | None, most: int | None) -> Sequence[RefusalReport]:
    try:
        return state.reader.once(lambda stripe: stripe.refusal_reports(since, until, most))
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
    # One that shows up late is new where something of it is.
    is_new = bool(named and _note_named(state, report, named)) or is_new
    unnamed = sum(max(0, refusal.count - len(refusal.named)) for refusal in refusals)
    if unnamed and is_new and report.meter_id is not None:
        state.ctx.attention(
            f"Stripe refused {unnamed} more meter events than its report {report.id} names. Their pages show as drift.",
            count=unnamed,
        )


def _note_named(state: RunState, report: RefusalReport, named: Sequence[tuple[str, str, str]]) -> int:
    """Make dead letters of what is named; give how many there are that were none."""
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
    return sum(int(row["refused_count"]) for row in found)


def _columns(named: Sequence[tuple[str, str, str]]) -> dict[str, object]:
    return {
        "identifiers": [identifier for identifier, _, _ in named],
        "codes": [code for _, code, _ in named],
        "messages": [message for _, _, message in named],
    }
