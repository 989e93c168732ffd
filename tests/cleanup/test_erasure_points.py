"""Erasing beside the live service: its transactions at every point of a run."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from functions.cleanup.erasing import STATEMENTS
from shared.outcome import Outcome, Status
from shared.postgres import Row, Transaction
from shared.sql import Statement
from tests.cleanup.live_service import (
    Action,
    Scene,
    Service,
    a_draft,
    a_draft_behind_an_automation,
    a_draft_that_an_automation_filled,
    an_automation_fires,
    an_ended_run,
    an_ended_run_of_an_automation,
    an_ended_run_with_a_draft,
    an_ended_run_with_a_draft_that_is_bare,
    an_ended_run_with_a_later_one,
    append_a_draft,
    append_and_submit,
    begin_a_run,
    copy_what_it_is_appended_to,
    create_an_automation,
    delete_the_job,
    delete_the_run_that_gets_the_file,
    resume,
    submit,
    submit_the_later_one,
    upload,
    use_the_task,
)
from tests.cleanup.points import Points
from tests.support.cleanup import CleanupWorld
from tests.support.database import TestDatabase
from tests.support.wait import until

# Sessions that wait for another's lock: the test's own, which play the service, and those of the job.
WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND (application_name = 'a test') = :tests"
)


CASES: list[tuple[str, Callable[[CleanupWorld], Scene], Action]] = [
    ("abandoned_cleanup", a_draft, resume),
    ("abandoned_cleanup", a_draft, upload),
    ("abandoned_cleanup", a_draft, submit),
    ("abandoned_cleanup", a_draft, begin_a_run),
    ("abandoned_cleanup", a_draft, append_a_draft),
    ("abandoned_cleanup", a_draft, create_an_automation),
    ("abandoned_cleanup", a_draft, delete_the_job),
    ("abandoned_cleanup", a_draft_behind_an_automation, an_automation_fires),
    ("abandoned_cleanup", a_draft_that_an_automation_filled, an_automation_fires),
    ("opt_out_cleanup", an_ended_run, append_a_draft),
    ("opt_out_cleanup", an_ended_run, append_and_submit),
    ("opt_out_cleanup", an_ended_run, create_an_automation),
    ("opt_out_cleanup", an_ended_run, use_the_task),
    ("opt_out_cleanup", an_ended_run_of_an_automation, an_automation_fires),
    ("opt_out_cleanup", an_ended_run_of_an_automation, begin_a_run),
    ("opt_out_cleanup", an_ended_run_with_a_later_one, append_a_draft),
    ("opt_out_cleanup", an_ended_run_with_a_later_one, delete_the_run_that_gets_the_file),
    ("opt_out_cleanup", an_ended_run_with_a_later_one, delete_the_job),
    ("opt_out_cleanup", an_ended_run_with_a_draft_that_is_bare, copy_what_it_is_appended_to),
    ("opt_out_cleanup", an_ended_run_with_a_draft, submit_the_later_one),
    ("opt_out_cleanup", an_ended_run_with_a_draft, delete_the_run_that_gets_the_file),
]


# What the service leaves behind when it deletes rows is artifact_cleanup's business.
LEAVING_OBJECTS = (delete_the_job, delete_the_run_that_gets_the_file)


class Intruder:
    """The service's transaction, begun at one point of a run, in a thread and a session of its own.

    It commits at once; or, `open`, when the job waits for it, and at the latest when the run is over.
    """

    def __init__(self, database: TestDatabase, action: Action, scene: Scene, *, stays_open: bool) -> None:
        self._database = database
        self._action = action
        self._scene = scene
        self._stays_open = stays_open
        self._did = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.error: Exception | None = None

    def begin(self) -> None:
        """Come back when it is done, or stands open, or waits for a lock of the job's."""
        self._thread.start()
        until(
            lambda: self._did.is_set() or self._database.value(WAITS, tests=True),
            "the service's transaction has run, or waits",
        )

    def end(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    @property
    def committed(self) -> bool:
        return self.error is None

    def _work(self) -> None:
        try:
            with self._database.engine.begin() as connection:
                self._action(Service(connection), self._scene)
                if self._stays_open:
                    self._did.set()
                    until(
                        lambda: self._over.is_set() or self._database.value(WAITS, tests=False),
                        "the job waits for the service, or is over",
                        60,
                    )
        except Exception as error:  # noqa: BLE001  what it could not do is what the test asks
            self.error = error
        finally:
            self._did.set()


def check(world: CleanupWorld, scene: Scene, intruder: Intruder, outcome: Outcome, where: str) -> None:
    assert outcome.status in (Status.COMPLETED, Status.INCOMPLETE), (where, outcome)
    assert outcome.counts["failed_count"] == 0, where
    if intruder.committed:
        for table, key in scene.kept:
            assert world.has(table, key), f"{where}: a row of {table} was lost, of a transaction that had committed"
    # Either all of the run's files are there, each with its object, or none.
    mine = [file for file in scene.files if world.owner(file) is not None]
    ours = {world.object_of(file) for file in mine}
    assert ours <= world.objects(), f"{where}: a row names an object that is gone"
    assert mine in ([], scene.files), f"{where}: a part is gone"


WAYS = {"commits": False, "stays open": True}
NAMES = {f"{make.__name__}-{action.__name__}": (job, make, action) for job, make, action in CASES}
# Each case comes in one of the ways at a few points. All points in both ways take minutes.
FEW = [
    pytest.param(*case, list(WAYS.values())[number % 2], 5, id=f"{name}-few points")
    for number, (name, case) in enumerate(NAMES.items())
]
ALL = [
    pytest.param(*case, stays_open, 1, id=f"{name}-{way}", marks=pytest.mark.slow)
    for name, case in NAMES.items()
    for way, stays_open in WAYS.items()
]


@pytest.mark.parametrize(("job", "make", "action", "stays_open", "step"), [*FEW, *ALL])
def test_the_service_comes_at_every_point_of_a_run(
    world: CleanupWorld,
    points: Points,
    job: str,
    make: Callable[[CleanupWorld], Scene],
    action: Action,
    stays_open: bool,
    step: int,
) -> None:
    environment = world.environment()
    point, came = 1 - step, True
    committed = failed = 0
    while came:
        point += step
        world.database.execute("DELETE FROM users")
        scene = make(world)
        intruder = Intruder(world.database, action, scene, stays_open=stays_open)
        points.at(point, intruder.begin)
        outcome = environment.run(job)
        came = points.called
        points.at(-1, lambda: None)
        if came:
            intruder.end()
            check(world, scene, intruder, outcome, f"after statement {point}")
            committed, failed = committed + intruder.committed, failed + (not intruder.committed)
            # What could not be done now is done by a next run, and what is not needed leaves the bucket with it.
            after = environment.run(job)
            assert after.status is Status.COMPLETED, (point, after)
            check(world, scene, intruder, after, f"after statement {point}, once more")
            if action not in LEAVING_OBJECTS:
                mine = {name for name in world.objects() if scene.run in name}
                assert mine <= world.named_objects(), f"after statement {point}: an object was forgotten"
    assert point > 8, "the points of a whole run"
    assert committed


@pytest.mark.parametrize(("after", "stays_open"), [("lock_runs", True), ("find_shared", False)])
def test_a_file_that_comes_into_use_while_its_run_is_locked_stays(
    world: CleanupWorld, monkeypatch: pytest.MonkeyPatch, after: str, stays_open: bool
) -> None:
    """The locks on the files alone stand in its way.

    A link that is not committed yet is seen by no later statement. It would go with its file when it commits in time.
    """
    scene = an_ended_run_with_a_draft_that_is_bare(world)
    intruder = Intruder(world.database, copy_what_it_is_appended_to, scene, stays_open=stays_open)
    original, begun = Transaction.rows, list[str]()

    def rows(transaction: Transaction, statement: Statement, **parameters: Any) -> Sequence[Row]:
        answer = original(transaction, statement, **parameters)
        if statement is STATEMENTS[after] and not begun:
            begun.append(after)
            intruder.begin()
        return answer

    monkeypatch.setattr(Transaction, "rows", rows)
    outcome = world.run("opt_out_cleanup")
    intruder.end()
    assert begun
    check(world, scene, intruder, outcome, f"after {after}")
