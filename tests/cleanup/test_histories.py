"""Whatever users do, whenever a cleanup dies: what should go goes, and nothing else.

Hypothesis mixes the service's histories with cleanups that run, run dry, or die between any two steps. After each,
every row of every table and every object is held against tests/cleanup/model.py.
"""

import os
from collections import Counter

import pytest
import redis
import urllib3
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from devstack import buckets
from devstack.gcs_front import GcsFront
from devstack.stack import Stack
from functions.registry import JOBS
from shared.invocation import Invocation
from shared.outcome import Outcome, Status
from shared.runner import run_job
from tests.cleanup import model
from tests.cleanup.acts import Acts
from tests.cleanup.service import Service
from tests.cleanup.state import State, Stored, differences, read_objects, read_tables
from tests.support.clock import ManualClock, VirtualTimer
from tests.support.database import TestDatabase
from tests.support.mortal import Death, Died, MortalServices
from tests.support.redis import lose_everything
from tests.support.wait import until

CLEANUPS = ("abandoned_cleanup", "opt_out_cleanup", "artifact_cleanup", "usage_counter_cleanup")
DYING = (*model.ERASING, *model.ERASING, "artifact_cleanup", "artifact_cleanup", "usage_counter_cleanup")
TABLES = (
    "users, templates, maintenance.holds, maintenance.object_deletions, maintenance.erasures, maintenance.cursors, "
    "maintenance.runs, maintenance.fences"
)
OURS = "application_name = 'bytereview-maintenance' AND datname = current_database()"
# What happens is drawn from a seed: hypothesis likes short and simple histories, and these should not be.
SEED = st.integers(0, 99_999)
MORE = int(os.environ.get("CLEANUP_HISTORIES_EXAMPLES", "0"))
MANY = st.integers(3, 18)
DAYS = st.sampled_from([0.01, 1, 6, 8, 8, 9, 15, 31, 31, 31, 100, 450])


class Place:
    """Where all examples run, one after the other."""

    database: TestDatabase
    redis: "redis.Redis"
    redis_url: str
    front: GcsFront
    bucket: str
    monkeypatch: pytest.MonkeyPatch
    told: Counter[str]


