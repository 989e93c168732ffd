"""Whatever users do, whenever a cleanup dies: what should go goes, and nothing else.

Hypothesis mixes the service's histories with cleanups that run, run dry, or die between any two steps. After each,
every row of every table and every object is held against tests/cleanup/model.py.
"""

import os
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
import redis
import urllib3
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
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
from tests.cleanup.crash import Death, Died, MortalServices
from tests.cleanup.service import ENDS, Service, read_objects, read_tables
from tests.support.clock import ManualClock, VirtualTimer
from tests.support.database import TestDatabase
from tests.support.redis import lose_everything
from tests.support.wait import until

CLEANUPS = ("abandoned_cleanup", "opt_out_cleanup", "artifact_cleanup", "usage_counter_cleanup")
TABLES = (
    "users, templates, maintenance.holds, maintenance.object_deletions, maintenance.erasures, maintenance.cursors, "
    "maintenance.runs, maintenance.fences"
)
OURS = "application_name = 'bytereview-maintenance' AND datname = current_database()"
NUMBER = st.integers(0, 6)
SEVERAL = st.integers(0, 3)
DAYS = st.sampled_from([0.01, 1, 6, 8, 8, 15, 31, 31, 40])
KEEP = st.sampled_from([True, False, False])


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
        self.death = Death()
        self.services: MortalServices | None = None

    @initialize(
        batch=st.sampled_from([500, 500, 1, 2]),
        page=st.sampled_from([1000, 4]),
        jobs=st.lists(st.tuples(KEEP, SEVERAL, st.sampled_from(ENDS)), min_size=2, max_size=4),
    )
    def begin(self, batch: int, page: int, jobs: list[tuple[bool, int, str]]) -> None:
        self.place.monkeypatch.setattr("functions.cleanup.erasing._RUNS_A_BATCH", batch)
        self.place.monkeypatch.setattr("devstack.gcs_front._PAGE", page)
        self.one_batch = batch == 500
        self.service.sign_up()
        self.service.sign_up()
        for number, (keep, files, how) in enumerate(jobs):
            self._do_a_job(self.service.users()[number % 2], keep, files, how, together=number == 0)

    # ---- users

    @rule()
    @precondition(lambda self: len(self.service.users()) < 3)
    def sign_up(self) -> None:
        self.service.sign_up()

    @rule(number=NUMBER, months=st.sampled_from([1, 12, 13, 14, 30]), current=st.booleans())
    def keep_an_old_counter(self, number: int, months: int, current: bool) -> None:
        for user in _one(self.service.users(), number):
            self.service.keep_an_old_counter(user, months, current)

    @rule(number=NUMBER)
    @precondition(lambda self: len(self.service.users()) > 2)
    def delete_user(self, number: int) -> None:
        for user in _one(self.service.users(), number):
            self.service.delete_user(user)

    @rule(number=NUMBER)
    def leave_scratch(self, number: int) -> None:
        for user in _one(self.service.users(), number):
            self.service.leave_scratch(user)

    # ---- jobs and runs

    @rule(number=NUMBER, keep=KEEP, files=SEVERAL)
    def begin_a_job(self, number: int, keep: bool, files: int) -> None:
        for user in _one(self.service.users(), number):
            self._with_files(self.service.new_job(user, keep), files)

    @rule(number=NUMBER, keep=KEEP, files=SEVERAL, together=st.booleans(), how=st.sampled_from(ENDS))
    def do_a_job(self, number: int, keep: bool, files: int, together: bool, how: str) -> None:
        """From the beginning to the end."""
        for user in _one(self.service.users(), number):
            self._do_a_job(user, keep, files, how, together)

    @rule(number=NUMBER, files=SEVERAL)
    def begin_a_run(self, number: int, files: int) -> None:
        for job in _one(self.service.jobs(), number):
            run = self.service.new_run(job)
            if run is not None:
                self._with_files(run, files)

    @rule(number=NUMBER)
    def wizard_step(self, number: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.wizard_step(run)

    @rule(number=NUMBER, together=st.booleans(), done=SEVERAL)
    def submit(self, number: int, together: bool, done: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.submit(run, together, done)

    @rule(number=NUMBER, how=st.sampled_from(ENDS))
    def end(self, number: int, how: str) -> None:
        for run in _one(self.service.runs("status = 'in_progress'"), number):
            self.service.end(run, how)

    @rule(number=NUMBER, files=SEVERAL, opted_out=st.booleans())
    def append(self, number: int, files: int, opted_out: bool) -> None:
        for run in _one(self.service.runs(_WITH_TASKS), number):
            self._with_files(self.service.append(run), files)
            if opted_out:
                self.service.opt_out(run)

    @rule(number=NUMBER, files=SEVERAL, how=st.sampled_from(ENDS), opted_out=st.integers(0, 7))
    def append_and_end(self, number: int, files: int, how: str, opted_out: int) -> None:
        for run in _one(self.service.runs(_WITH_TASKS), number):
            appended = self.service.append(run)
            self._with_files(appended, files)
            self.service.submit(appended, together=False, done=files)
            self.service.end(appended, how)
            if opted_out & 1:
                self.service.opt_out(run)
            if opted_out & 2:
                self.service.opt_out(appended)

    @rule(number=NUMBER)
    def opt_out(self, number: int) -> None:
        for run in _one(self.service.runs("persist_data"), number):
            self.service.opt_out(run)

    @rule()
    def give_up_idle_drafts(self) -> None:
        self.service.give_up_idle_drafts()

    @rule(number=NUMBER)
    @precondition(lambda self: len(self.service.jobs()) > 2)
    def delete_job(self, number: int) -> None:
        for job in _one(self.service.jobs(), number):
            self.service.delete_job(job)

    @rule(number=NUMBER, drive=st.booleans())
    def export(self, number: int, drive: bool) -> None:
        for run in _one(self.service.runs(), number):
            self.service.export(run, drive)

    # ---- files

    @rule(number=NUMBER, how=st.sampled_from(["plain", "zip", "ZIP", "broken", "member"]))
    def upload(self, number: int, how: str) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.upload(run, how)

    @rule(number=NUMBER, how=st.sampled_from(["zip", "ZIP"]), members=SEVERAL)
    def upload_and_unpack(self, number: int, how: str, members: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.unpack(self.service.upload(run, how), members)

    @rule(number=NUMBER)
    def convert(self, number: int) -> None:
        for file in _one(self.service.files("status <> 'uploading'"), number):
            self.service.convert(file)

    @rule(number=NUMBER, which=st.integers(0, 1), finished=st.integers(0, 3))
    def import_from_drive(self, number: int, which: int, finished: int) -> None:
        for run in _one(self.service.drafts(), number):
            self.service.import_from_drive(run, which, finished > 0)

    @rule(number=NUMBER, imported=st.booleans(), again=st.booleans())
    def remove(self, number: int, imported: bool, again: bool) -> None:
        """Taken out of a draft, and perhaps imported again under the same name."""
        where = "file.source_type = 'drive'" if imported else "true"
        for run in _one(self.service.drafts(), number):
            for file in _one(self.service.files(f"file.job_run_id = '{run}' AND {where}"), number):
                self.service.remove(file)
            if again:
                self.service.import_from_drive(run, number % 2, finished=True)

    # ---- automations

    @rule(number=NUMBER)
    @precondition(lambda self: len(self.service.automations()) < 3)
    def automate(self, number: int) -> None:
        for job in _one(self.service.jobs(), number):
            self.service.automate(job)

    @rule(number=NUMBER)
    def stop_automating(self, number: int) -> None:
        for automation in _one(self.service.automations(), number):
            self.service.stop_automating(automation)

    @rule(number=NUMBER, attachments=SEVERAL, submitted=st.booleans())
    def fire(self, number: int, attachments: int, submitted: bool) -> None:
        for automation in _one(self.service.automations(), number):
            self.service.fire(automation, attachments, submitted)

    # ---- operators and time

    @rule(scope=st.sampled_from(["user", "job", "run"]), number=NUMBER, for_days=st.sampled_from([None, 1, 20]))
    def hold(self, scope: str, number: int, for_days: int | None) -> None:
        subjects = {"user": self.service.users, "job": self.service.jobs, "run": self.service.runs}[scope]()
        for subject in _one(subjects, number):
            until = None if for_days is None else self.clock.now() + timedelta(days=for_days)
            self.service.hold(scope, subject, until)

    @rule()
    def release_holds(self) -> None:
        self.service.release_holds()

    @rule(days=DAYS)
    def time_passes(self, days: float) -> None:
        self.clock.advance(days=days)

    @rule(days=st.sampled_from([100, 450]))
    def much_time_passes(self, days: int) -> None:
        self.clock.advance(days=days)

    # ---- cleanups

    @rule(job=st.sampled_from(CLEANUPS), days=DAYS)
    def clean_up(self, job: str, days: float) -> None:
        self.clock.advance(days=days)
        self._clean_up(job)

    @rule(job=st.sampled_from(CLEANUPS), days=DAYS)
    def run_dry(self, job: str, days: float) -> None:
        """Touches nothing, and tells what a run does that follows."""
        self.clock.advance(days=days)
        before = self._state()
        dry = self._run(job, dry_run=True)
        assert dry.status is Status.COMPLETED, dry
        after = self._state()
        assert model.differences(before, after) == []
        assert after.tables["maintenance.object_deletions"] == before.tables["maintenance.object_deletions"]
        real = self._clean_up(job)
        if real.status is Status.COMPLETED and (self.one_batch or job not in model.ERASING) and not before.open_rows():
            counted = [name for name in COUNTS if name in real.counts]
            assert {name: dry.counts[name] for name in counted} == {name: real.counts[name] for name in counted}

    @rule(job=st.sampled_from(model.ERASING), days=DAYS, steps=st.sampled_from(range(8, 100)), again=st.booleans())
    def die_erasing(self, job: str, days: float, steps: int, again: bool) -> None:
        self._die_and_go_on(job, days, steps, again)

    @rule(days=DAYS, steps=st.sampled_from(range(8, 160)), again=st.booleans())
    def die_sweeping(self, days: float, steps: int, again: bool) -> None:
        self._die_and_go_on("artifact_cleanup", days, steps, again)

    @rule(steps=st.sampled_from(range(8, 50)), again=st.booleans())
    def die_counting(self, steps: int, again: bool) -> None:
        self._die_and_go_on("usage_counter_cleanup", 0, steps, again)

    @rule(job=st.sampled_from([*model.ERASING, "artifact_cleanup"]), days=DAYS, steps=st.sampled_from(range(20, 100)))
    def die_and_go_on_with_another(self, job: str, days: float, steps: int) -> None:
        """What one has left in the outbox, any of the others takes."""
        self.clock.advance(days=days)
        if self._die(job, steps, self._state()):
            self.clock.advance(minutes=3)
            self._clean_up("opt_out_cleanup" if job == "abandoned_cleanup" else "abandoned_cleanup")

    def teardown(self) -> None:
        try:
            self.clock.advance(days=8)
            for job in CLEANUPS:
                self._clean_up(job)
        finally:
            self._forget_services()

    # ---- how

    def _die_and_go_on(self, job: str, days: float, steps: int, again: bool) -> None:
        """Die somewhere. Go on at once, or let the service go on first."""
        self.clock.advance(days=days)
        before = self._state()
        if not self._die(job, steps, before):
            return
        self.clock.advance(minutes=3)
        if again:
            if self._die(job, steps // 2, self._state()):
                self.clock.advance(minutes=3)
            self._clean_up(job, since=before)

    def _do_a_job(self, user: str, keep: bool, files: int, how: str, together: bool) -> None:
        run = self.service.new_job(user, keep)
        self._with_files(run, files)
        self.service.submit(run, together, done=max(0, files - (how == "partially_completed")))
        self.service.end(run, how)

    def _with_files(self, run: str, files: int) -> None:
        for number in range(files):
            if number == 2:
                self.service.import_from_drive(run, number % 2, finished=True)
            else:
                file = self.service.upload(run, "plain")
                if number:
                    self.service.convert(file)

    def _clean_up(self, job: str, since: model.State | None = None) -> Outcome:
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
        self, job: str, before: model.State, outcome: Outcome, *, counted: bool = True, strictly: bool = True
    ) -> None:
        after, now = self._state(), self.clock.now()
        self.place.told[f"{job} {outcome.status}"] += 1
        if job == "artifact_cleanup" and model.must_refuse(before):
            assert outcome.status is Status.REFUSED, outcome
            assert model.differences(before, after) == []
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

    def _die(self, job: str, steps: int, before: model.State) -> bool:
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

    def _state(self) -> model.State:
        objects = {
            name: model.Stored(self.front.created[name], generation)
            for name, generation in read_objects(self.front.upstream, self.place.bucket).items()
        }
        return model.State(read_tables(self.database), objects)


_WITH_TASKS = "EXISTS (SELECT FROM extraction_tasks WHERE job_run_id = run.id AND status = 'completed')"
COUNTS = (
    "jobs_cleaned", "parents_deleted", "files_rehomed", "held", "waiting_on_draft", "artifacts_cleaned", "zips_cleaned",
    "conversions_cleaned", "temp_uploads_cleaned", "orphans_cleaned", "deleted_count", "outbox_pruned",
)  # fmt: skip


def _one(ids: Sequence[str], number: int) -> Sequence[str]:
    """One of them, counted from the newest; none if there is none."""
    return [ids[-1 - number % len(ids)]] if ids else []


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
def test_what_should_go_goes_and_nothing_else(place: Place) -> None:
    """The form for every day; CLEANUP_HISTORIES_EXAMPLES asks for more of them, each time others."""
    Machine.place = place
    more = int(os.environ.get("CLEANUP_HISTORIES_EXAMPLES", "0"))
    profile = (
        hypothesis_settings(max_examples=more, stateful_step_count=45, derandomize=False)
        if more
        else hypothesis_settings(max_examples=12, stateful_step_count=30)
    )
    run_state_machine_as_test(Machine, settings=profile)
    print(dict(sorted(place.told.items())))  # noqa: T201  what the histories were made of is worth seeing
