"""Files that appended runs share: they move to a submitted run, or their owner waits for the draft."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.cleanup.sharing import Move, Shared, Sharing, User, decide_sharing
from shared.outcome import Status
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON


@dataclass
class Chain:
    """A job with a run A of one file, B appended to A, and C appended to B; all use A's file."""

    a: str
    b: str
    c: str
    file: str
    name: str
    conversion: str


def chain(world: CleanupWorld, *, draft: bool = False) -> Chain:
    a = world.submitted(world.job(), age=90)
    file = world.file(a)
    world.task(a, file)
    b = world.appended(a, age=80, draft=draft)
    c = world.appended(b, age=70, draft=draft)
    return Chain(a, b, c, file, world.object_of(file), world.conversion(file))


def opt_out(world: CleanupWorld, *runs: str) -> None:
    for run in runs:
        world.database.execute("UPDATE job_runs SET persist_data = false WHERE id = :run", run=run)


# ---- A, then B, then C


def test_the_file_goes_from_run_to_run_and_with_the_last(world: CleanupWorld) -> None:
    runs = chain(world)
    opt_out(world, runs.a)
    outcome = world.run("opt_out_cleanup")
    assert (outcome.counts["jobs_cleaned"], outcome.counts["files_rehomed"]) == (1, 1)
    assert not world.has("job_runs", runs.a)
    assert world.owner(runs.file) == runs.b
    assert world.used_by(runs.b) == world.used_by(runs.c) == [runs.file]
    assert runs.name in world.objects()
    # A conversion lies under the name of the run that the file belonged to, and nothing would find it there again.
    assert runs.conversion not in world.objects()
    second = world.conversion(runs.file)
    opt_out(world, runs.b)
    assert world.run("opt_out_cleanup").counts["files_rehomed"] == 1
    assert world.owner(runs.file) == runs.c
    assert runs.name in world.objects()
    assert second not in world.objects()
    third = world.conversion(runs.file)
    opt_out(world, runs.c)
    outcome = world.run("opt_out_cleanup")
    assert (outcome.counts["jobs_cleaned"], outcome.counts["files_rehomed"]) == (1, 0)
    assert world.count("job_runs") == world.count("source_files") == 0
    assert not {runs.name, third} & world.objects()


def test_of_several_submitted_runs_the_oldest_gets_it_whatever_their_state(world: CleanupWorld) -> None:
    runs = chain(world)
    world.database.execute("UPDATE job_runs SET status = 'in_progress' WHERE id = :run", run=runs.b)
    # Made later, and active earlier: it is the older run all the same.
    world.database.execute("UPDATE job_runs SET last_active_at = :at WHERE id = :run", at=world.ago(99), run=runs.c)
    opt_out(world, runs.a)
    world.run("opt_out_cleanup")
    assert world.owner(runs.file) == runs.b


def test_each_file_moves_to_the_run_that_uses_it_and_the_others_go(world: CleanupWorld) -> None:
    job = world.job()
    a = world.submitted(job, age=90, persist_data=False)
    files = [world.file(a) for _ in range(4)]
    names = [world.object_of(file) for file in files]
    world.task(a, *files)
    b, c = world.submitted(job, age=80), world.submitted(job, age=70)
    world.task(b, files[0], files[1])
    world.task(c, files[1], files[2])
    outcome = world.run("opt_out_cleanup")
    assert [world.owner(file) for file in files] == [b, b, c, None]
    assert [name in world.objects() for name in names] == [True, True, True, False]
    assert outcome.counts["files_rehomed"] == 3
    (erasure,) = world.erasures()
    assert erasure["row_counts"]["source_files"] == 1


def test_runs_that_go_together_keep_nothing_for_each_other(world: CleanupWorld) -> None:
    runs = chain(world)
    opt_out(world, runs.a, runs.b, runs.c)
    outcome = world.run("opt_out_cleanup")
    assert (outcome.counts["jobs_cleaned"], outcome.counts["files_rehomed"]) == (3, 0)
    assert world.objects() == set()


def test_a_run_of_which_only_the_content_goes_uses_nothing_any_more(world: CleanupWorld) -> None:
    runs = chain(world)
    world.automation(str(world.database.value("SELECT CAST(job_id AS text) FROM job_runs LIMIT 1")))
    opt_out(world, runs.a, runs.b, runs.c)
    world.run("opt_out_cleanup")
    assert [world.has("job_runs", run) for run in (runs.a, runs.b, runs.c)] == [False, False, True]
    assert world.objects() == set()
    assert world.count("source_files") == 0


def test_files_of_the_run_that_an_automation_lives_on_move_too(world: CleanupWorld) -> None:
    """Its content goes, and another job's automation does not: a run made earlier may use a later one's file."""
    job = world.job()
    world.automation(job)
    latest = world.submitted(job, age=50, persist_data=False)
    file = world.file(latest)
    world.task(latest, file)
    earlier = world.submitted(job, age=60)
    world.task(earlier, file)
    world.run("opt_out_cleanup")
    assert world.owner(file) == earlier
    assert world.object_of(file) in world.objects()
    assert world.used_by(latest) == []


