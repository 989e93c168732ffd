"""Passes over the due accounts by ascending key, in batches that shrink where one does not go through.

A batch that loses a lock, or holds an account that the database refuses, is halved, down to one account. That one is
locked first and tried by itself, so that the account which is passed by is the one that was at fault. Within a pass
the key only rises, so a pass always ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from functions.period_reset.month import Month
from shared.context import Context
from shared.errors import DataRejected, LockLost
from shared.settings import Settings
from shared.sql import load_statements

STATEMENTS = load_statements(Path(__file__).with_name("queries.sql"))

# Batches grow and shrink so that each takes about this long: a larger one is cheaper, but holds its rows the longer.
_SECONDS_A_BATCH = 0.25
_FIRST_SIZE = 5_000
_SMALLEST_SIZE, _LARGEST_SIZE = 500, 10_000
# So many accounts are looked at in one batch, due or not: some hundredths of a second, however many there are.
_KEYS_A_BATCH = 20_000
# So many refusals with no account moved between them are no longer the fault of single accounts.
REFUSALS_IN_A_ROW = 1_000


class Sweep:
    """The accounts that one run has treated: moved, or refused by the database.

    `refused` holds the keys of the latter. They are counted and logged, and not tried again by this run.
    """

    def __init__(self, ctx: Context, month: Month) -> None:
        self._ctx = ctx
        self._parameters = due_parameters(month, ctx.now, ctx.settings)
        self._in_a_row = 0
        self._good_size = _FIRST_SIZE
        self._known: list[str] = []
        self.refused: set[str] = set()

    @property
    def is_hopeless(self) -> bool:
        """Whether the database refuses account after account."""
        return self._in_a_row >= REFUSALS_IN_A_ROW

    @property
    def limit_reached(self) -> bool:
        """Whether as many accounts were treated as the request allows."""
        return self._room() == 0

    def may_go_on(self) -> bool:
        """Whether there is time, and anything speaks for another batch."""
        return not self.limit_reached and not self.is_hopeless and self._ctx.time_left() > 0

    def one_pass(self) -> int:
        """Go over all keys once; give how many accounts were moved."""
        # Those refused in this pass lie behind the key; only earlier passes' have to be named.
        self._known = sorted(self.refused)
        after: str | None = None
        size, moved = self._good_size, 0
        while self.may_go_on():
            size = min(size, self._room())
            if size == 1:
                one = self._one(after)
                if one.is_over:
                    return moved
                after, moved, size = one.last_key, moved + one.moved, 2 if one.moved else 1
                continue
            try:
                row = self._batch(after, size)
            except (LockLost, DataRejected):
                size //= 2
                continue
            moved += int(row["moved"])
            if row["is_over"]:
                return moved
            after, size = row["last_key"], min(size * 2, self._good_size)
        return moved

    def _room(self) -> int:
        """How many more accounts the request's limit allows; without one, more than a batch."""
        if self._ctx.limit is None:
            return _LARGEST_SIZE
        return max(0, self._ctx.limit - self._ctx.counts["updated_count"] - self._ctx.failed_count)

    def _batch(self, after: str | None, size: int) -> Mapping[str, Any]:
        # Not durable: what a crash of the server loses is due again, and the run's last commit makes all of it durable.
        left = self._ctx.time_left()
        with self._ctx.batch(durable=False) as batch:
            row = batch.rows(STATEMENTS["reset_batch"], **self._range(after), only=None, size=size)[0]
            batch.count(updated_count=row["moved"], counters_created=row["counters_created"])
        if row["found"] == size >= _SMALLEST_SIZE:
            seconds = max(left - self._ctx.time_left(), 0.001)
            self._good_size = max(_SMALLEST_SIZE, min(_LARGEST_SIZE, int(size * _SECONDS_A_BATCH / seconds)))
        if row["moved"]:
            self._in_a_row = 0
        return row

    def _one(self, after: str | None) -> "_Step":
        """Try the next account by itself."""
        key: str | None = None
        try:
            with self._ctx.batch() as batch:
                (chosen,) = batch.rows(STATEMENTS["lock_next_due"], **self._range(after))
                if chosen["user_id"] is None:
                    return _Step(chosen["last_key"], 0, is_over=chosen["is_over"])
                key = str(chosen["user_id"])
                row = batch.rows(STATEMENTS["reset_batch"], **self._range(after), only=key, size=1)[0]
                batch.count(updated_count=row["moved"], counters_created=row["counters_created"])
        except DataRejected as error:
            if key is None:
                raise
            self.refused.add(key)
            self._in_a_row += 1
            self._ctx.item_failed(key, error.reason)
            return _Step(key, 0)
        except LockLost:
            # Somebody holds what hangs on the account: its user, or its counter. It is passed by in this pass.
            if key is None:
                raise
            return _Step(key, 0)
        if row["moved"]:
            self._in_a_row = 0
        return _Step(key, int(row["moved"]))

    def _range(self, after: str | None) -> dict[str, object]:
        keys = {"from_start": after is None, "after": after or "", "keys": _KEYS_A_BATCH}
        return {**self._parameters, **keys, "refused": self._known}


@dataclass(frozen=True)
class _Step:
    """How far a pass has got with one account, or with none: the key it goes on after, unless it is over."""

    last_key: str
    moved: int
    is_over: bool = False


def due_parameters(month: Month, now: datetime, settings: Settings) -> dict[str, object]:
    """The parameters of the condition under which an account is due."""
    return {
        "free_plans": list(settings.free_plan_codes),
        "now": now,
        "month_start": month.start,
        "month_end": month.end,
    }
