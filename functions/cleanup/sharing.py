"""What becomes of files that other runs use. Pure decisions.

A file belongs to one run, and an appended run's tasks use the files of the run that it was made from. When the owner
goes and a run that stays still uses the file, the file moves to that run, if it was submitted: the oldest such. It must
not move to a draft: submitting that would extract and bill the file again. Then the owner waits, whole, until the draft
was submitted or is gone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Link:
    """A file of the run `owner` that is used by the run `user_run`."""

    file_id: str
    owner: str
    user_run: str
    submitted: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Move:
    """A file that moves from one run to another."""

    file_id: str
    old_owner: str
    new_owner: str


@dataclass
class Sharing:
    """What was decided: the runs that go, those that wait for a draft, and the files that move."""

    going: set[str]
    waiting: set[str] = field(default_factory=set)
    moves: list[Move] = field(default_factory=list)


def decide_sharing(candidates: Collection[str], links: Iterable[Link]) -> Sharing:
    """Decide for runs that would go, from all links of other runs to their files."""
    by_file: dict[str, list[Link]] = {}
    for link in links:
        by_file.setdefault(link.file_id, []).append(link)
    decided = Sharing(set(candidates))
    # A run that waits stays, and is a user of others' files then: which may make those wait as well.
    while stuck := _stuck(by_file, decided.going):
        decided.going -= stuck
        decided.waiting |= stuck
    # It may as well be the submitted run that takes another's file: who need not wait for a draft then, goes.
    while free := _free(by_file, decided):
        decided.going.add(free)
        decided.waiting.remove(free)
    for users in by_file.values():
        owner = users[0].owner
        new_owner = _new_owner(users, decided.going) if owner in decided.going else None
        if new_owner is not None:
            decided.moves.append(Move(users[0].file_id, owner, new_owner))
    return decided


# No user: it cannot be a run's id.
_NOBODY = ""


def _stuck(
    by_file: Mapping[str, Sequence[Link]], going: Collection[str], candidates: Collection[str] | None = None
) -> set[str]:
    """Those of the candidates (of all that go, unless given) with a file that only drafts use when these runs go."""
    among = going if candidates is None else candidates
    return {
        users[0].owner for users in by_file.values() if users[0].owner in among and _new_owner(users, going) is _NOBODY
    }


def _free(by_file: Mapping[str, Sequence[Link]], decided: Sharing) -> str | None:
    """A run that waits, and could go with those that go."""
    free = decided.waiting - _stuck(by_file, decided.going, decided.waiting)
    return next((run for run in sorted(free) if not _stuck(by_file, decided.going | {run})), None)


def _new_owner(users: Iterable[Link], going: Collection[str]) -> str | None:
    """The run to which a file moves; None where nobody that stays uses it, _NOBODY where only drafts do."""
    staying = [user for user in users if user.user_run not in going]
    submitted = [(user.created_at, user.user_run) for user in staying if user.submitted]
    if submitted:
        return min(submitted)[1]
    return _NOBODY if staying else None