class Machine(RuleBasedStateMachine):
    """One service, one bucket, four cleanups."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.database = self.place.database
        self.front = self.place.front
        self.database.execute(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
        for name in read_objects(self.front.upstream, self.place.bucket):
            urllib3.request("DELETE", buckets.object_url(self.front.upstream, self.place.bucket, name))
        self.front.created.clear()
        self.front.requests.clear()
        lose_everything(self.place.redis)
        self.clock = ManualClock()
        self.service = Service(self.database, self.clock, self._put)
        self.acts = Acts(self.service)
        self.death = Death()
        self.services: MortalServices | None = None

    @initialize(
        batch=st.sampled_from([500, 1, 500, 2]),
        page=st.sampled_from([1000, 4]),
        seed=SEED,
        acts=st.integers(5, 20),
    )
    def begin(self, batch: int, page: int, seed: int, acts: int) -> None:
        self.place.monkeypatch.setattr("functions.cleanup.erasing._RUNS_A_BATCH", batch)
        self.place.monkeypatch.setattr("devstack.gcs_front._PAGE", page)
        self.one_batch = batch == 500
        self.service.sign_up()
        self.service.sign_up()
        for number in range(4):
            self.acts.do_a_job(number, form=seed // 12**number % 12)
        self.acts.live(seed, acts)

    # ---- cleanups

    @rule(job=st.sampled_from((*model.ERASING, *CLEANUPS)), seed=SEED, acts=MANY, days=DAYS)
    def clean_up(self, job: str, seed: int, acts: int, days: float) -> None:
        self.acts.live(seed, acts)
        self.clock.advance(days=days)
        self._clean_up(job)

    @rule(job=st.sampled_from(CLEANUPS), seed=SEED, acts=MANY, days=DAYS)
    def run_dry(self, job: str, seed: int, acts: int, days: float) -> None:
        """Touches nothing, and tells what a run does that follows."""
        self.acts.live(seed, acts)
        self.clock.advance(days=days)
        before = self._state()
        dry = self._run(job, dry_run=True)
        assert dry.status is Status.COMPLETED, dry
        after = self._state()
        assert differences(before, after) == []
        assert after.tables["maintenance.object_deletions"] == before.tables["maintenance.object_deletions"]
        real = self._clean_up(job)
        goes_on = before.open_rows() or before.tables["maintenance.cursors"]
        one_batch = self.one_batch or job not in model.ERASING
        if real.status is Status.COMPLETED and one_batch and not goes_on:
            counted = [name for name in COUNTS if name in real.counts]
            assert {name: dry.counts[name] for name in counted} == {name: real.counts[name] for name in counted}

    @rule(
        job=st.sampled_from(DYING),
        seed=SEED,
        acts=MANY,
        days=DAYS,
        steps=st.sampled_from(range(8, 140)),
        again=st.booleans(),
    )
    def die(self, job: str, seed: int, acts: int, days: float, steps: int, again: bool) -> None:
        """Die somewhere. Go on at once, or let the service go on first."""
        self.acts.live(seed, acts)
        self.clock.advance(days=days)
        before = self._state()
        if not self._die(job, steps, before):
            return
        self.clock.advance(minutes=3)
        if not again:
            self.acts.import_again(steps, steps)
            return
        if self._die(job, steps // 2, self._state()):
            self.clock.advance(minutes=3)
        self._clean_up(job, since=before)

    @rule(
        job=st.sampled_from([*model.ERASING, "artifact_cleanup"]),
        seed=SEED,
        acts=MANY,
        days=DAYS,
        steps=st.sampled_from(range(20, 140)),
        all_leave=st.sampled_from([False, False, False, False, True]),
    )
    def die_and_go_on_with_another(
        self, job: str, seed: int, acts: int, days: float, steps: int, all_leave: bool
    ) -> None:
        """What one has left in the outbox, any of the others takes. Without any rows, nothing is taken."""
        self.acts.live(seed, acts)
        self.clock.advance(days=days)
        if self._die(job, steps, self._state()):
            self.clock.advance(minutes=3)
            self.acts.import_again(seed, acts)
            self.acts.live(seed + 1, acts // 3)
        if all_leave:
            for user in self.service.users():
                self.service.delete_user(user)
            self._clean_up("artifact_cleanup")
            self.service.sign_up()
        self._clean_up("opt_out_cleanup" if job == "abandoned_cleanup" else "abandoned_cleanup")

    def teardown(self) -> None:
        try:
            self.clock.advance(days=8)
            for job in CLEANUPS:
                self._clean_up(job)
        finally:
            self._forget_services()

    # ---- how

    def _clean_up(self, job: str, since: State | None = None) -> Outcome:
        """Run a cleanup to its end and hold all there is against the model; with `since`, as of an earlier moment."""
        before = self._state()
        if before.tables["maintenance.cursors"] and job == "artifact_cleanup" and since is None:
            # It goes on where one stopped that died, and the service has changed what that had passed already.
            self._judged(job, before, self._run(job), strictly=False)
            before = self._state()
        outcome = self._run(job)
        self._judged(job, before, outcome)
        if since is not None and outcome.status is Status.COMPLETED:
            self._judged(job, since, outcome, counted=False)
        return outcome

    def _judged(
        self, job: str, before: State, outcome: Outcome, *, counted: bool = True, strictly: bool = True
    ) -> None:
        after, now = self._state(), self.clock.now()
        self.place.told[f"{job} {outcome.status}"] += 1
        if job == "artifact_cleanup" and model.must_refuse(before):
            assert outcome.status is Status.REFUSED, outcome
            assert differences(before, after) == []
            return
        assert (outcome.status, outcome.success) == (Status.COMPLETED, True), outcome
        counts = outcome.counts if counted and not before.open_rows() else None
        if not strictly:
            wrong = model.judge_crash(before, after, job, now)
        elif job in model.ERASING:
            wrong = model.judge_erasure(before, after, job, now, counts if self.one_batch else None)
            self.place.told["runs"] += outcome.counts["jobs_cleaned"]
            self.place.told["moved"] += outcome.counts["files_rehomed"]
            self.place.told["waiting"] += outcome.counts["waiting_on_draft"]
        elif job == "artifact_cleanup":
            wrong = model.judge_artifacts(before, after, now, counts)
            self.place.told["artifacts"] += outcome.counts["artifacts_cleaned"]
        else:
            wrong = model.judge_counters(before, after, now, counts)
        assert wrong + model.judge_names(after) == []

    def _die(self, job: str, steps: int, before: State) -> bool:
        """Run a cleanup that dies; whether it did, and was not through before."""
        self.death.comes_after(steps)
        try:
            outcome = self._run(job)
        except Died:
            self._forget_services()
            lose_everything(self.place.redis)
            until(
                lambda: not self.database.value(f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}"),
                "the server has noticed",
            )
        else:
            self.death.is_over()
            strictly = not (job == "artifact_cleanup" and before.tables["maintenance.cursors"])
            self._judged(job, before, outcome, strictly=strictly)
            return False
        self.death.is_over()
        after = self._state()
        self.place.told[f"{job} died"] += 1
        self.place.told["died with open rows"] += bool(after.open_rows())
        assert model.judge_crash(before, after, job, self.clock.now()) == []
        return True

    def _run(self, job: str, **fields: bool) -> Outcome:
        if self.services is None:
            environ = {
                "DATABASE_URL": self.database.url,
                "REDIS_URL": self.place.redis_url,
                "GCS_BUCKET_NAME": self.place.bucket,
                "STORAGE_EMULATOR_HOST": self.front.url,
                "ORPHAN_MAX_FLOOR": "100000",
                "MAX_DELETE_FLOOR": "100000",
            }
            self.services = MortalServices(environ, self.clock, VirtualTimer(), self.death)
        if self.death.after is None:
            self.death.is_over()
        return run_job(self.services, JOBS[job], Invocation(**fields))  # type: ignore[arg-type]

    def _forget_services(self) -> None:
        if self.services is not None:
            self.services.close()
            self.services = None

    def _put(self, name: str) -> None:
        buckets.put(self.front.upstream, self.place.bucket, name)
        self.front.created[name] = self.clock.now()

    def _state(self) -> State:
        objects = {
            name: Stored(self.front.created[name], generation)
            for name, generation in read_objects(self.front.upstream, self.place.bucket).items()
        }
        return State(read_tables(self.database), objects)


COUNTS = (
    "jobs_cleaned", "parents_deleted", "files_rehomed", "held", "waiting_on_draft", "artifacts_cleaned", "zips_cleaned",
    "conversions_cleaned", "temp_uploads_cleaned", "orphans_cleaned", "deleted_count", "outbox_pruned",
)  # fmt: skip


@pytest.fixture
def place(
    database: TestDatabase,
    redis_client: "redis.Redis",
    stack: Stack,
    gcs_front: GcsFront,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    place = Place()
    place.database, place.redis, place.redis_url = database, redis_client, stack.redis_url
    place.front, place.bucket, place.monkeypatch, place.told = gcs_front, bucket, monkeypatch, Counter()
    database.execute("UPDATE maintenance.identity SET bucket = :bucket", bucket=bucket)
    database.execute("INSERT INTO data_types (id, display_name) VALUES ('string', 'Text') ON CONFLICT DO NOTHING")
    return place


@pytest.mark.timeout(int(os.environ.get("CLEANUP_HISTORIES_TIMEOUT", "300")))
@pytest.mark.parametrize("examples", [MORE] if MORE else [3, pytest.param(12, marks=pytest.mark.slow)])
def test_what_should_go_goes_and_nothing_else(place: Place, examples: int) -> None:
    """The forms for every day and for CI; CLEANUP_HISTORIES_EXAMPLES asks for more of them, each time others."""
    Machine.place = place
    profile = (
        hypothesis_settings(max_examples=examples, stateful_step_count=15, derandomize=False)
        if MORE
        else hypothesis_settings(max_examples=examples, stateful_step_count=10)
    )
    run_state_machine_as_test(Machine, settings=profile)
    print(dict(sorted(place.told.items())))  # noqa: T201  what the histories were made of is worth seeing
