"""What jobs say to the bucket and what it answers, in words of our own. `shared.gcs` speaks them to Google Cloud."""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing tells it. `generation` names this very content of the name."""

    name: str
    generation: int
    created_at: datetime
    size: int


@dataclass(frozen=True)
class BucketState:
    """What the bucket keeps of an object that is deleted: for so long, and whether its versions stay."""

    soft_delete: timedelta
    versioned: bool


class Answer(enum.Enum):
    """What came of an attempt on one object."""

    DELETED = "deleted"
    ABSENT = "absent"
    # The name has another content by now than the one that was to go.
    CHANGED = "changed"
    # A retention policy or a hold on the object keeps it.
    HELD = "held"
    # Nothing is known against it: a later attempt may succeed.
    BUSY = "busy"
    # The bucket will not take this request, now or later.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Deletion:
    """The answer to one attempt, and for BUSY, HELD and REFUSED why; `too_fast` where fewer calls were asked for."""

    answer: Answer
    reason: str | None = None
    too_fast: bool = False


class Bucket(Protocol):
    """One bucket. Every call may be made by several threads at once."""

    @property
    def name(self) -> str:
        """The bucket's name."""
        ...

    def state(self) -> BucketState:
        """Look at the bucket itself. Raises Unavailable, or Misconfigured where it is missing or may not be read."""
        ...

    def pages(self, start: str | None) -> Iterator[Sequence[StoredObject]]:
        """All objects in the order of their names, from `start` on (itself included), a thousand at a time.

        Raises Unavailable or Misconfigured.
        """
        ...

    def find(self, name: str) -> StoredObject | Deletion:
        """An object as it is now; a Deletion (ABSENT, BUSY, REFUSED) where there is none to tell of.

        Raises Misconfigured where a permission is missing.
        """
        ...

    def delete(self, name: str, generation: int | None) -> Deletion:
        """Delete an object, and with a generation only that. Raises Misconfigured where a permission is missing."""
        ...
