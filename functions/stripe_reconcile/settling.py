"""What came of events is noted: with the row of ours first, and the service's mark in the same transaction."""

from collections.abc import Sequence
from dataclasses import replace

from functions.stripe_reconcile.courier import Delivery
from functions.stripe_reconcile.preflight import target_of
from functions.stripe_reconcile.reading import ReadRefused
from functions.stripe_reconcile.run_state import RunState, statements
from functions.stripe_reconcile.verdicts import Verdict
from shared.context import Batch
from shared.errors import DataRejected, LockLost, MaintenanceError, Misconfigured

_STATEMENTS = statements("settling.sql")
UNMARK_REJECTED = _STATEMENTS["unmark_rejected"]
_MARKS_A_TRANSACTION = 2_000
_METER_IS_FRESH_SECONDS = 60.0
# Refusals of so many customers' events, and none taken between them, are no longer the fault of the events.
_A_WAVE = 20
_ENDS = {Verdict.REJECTED: "rejected", Verdict.TOO_OLD: "expired", Verdict.IN_DOUBT: "in_doubt"}


def adopt_orphans(state: RunState) -> None:
    """Take over what runs before this one left: attempts of which nobody knows the end are in doubt."""
    with state.ctx.batch() as batch:
        batch.execute(_STATEMENTS["adopt_orphans"], **state.ctx.share.keys)


def take_stock(state: RunState) -> None:
    """Take over what the service's rows have come to since the last run.

    Events that Stripe has are marked, and those that it refused are not any more, where the service held the row then.
    What was blocked and is gone or reported is forgotten.
    """
    at = state.ctx.moment()
    with state.ctx.batch() as batch:
        batch.execute(_STATEMENTS["forget_blocked"])
        batch.execute(UNMARK_REJECTED)
        batch.count(drift_count=batch.execute(_STATEMENTS["note_foreign_records"], keys=None, at=at))
    while state.ctx.time_left() > 0:
        with state.ctx.batch() as batch:
            marked = batch.execute(_STATEMENTS["mark_reported"], keys=None, size=_MARKS_A_TRANSACTION)
        if marked < _MARKS_A_TRANSACTION:
            return


def note_accepted(batch: Batch, state: RunState, keys: Sequence[str], existed: Sequence[str]) -> None:
    """Note that Stripe has these events, and mark the service's rows.

    `existed` are those of them that may stand at Stripe in the service's minute instead of their own.
    """
    if not keys:
        return
    at = state.ctx.moment()
    counts = batch.rows(_STATEMENTS["note_accepted"], keys=list(keys), existed=list(existed), at=at)[0]
    batch.count(**{name: int(value) for name, value in counts.items()})
    batch.execute(_STATEMENTS["mark_reported"], keys=list(keys), size=len(keys))
    batch.count(drift_count=batch.execute(_STATEMENTS["note_foreign_records"], keys=list(keys), at=at))


class Settler:
    """Notes what came of the events that have come back from Stripe.

    Refusals are held back until Stripe takes an event: where it refuses everybody's, it is not the events' fault.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._held: list[Delivery] = []
        self._is_a_wave = False

    def settle(self, back: Sequence[Delivery]) -> MaintenanceError | None:
        """Note what came of each; give an error for which nothing more may be sent.

        Raises Fenced when a newer run took over, and Unavailable where PostgreSQL does not answer.
        """
        self._held += [each for each in back if each.verdict is Verdict.REJECTED]
        stop = None
        if any(each.verdict in (Verdict.ACCEPTED, Verdict.EXISTS) for each in back):
            stop = self._release()
        elif len({each.send.customer for each in self._held}) >= _A_WAVE:
            self._is_a_wave = True
            said = next((each.answer.message for each in self._held if each.answer), "")
            stop = Misconfigured(
                "STRIPE_METER_PAGES",
                f"Stripe refused the events of {_A_WAVE} customers in a row, and took none: {said.rstrip('.')}. "
                "Something is wrong with all of them; nothing was marked.",
            )
        self._note([each for each in back if each.verdict is not Verdict.REJECTED])
        return stop

    def finish(self) -> MaintenanceError | None:
        """Note the refusals that are still held back, unless they were everybody's; give an error as `settle` does."""
        if not self._is_a_wave:
            return self._release()
        held, self._held = self._held, []
        self._note([replace(each, verdict=None) for each in held])
        return None

    def _release(self) -> MaintenanceError | None:
        held, self._held = self._held, []
        stop = self._meter_fails() if held else None
        if stop is not None:
            # What looks like a refusal of the event may be one of the meter. Stripe took nothing of it.
            held = [replace(each, verdict=None) for each in held]
        self._note(held)
        for each in held:
            if each.verdict is Verdict.REJECTED and each.answer is not None:
                self._state.ctx.item_failed(each.send.key, f"Stripe refused it: {each.answer.message}")
        return stop

    def _note(self, back: Sequence[Delivery]) -> None:
        """Note in one transaction, or in smaller ones where that does not go through; one that never does is left."""
        if not back:
            return
        try:
            self._note_together(back)
        except (LockLost, DataRejected) as error:
            if len(back) == 1:
                # On record as under way: the next run takes it for what it is, in doubt.
                self._state.ctx.item_failed(back[0].send.key, error.reason)
                return
            middle = len(back) // 2
            self._note(back[:middle])
            self._note(back[middle:])

    def _note_together(self, back: Sequence[Delivery]) -> None:
        tried = [each for each in back if each.answer is not None]
        with self._state.ctx.batch(durable=False) as batch:
            batch.count(retry_count=len(tried), retry_pages=sum(each.send.pages for each in tried))
            existed = _keys(back, Verdict.EXISTS)
            note_accepted(batch, self._state, [*_keys(back, Verdict.ACCEPTED), *existed], existed)
            self._note_others(batch, [each for each in back if each.verdict in _ENDS])
            unsent = [each for each in back if each.verdict is None]
            if unsent:
                fresh = [each.send.key for each in unsent if not each.send.doubtful]
                batch.execute(_STATEMENTS["take_back"], keys=[each.send.key for each in unsent], fresh=fresh)

    @staticmethod
    def _note_others(batch: Batch, others: Sequence[Delivery]) -> None:
        if not others:
            return
        counts = batch.rows(
            _STATEMENTS["note_others"],
            keys=[each.send.key for each in others],
            states=[_ENDS[each.verdict] for each in others if each.verdict in _ENDS],
            codes=[each.answer.code or each.answer.kind if each.answer else None for each in others],
            messages=[each.answer.message if each.answer else None for each in others],
        )[0]
        batch.count(**{name: int(value) for name, value in counts.items()})

    def _meter_fails(self) -> MaintenanceError | None:
        """Why the meter takes nothing any more, or why that cannot be known; None where it is as before."""
        now = self._state.ctx.timer.seconds()
        if now - self._state.target_read_at < _METER_IS_FRESH_SECONDS:
            return None
        try:
            meter = self._state.reader.once(lambda stripe: stripe.meter(self._state.target.meter_id))
            target_of(meter, self._state.settings)
        except ReadRefused as error:
            return Misconfigured("STRIPE_METER_PAGES", str(error))
        except MaintenanceError as error:
            return error
        self._state.target_read_at = now
        return None


def _keys(back: Sequence[Delivery], verdict: Verdict) -> list[str]:
    return [each.send.key for each in back if each.verdict is verdict]