# ---- with a draft


def test_a_run_waits_whole_for_a_draft_that_uses_its_file(world: CleanupWorld) -> None:
    runs = chain(world, draft=True)
    other = world.object_of(world.file(runs.a))
    opt_out(world, runs.a)
    before = world.checksum()
    outcome = world.run("opt_out_cleanup")
    assert (outcome.status, outcome.success) == (Status.COMPLETED, True)
    assert {key: outcome.counts[key] for key in ("jobs_cleaned", "files_rehomed", "waiting_on_draft")} == {
        "jobs_cleaned": 0,
        "files_rehomed": 0,
        "waiting_on_draft": 1,
    }
    assert world.checksum() == before
    assert other in world.objects()


def test_one_draft_is_enough_where_no_submitted_run_uses_the_file(world: CleanupWorld) -> None:
    """One file could move, another is needed by the draft alone: nothing moves."""
    job = world.job()
    a = world.submitted(job, age=90, persist_data=False)
    files = [world.file(a), world.file(a)]
    world.task(world.submitted(job, age=80), files[0])
    world.task(world.draft(job, age=10), files[1])
    assert world.run("opt_out_cleanup").counts["waiting_on_draft"] == 1
    assert [world.owner(file) for file in files] == [a, a]


def test_a_file_never_moves_to_a_draft_though_the_draft_is_older(world: CleanupWorld) -> None:
    job = world.job()
    a = world.submitted(job, age=90, persist_data=False)
    file = world.file(a)
    draft, b = world.draft(job, age=80, last_active_at=NOON), world.submitted(job, age=70)
    for run in (a, draft, b):
        world.task(run, file)
    world.run("opt_out_cleanup")
    assert world.owner(file) == b
    assert world.used_by(draft) == [file]


def test_it_moves_when_the_draft_was_submitted_in_between(world: CleanupWorld) -> None:
    runs = chain(world, draft=True)
    opt_out(world, runs.a)
    assert world.run("opt_out_cleanup").counts["waiting_on_draft"] == 1
    world.submit(runs.c)
    outcome = world.run("opt_out_cleanup")
    assert (outcome.counts["jobs_cleaned"], outcome.counts["files_rehomed"]) == (1, 1)
    assert outcome.counts["waiting_on_draft"] == 0
    assert world.owner(runs.file) == runs.c
    assert runs.name in world.objects()
    assert world.used_by(runs.b) == [runs.file]


def test_it_goes_when_the_draft_was_deleted_in_between(world: CleanupWorld) -> None:
    runs = chain(world, draft=True)
    opt_out(world, runs.a)
    assert world.run("opt_out_cleanup").counts["waiting_on_draft"] == 1
    assert world.run("abandoned_cleanup").counts["jobs_cleaned"] == 2
    assert world.owner(runs.file) == runs.a
    assert runs.name in world.objects()
    assert world.run("opt_out_cleanup").counts["jobs_cleaned"] == 1
    assert not {runs.name, runs.conversion} & world.objects()


