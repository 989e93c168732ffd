"""The parts that a firing's work is cut into, and which locks and keys go with each.

A job that waits on others most of the time may be declared with `shards`. Then a firing is done in three steps: the
opening does what is not cut up, and hands the rest to so many shards, each a request of its own; each shard does its
range of the keys; the last one that completes has the firing closed, with one result for all of it.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

LARGEST_SHARDS = 32
# PostgreSQL's hash functions give a number of 32 bits, with a sign.
_LOWEST, _HASHES = -(2**31), 2**32


class Part(enum.Enum):
    """What a run does of a firing."""

    WHOLE = "everything"
    OPENING = "what comes before the shards"
    SHARD = "one range of the keys"
    CLOSING = "what is left when all shards have completed"


@dataclass(frozen=True)
class Share:
    """A run's part of the work: `number` is the shard's, from 1 to `of`; 0 for a run that is no shard."""

    part: Part = Part.WHOLE
    number: int = 0
    of: int = 1

    @property
    def excludes(self) -> tuple[int, ...]:
        """The numbers that no other run of the job may have meanwhile: what treats all keys excludes every shard.

        Neither opening nor closing does what a shard does, so that the shards of one firing hold up no other's.
        """
        return tuple(range(self.of + 1)) if self.of > 1 and self.part is Part.WHOLE else (self.number,)

    @property
    def counts_in(self) -> tuple[int, ...]:
        """The numbers whose runs of the same firing count in this run's result."""
        if self.of == 1 or self.part is Part.SHARD:
            return (self.number,)
        return tuple(range(self.of + 1))

    @property
    def keys(self) -> Mapping[str, int | None]:
        """The range of hashed keys, both ends included, as the SQL takes it; None for both where it is all of them."""
        if self.part is not Part.SHARD:
            return {"lowest_hash": None, "highest_hash": None}
        first, beyond = (_LOWEST + _HASHES * number // self.of for number in (self.number - 1, self.number))
        return {"lowest_hash": first, "highest_hash": beyond - 1}

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"
