"""Real processes, really killed, in the middle of a cleanup; the next attempt finishes it, as the model says."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis

from devstack import buckets
from devstack.gcs_front import GcsFront
from devstack.serving import Served, fire
from tests.cleanup import model
from tests.cleanup.service import Service
from tests.cleanup.state import State, Stored, differences, read_objects, read_tables
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.redis import lose_everything
from tests.support.serving import Functions
from tests.support.wait import until

OURS = "application_name = 'bytereview-maintenance' AND datname = current_database()"
HELD = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


class Scene:
    """Months of a service's life, and a cleanup that is killed and fired again."""

    def __init__(self, database: TestDatabase, functions: Functions, front: GcsFront, bucket: str) -> None:
        self.database = database
        self.functions = functions
        self.front = front
        self.bucket = bucket
        self.clock = ManualClock(NOON - timedelta(days=100))
        self.service = Service(database, self.clock, self._put)
        database.execute("UPDATE maintenance.identity SET bucket = :bucket", bucket=bucket)
        database.execute("INSERT INTO data_types (id, display_name) VALUES ('string', 'Text')")
        self._live()

    def _live(self) -> None:
        """Jobs that were kept, opted out, appended to, automated and given up; ZIPs, conversions, scratch, orphans."""
        service = self.service
        user, waited_for = service.sign_up(), ""
        for number in range(6):
            run = service.new_job(user, keep=number == 0)
            for _ in range(3):
                service.convert(service.upload(run, "plain"))
            service.unpack(service.upload(run, "zip"), members=2)
            service.import_from_drive(run, 1, finished=True)
            service.submit(run, together=number == 1, done=99)
            service.end(run, "completed" if number % 2 else "failed")
            service.export(run, drive=number == 1)
            service.leave_scratch(user)
            appended = service.append(run)
            service.convert(service.upload(appended, "plain"))
            job = service.jobs()[-1]
            if number in (1, 2):
                service.submit(appended, together=False, done=99)
                service.end(appended, "completed")
            if number == 2:
                self.database.execute("UPDATE job_runs SET persist_data = true WHERE id = :run", run=appended)
            if number == 3:
                waited_for = appended
            if number == 4:
                service.automate(job)
            if number == 5:
                service.delete_job(job)
        service.give_up_idle_drafts()
        self.clock.set(NOON - timedelta(days=40))
        service.give_up_idle_drafts()
        young = service.new_job(user, keep=False)
        service.convert(service.upload(young, "plain"))
        self.clock.set(NOON - timedelta(minutes=1))
        for draft in (young, waited_for):
            service.wizard_step(draft)
        service.upload(young, "zip")

    def state(self) -> State:
        created = self.front.created
        objects = read_objects(self.front.upstream, self.bucket)
        return State(read_tables(self.database), {name: Stored(created[name], objects[name]) for name in objects})

    def serve(self, job: str) -> Served:
        settings = {
            "GCS_BUCKET_NAME": self.bucket,
            "STORAGE_EMULATOR_HOST": self.front.url,
            "ORPHAN_MAX_FLOOR": "1000",
        }
        return self.functions.serve(settings, target=job)

    def hold(self, when: str) -> None:
        """A transaction in which this happens waits for as long as somebody holds lock 4711."""
        self.database.script(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM set_config('lock_timeout', '60s', true); PERFORM pg_advisory_xact_lock_shared(4711); "
            "IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW; END $$"
        )
        self.database.script(f"CREATE TRIGGER hold {when} EXECUTE FUNCTION hold()")

    def fire_and_kill(self, served: Served, job: str, wait: Callable[[], None]) -> None:
        """Fire, wait for the moment, and kill."""

        def firing() -> None:
            try:
                fire(served.url, job=job, slot=NOON)
            except OSError:
                return  # it was killed: that is what this is about

        thread = threading.Thread(target=firing, daemon=True)
        thread.start()
        wait()
        os.kill(served.worker_pid(), signal.SIGKILL)
        thread.join(30)

    def killed(self, served: Served, job: str, when: str) -> None:
        """Kill it where its transaction waits for the lock."""
        self.hold(when)
        with self.database.engine.connect() as holder:
            holder.exec_driver_sql("SELECT pg_advisory_lock(4711)")
            self.fire_and_kill(served, job, lambda: until(lambda: self.database.value(HELD), "it waits"))
            holder.exec_driver_sql("SELECT pg_advisory_unlock(4711)")

    def killed_deleting(self, served: Served, job: str, number: int) -> None:
        """Kill it while its so-manyth deletion, and those of its other threads, are under way at the bucket."""
        asked, killed = threading.Semaphore(0), threading.Event()

        def stop(_: str | None) -> None:
            asked.release()
            if len([each for each in self.front.requests if each.method == "DELETE"]) >= number:
                killed.wait(20)

        self.front.before("DELETE", stop)

        def wait() -> None:
            for _ in range(number):
                assert asked.acquire(timeout=20)

        self.fire_and_kill(served, job, wait)
        killed.set()
        self.front.clear()

    def finish(self, served: Served, job: str, client: "redis.Redis", before: State) -> None:
        """Nothing is lost or forgotten; and the next attempt leaves what the model says."""
        until(lambda: not self.database.value(f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}"), "it is gone")
        assert model.judge_crash(before, self.state(), job, NOON) == []
        lose_everything(client)
        self.functions.clock.set(NOON + timedelta(minutes=3))
        answer = fire(served.url, job=job, slot=NOON)
        assert (answer.status, answer.fields["status"]) == (200, "completed"), answer.fields
        after, now = self.state(), NOON + timedelta(minutes=3)
        if job in model.ERASING:
            assert model.judge_erasure(before, after, job, now) == []
        else:
            assert model.judge_artifacts(before, after, now) == []
        assert model.judge_names(after) == []
        statuses = [row["status"] for row in self.database.rows("SELECT status FROM maintenance.runs ORDER BY id")]
        assert statuses == ["lost", "completed"]

    def _put(self, name: str) -> None:
        buckets.put(self.front.upstream, self.bucket, name)
        self.front.created[name] = self.clock.now()


@pytest.fixture
def scene(database: TestDatabase, functions: Functions, gcs_front: GcsFront, bucket: str) -> Scene:
    return Scene(database, functions, gcs_front, bucket)


def test_killed_in_the_middle_of_a_batch(scene: Scene, redis_client: "redis.Redis") -> None:
    """Files have moved and the outbox is written, in a transaction that never commits: nothing has happened."""
    before, served = scene.state(), scene.serve("opt_out_cleanup")
    scene.killed(served, "opt_out_cleanup", "BEFORE DELETE ON job_runs FOR EACH ROW")
    until(lambda: differences(before, scene.state()) == [], "nothing has happened")
    assert scene.state().open_rows() == []
    scene.finish(served, "opt_out_cleanup", redis_client, before)


def test_killed_between_rows_and_objects(scene: Scene, redis_client: "redis.Redis") -> None:
    before, served = scene.state(), scene.serve("abandoned_cleanup")
    when = "BEFORE UPDATE ON maintenance.object_deletions FOR EACH ROW WHEN (NEW.claimed_until IS NOT NULL)"
    scene.killed(served, "abandoned_cleanup", when)
    after = scene.state()
    assert len(after.tables["job_runs"]) < len(before.tables["job_runs"])
    assert after.objects == before.objects
    assert after.open_rows()
    scene.finish(served, "abandoned_cleanup", redis_client, before)


@pytest.mark.parametrize("job", ["opt_out_cleanup", "artifact_cleanup"])
def test_killed_while_objects_go(scene: Scene, redis_client: "redis.Redis", job: str) -> None:
    before, served = scene.state(), scene.serve(job)
    if job == "opt_out_cleanup":
        asked = model.due(before, job, NOON)
        assert sorted(asked.only_content.values()) == [False] * 6 + [True], "runs of each kind go"
    scene.killed_deleting(served, job, 5)
    assert scene.state().open_rows()
    scene.finish(served, job, redis_client, before)
    if job == "opt_out_cleanup":
        first, second = scene.database.rows("SELECT counts FROM maintenance.runs ORDER BY id")
        assert (first["counts"]["files_rehomed"] > 0, second["counts"]["waiting_on_draft"]) == (True, 1)


def test_killed_when_all_objects_are_gone_and_nothing_says_so(scene: Scene, redis_client: "redis.Redis") -> None:
    before, served = scene.state(), scene.serve("artifact_cleanup")
    when = "BEFORE UPDATE ON maintenance.object_deletions FOR EACH ROW WHEN (NEW.done_at IS NOT NULL)"
    scene.killed(served, "artifact_cleanup", when)
    assert len(scene.state().objects) < len(before.objects)
    scene.finish(served, "artifact_cleanup", redis_client, before)
