"""What becomes of files that other runs use. Pure decisions.

A file belongs to one run, and an appended run's tasks use the files of the run that it was made from. When the owner
goes and a run that stays still uses the file, the file moves to that run, if it was submitted: the oldest such. It must
not move to a draft: submitting that would extract and bill the file again. Then the owner waits, whole, until the draft
was submitted or is gone.

A job that appends every day has runs that use the files of all runs before them, so all of this is done by counting:
the work grows with the number of uses, and not with a power of it.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class User:
    """A run that uses files of others."""

    run: str
    submitted: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Shared:
    """Files of the run `owner` that the same other runs use."""

    owner: str
    files: Sequence[str]
    users: Sequence[str]


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


def decide_sharing(candidates: Collection[str], shared: Iterable[Shared], users: Mapping[str, User]) -> Sharing:
    """Decide for runs that would go, from all uses that other runs make of their files.

    A user of whom `users` knows nothing is gone meanwhile, and uses nothing any more.
    """
    decision = _Decision(candidates, [_Use(each, users) for each in shared])
    decision.let_wait()
    decision.let_go()
    going = decision.going
    moves = [
        Move(file, use.shared.owner, use.oldest(going))
        for use in decision.uses
        if use.submitted and use.shared.owner in going
        for file in use.shared.files
    ]
    return Sharing(going, decision.waiting, moves)


class _Use:
    """The use of some files, with how many of their users stay: submitted runs and drafts."""

    def __init__(self, shared: Shared, users: Mapping[str, User]) -> None:
        self.shared = shared
        self.users = [users[run] for run in shared.users if run in users]
        self.submitted = 0
        self.drafts = 0

    def stays(self, user: User, by: int) -> None:
        """Count a user as staying (1), or no longer (-1)."""
        if user.submitted:
            self.submitted += by
        else:
            self.drafts += by

    @property
    def is_stuck(self) -> bool:
        """Whether only drafts that stay need the files."""
        return self.drafts > 0 and self.submitted == 0

    def oldest(self, going: Collection[str]) -> str:
        """The run to which the files move."""
        return min((user.created_at, user.run) for user in self.users if user.submitted and user.run not in going)[1]


class _Decision:
    """Who goes, and who waits."""

    def __init__(self, candidates: Collection[str], uses: Sequence[_Use]) -> None:
        self.going = set(candidates)
        self.waiting: set[str] = set()
        self.uses = uses
        self._of_owner: dict[str, list[_Use]] = defaultdict(list)
        self._by_user: dict[str, list[tuple[_Use, User]]] = defaultdict(list)
        for use in uses:
            self._of_owner[use.shared.owner].append(use)
            for user in use.users:
                self._by_user[user.run].append((use, user))
                if user.run not in self.going:
                    use.stays(user, 1)

    def let_wait(self) -> None:
        """Let those wait whose files only drafts need. Who waits stays, and may make others wait, or free them."""
        stuck = deque(use.shared.owner for use in self.uses if use.is_stuck)
        while stuck:
            run = stuck.popleft()
            if run in self.going and self._is_stuck(run):
                self.going.remove(run)
                self.waiting.add(run)
                for use, user in self._by_user[run]:
                    use.stays(user, 1)
                    if use.is_stuck:
                        stuck.append(use.shared.owner)

    def let_go(self) -> None:
        """Let those go after all who need not wait since another took over a file."""
        freed = True
        while freed:
            freed = False
            for run in sorted(self.waiting):
                if self._may_go(run):
                    self.going.add(run)
                    self.waiting.remove(run)
                    freed = True

    def _is_stuck(self, run: str) -> bool:
        return any(use.is_stuck for use in self._of_owner[run])

    def _may_go(self, run: str) -> bool:
        """Count a run as going if nothing of its own, and nothing of others that go, is stuck then."""
        if self._is_stuck(run):
            return False
        for use, user in self._by_user[run]:
            use.stays(user, -1)
        if not any(use.is_stuck for use in self._used_of_going(run)):
            return True
        for use, user in self._by_user[run]:
            use.stays(user, 1)
        return False

    def _used_of_going(self, run: str) -> Iterator[_Use]:
        return (use for use, _ in self._by_user[run] if use.shared.owner in self.going)