def test_a_draft_that_goes_in_the_same_run_holds_nothing_up(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not be in the same batch: runs are gone over until a pass erases nothing more."""
    monkeypatch.setattr("functions.cleanup.erasing._RUNS_A_BATCH", 1)
    runs = chain(world, draft=True)
    opt_out(world, runs.a, runs.b, runs.c)
    world.database.execute("UPDATE job_runs SET status = 'cancelled' WHERE config_step <> 'submitted'")
    outcome = world.run("opt_out_cleanup")
    assert (outcome.counts["jobs_cleaned"], outcome.counts["waiting_on_draft"]) == (3, 0)
    assert world.objects() == set()


def test_a_run_that_waits_makes_those_wait_whose_files_it_uses(world: CleanupWorld) -> None:
    """B is a draft that goes, and waits for a draft of its own: it needs A's file for as long."""
    job = world.job()
    a = world.submitted(job, age=90, persist_data=False)
    b = world.draft(job, age=80, status="cancelled", persist_data=False)
    c = world.draft(job, age=1)
    first, second = world.file(a), world.file(b)
    world.task(b, first)
    world.task(c, second)
    assert world.run("opt_out_cleanup").counts["waiting_on_draft"] == 2
    assert [world.has("job_runs", run) for run in (a, b, c)] == [True, True, True]


def test_a_held_draft_is_waited_for(world: CleanupWorld) -> None:
    runs = chain(world, draft=True)
    opt_out(world, runs.a)
    world.hold("run", runs.b)
    world.run("abandoned_cleanup")
    assert (world.has("job_runs", runs.b), world.has("job_runs", runs.c)) == (True, False)
    assert world.run("opt_out_cleanup").counts["waiting_on_draft"] == 1


# ---- the decision itself

RUNS = ["a", "b", "c", "d", "e"]
SUBMITTED = st.fixed_dictionaries({run: st.booleans() for run in RUNS})
MADE = st.fixed_dictionaries({run: st.integers(0, 3).map(lambda number: NOON + timedelta(days=number)) for run in RUNS})
OWNERS = st.lists(st.sampled_from(RUNS), max_size=6)


@dataclass(frozen=True)
class Link:
    """A file of a run that another run uses."""

    file_id: str
    owner: str
    user_run: str
    submitted: bool
    created_at: datetime


def decided_for(candidates: set[str], links: Sequence[Link]) -> Sharing:
    """The decision, from the links put together as the database does."""
    users_of: dict[tuple[str, str], list[str]] = {}
    for link in links:
        users_of.setdefault((link.owner, link.file_id), []).append(link.user_run)
    files_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (owner, file), users in users_of.items():
        files_of.setdefault((owner, tuple(sorted(users))), []).append(file)
    shared = [Shared(owner, files, users) for (owner, users), files in files_of.items()]
    known = {link.user_run: User(link.user_run, link.submitted, link.created_at) for link in links}
    return decide_sharing(candidates, shared, known)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[set[str], list[Link]]:
    """Runs that would go, and the links of other runs to the files of each."""
    submitted: dict[str, bool] = draw(SUBMITTED)
    made: dict[str, datetime] = draw(MADE)
    candidates = draw(st.sets(st.sampled_from(RUNS)))
    links = [
        Link(f"file {number}", owner, user, submitted[user], made[user])
        for number, owner in enumerate(draw(OWNERS))
        if owner in candidates
        for user in draw(st.lists(st.sampled_from(RUNS), unique=True))
        if user != owner
    ]
    return candidates, draw(st.permutations(links))


def users_that_stay(links: Sequence[Link], file: str, going: set[str]) -> list[Link]:
    return [link for link in links if link.file_id == file and link.user_run not in going]


@settings(max_examples=1000)
@given(worlds())
def test_what_is_decided_loses_no_file_and_lets_no_run_wait_for_nothing(drawn: tuple[set[str], list[Link]]) -> None:
    candidates, links = drawn
    decided = decided_for(candidates, links)
    assert decided.going | decided.waiting == candidates
    assert not decided.going & decided.waiting
    moves = {move.file_id: move for move in decided.moves}
    assert len(moves) == len(decided.moves)
    for file, owner in {(link.file_id, link.owner) for link in links}:
        staying = users_that_stay(links, file, decided.going)
        submitted = [link for link in staying if link.submitted]
        if owner in decided.waiting or not staying:
            assert file not in moves
        else:
            oldest = min(submitted, key=lambda link: (link.created_at, link.user_run))
            assert moves[file] == Move(file, owner, oldest.user_run)
    for run in decided.waiting:
        files = {link.file_id for link in links if link.owner == run}
        stuck = [users_that_stay(links, file, decided.going) for file in files]
        assert any(users and not any(link.submitted for link in users) for users in stuck)


@settings(max_examples=1000)
@given(worlds())
def test_nothing_waits_that_could_go_as_well(drawn: tuple[set[str], list[Link]]) -> None:
    """A run that waits is itself a user that stays, and may be the submitted one that another can leave its file to."""
    candidates, links = drawn
    decided = decided_for(candidates, links)
    for run in decided.waiting:
        going = decided.going | {run}
        stuck = [
            owner
            for file, owner in {(link.file_id, link.owner) for link in links}
            if owner in going
            and (staying := users_that_stay(links, file, going))
            and not any(link.submitted for link in staying)
        ]
        assert stuck


def test_a_user_that_is_gone_meanwhile_uses_nothing() -> None:
    decided = decide_sharing({"a"}, [Shared("a", ["file"], ["b"])], {})
    assert (decided.going, decided.waiting, decided.moves) == ({"a"}, set(), [])


def test_a_year_of_daily_appends_is_decided_with_one_look_at_each_use() -> None:
    """Each run uses the files of all before it, and only a draft is left: all wait, and none is asked over and over."""
    runs = [f"run {number:03}" for number in range(365)]
    looks = 0

    class Counted(dict[str, User]):
        def __getitem__(self, run: str) -> User:
            nonlocal looks
            looks += 1
            return super().__getitem__(run)

    users = Counted({run: User(run, True, NOON) for run in runs} | {"draft": User("draft", False, NOON)})
    shared = [Shared(run, ["file"], [*runs[number + 1 :], "draft"]) for number, run in enumerate(runs)]
    decided = decide_sharing(runs, shared, users)
    assert looks == sum(len(each.users) for each in shared)
    # The last one waits for the draft. It was submitted, so that all others leave it their files.
    assert (decided.waiting, len(decided.moves)) == ({runs[-1]}, 364)
