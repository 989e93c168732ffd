"""What is deployed, for a month: the jobs of the real plan fire all six functions, on a clock that is moved.

Each function runs as deployed: with the environment that the plan gives it, under a login that has only what `ops
migrate --grants` gave. Beside them the service works, deliveries come twice, late or not at all, Stripe refuses its key
for a morning, the bucket is out for a night, and Redis loses everything.
"""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis

from devstack.gcs_front import GcsFront
from devstack.scheduler import Scheduler
from devstack.scheduler_jobs import jobs_of_plan
from devstack.scheduler_ledger import Firing, Outcome
from devstack.serving import Served
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from devstack.terraform_plan import MINIMAL, installation_plan, why_absent
from functions.registry import JOBS
from ops.grants import grant
from shared.health import patience
from tests.conftest import MakeEnvironment
from tests.stripe.model import Counted, Ledger
from tests.stripe.service import Service
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.logins import made_logins, url_as
from tests.support.month import DAYS, NOON_OF, MonthOfContent, add_old_counters
from tests.support.redis import lose_everything
from tests.support.serving import Functions
from tests.support.stripe import TAKEOVER

HOURS_BETWEEN_USES = 4
CHANCES = {"refused": 0.05, "503": 0.05, "429": 0.03, "cut": 0.07, "slow": 0.03, "twice": 0.08, "twin": 0.05}
HEALTH = "maintenance-health"
# A night in which the health check is asked and, for two hours, the bucket does not answer.
BAD_NIGHT = NOON_OF[8] + timedelta(hours=12)


class Month:
    """The servers, the deployed functions and the service, with what each is to end with."""

    def __init__(
        self, database: TestDatabase, world: CleanupWorld, functions: Functions, server: StripeServer, account: Account
    ) -> None:
        self.database = database
        self.clock = functions.clock
        self.content = MonthOfContent(world)
        self.world = world
        self.account = account
        self.server = server
        self.ledger = Ledger()
        self.service = Service(database, account, self.clock, self.ledger)
        self.service.sends_identifiers = True
        self.served: dict[str, Served] = {}
        self.chance = random.Random(2026)  # noqa: S311  no secret

    def deploy(self, functions: Functions, logins: dict[str, str]) -> Scheduler:
        """Serve each function as the plan has it; give the scheduler that fires them."""
        plan = installation_plan(
            {
                **MINIMAL,
                "mode": "enforce",
                "existing_bucket": self.world.bucket,
                "stripe_meter_id": self.account.meter.id,
                "settings": {"STRIPE_TAKEOVER_AT": TAKEOVER, "STRIPE_RATE": "1000", "STRIPE_READ_RATE": "1000"},
            }
        )
        for job in JOBS:
            self.served[job.replace("_", "-")] = functions.serve(
                {**_environment(plan, job), **self._here(job, logins)}, target=job
            )
        targets = {name: served.url for name, served in self.served.items()}
        return Scheduler(jobs_of_plan(plan), targets, self.clock)

    def _here(self, job: str, logins: dict[str, str]) -> dict[str, str]:
        """What takes the place of the cloud's addresses."""
        settings = {"DATABASE_URL": url_as(self.database.url, logins[job])}
        if "stripe" in JOBS[job].needs:
            settings |= {"STRIPE_SECRET_KEY": self.account.secret_key, "STRIPE_API_BASE": self.server.url}
        if "gcs" in JOBS[job].needs:
            settings["STORAGE_EMULATOR_HOST"] = self.world.front.url
        return settings

    def begin(self) -> None:
        """Who is there, and with what, before the first day."""
        for _ in range(6):
            self.service.sign_up()
        for user in self.service.users[:3]:
            self.service.upgrade(user)
        self.content.begin()

    def at_noon(self, number: int) -> None:
        """What happens once a day."""
        self.content.day(number)
        if number == 10:
            self.service.upgrade(self.service.users[3])
        if number == 15:
            self.service.downgrade(self.service.users[0])

    def use(self) -> None:
        """Everybody uses pages. Of one event in three of a paying user the service's own send comes to nothing."""
        self.service.renew_paid()
        self.service.look_up()
        for user in self.service.users:
            fate = self.chance.choice(["marked", "marked", "marked", "marked", "unmarked", "lost", "lost"])
            self.service.use(user, self.chance.choice([0, 1, 1, 2, 5]), fate)


def _environment(plan: dict[str, Any], job: str) -> dict[str, str]:
    """What the plan sets for a function, without the way to Cloud SQL."""
    (function,) = [
        resource["values"]["service_config"][0]
        for resource in plan["planned_values"]["root_module"]["resources"]
        if resource["type"] == "google_cloudfunctions2_function" and resource["index"] == job
    ]
    environment: dict[str, str] = function["environment_variables"]
    cloud = {"CLOUD_SQL_INSTANCE", "DB_NAME", "DB_USER"}
    assert cloud < set(environment)
    return {name: value for name, value in environment.items() if name not in cloud}


@pytest.fixture
def month(
    database: TestDatabase,
    gcs_front: GcsFront,
    bucket: str,
    make_environment: MakeEnvironment,
    clock: ManualClock,
    functions: Functions,
) -> Iterator[Month]:
    account = Account(functions.clock)
    with StripeServer(account) as server:
        world = CleanupWorld(database, gcs_front, bucket, make_environment, clock)
        yield Month(database, world, functions, server, account)


@pytest.mark.skipif(why_absent() is not None, reason=why_absent() or "")
@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_month_of_all_six_jobs_ends_with_the_data_right_and_every_slot_accounted_for(
    month: Month, database: TestDatabase, functions: Functions, redis_client: "redis.Redis"
) -> None:
    with made_logins(database) as logins:
        grant(database.target, logins, JOBS)
        scheduler = month.deploy(functions, logins)
        month.begin()
        kept_counters = add_old_counters(database, month.service.users[4].name)
        scheduler.faults.random(5, {**CHANCES, "late": 0.1})
        scheduler.pause(HEALTH)
        for number in range(DAYS):
            month.at_noon(number)
            for hours in range(0, 24, HOURS_BETWEEN_USES):
                moment = NOON_OF[number] + timedelta(hours=hours)
                _troubles(month, scheduler, redis_client, moment)
                month.use()
                scheduler.run_until(moment + timedelta(hours=HOURS_BETWEEN_USES))

        scheduler.settle()
        _slots_are_accounted_for(month, scheduler)
        _accounts_and_counters_are_right(month, kept_counters)
        _stripe_has_every_page_once(month)
        _content_is_right(month)
        _the_health_check_told_of_the_night(scheduler)


def _troubles(month: Month, scheduler: Scheduler, redis_client: "redis.Redis", moment: datetime) -> None:
    """What goes wrong from a moment on, or is well again."""
    if moment == NOON_OF[4]:
        lose_everything(redis_client)
    if moment == BAD_NIGHT:
        scheduler.resume(HEALTH)
        scheduler.run_until(moment + timedelta(hours=2))
        month.world.front.fail(503)
    if moment == BAD_NIGHT + timedelta(hours=4):
        month.world.front.clear()
    if moment == BAD_NIGHT + timedelta(hours=12):
        scheduler.pause(HEALTH)
    if moment == NOON_OF[12]:
        month.account.key_refused = 401
    if moment == NOON_OF[12] + timedelta(hours=8):
        month.account.key_refused = None
    if moment.hour == 16 and moment.day % 4 == 0:
        for kind in ("429", "500_after", "cut_before", "cut_after"):
            month.account.faults.add(kind)


def _slots_are_accounted_for(month: Month, scheduler: Scheduler) -> None:
    jobs = [job for job in scheduler.jobs if job.id != HEALTH]
    assert scheduler.ledger.gaps(jobs, NOON, month.clock.now()) == []
    for job in JOBS.values():
        completed = {
            row["slot"]: row["number"]
            for row in month.database.rows(
                "SELECT slot, count(*) AS number FROM maintenance.runs "
                "WHERE job = :job AND status = 'completed' GROUP BY slot",
                job=job.name,
            )
        }
        firings = scheduler.ledger.slots(job.name.replace("_", "-"))
        for slot, firing in firings.items():
            assert completed.pop(slot, 0) == (1 if _answers(firing, "completed", "replayed") else 0), firing
            if firing.outcome is Outcome.SUCCEEDED:
                assert _answers(firing, "completed", "replayed"), firing
        assert completed == {}
        played = {attempt.fault for firing in firings.values() for attempt in firing.attempts}
        assert played - {None} or len(firings) < 10, f"{job.name} met no fault"
    told = {
        delivery.fields["status"] for firing in scheduler.ledger.firings for delivery in firing.deliveries
        if firing.job != HEALTH and delivery.status is not None
    }  # fmt: skip
    assert told >= {"completed", "replayed", "misconfigured"}
    assert "failed" not in told
    assert month.database.value("SELECT count(*) FROM maintenance.runs WHERE status IN ('running', 'failed')") == 0


def _answers(firing: Firing, *statuses: str) -> bool:
    return any(delivery.fields.get("status") in statuses for delivery in firing.deliveries)


def _accounts_and_counters_are_right(month: Month, kept_counters: set[str]) -> None:
    june = (NOON.replace(month=6, day=1, hour=0), NOON.replace(month=6, day=30, hour=23, minute=59, second=59))
    for user in month.service.users:
        if user.subscription is None:
            assert month.database.period(user.name) == june
        else:
            assert month.database.period(user.name) == (user.start, user.end)
        counted = month.database.counters(user.name)
        used = sum(event.pages for event in month.ledger.events.values() if event.user == user.name)
        assert sum(pages for start, pages in counted.items() if start >= NOON.replace(day=1, hour=0)) == used
    old = month.database.counters(month.service.users[4].name)
    assert {f"{start:%Y-%m}" for start in old if start < NOON.replace(day=1, hour=0)} == kept_counters


def _stripe_has_every_page_once(month: Month) -> None:
    counted = [
        Counted(each.identifier, each.customer, each.value, each.timestamp)
        for each in month.account.events
        if each.refused_code is None
    ]
    # What was used in the last hours has not had its run yet.
    since = month.clock.now() - timedelta(hours=5)
    late = {key for key, event in month.ledger.events.items() if event.at > since}
    rows = {
        row["id"]: (row["stripe_reported"], row["stripe_record_id"])
        for row in month.database.rows(
            "SELECT CAST(id AS text) AS id, stripe_reported, stripe_record_id FROM usage_events"
        )
    }
    states = {
        row["id"]: row["state"]
        for row in month.database.rows("SELECT CAST(usage_event_id AS text) AS id, state FROM maintenance.meter_sends")
    }
    assert month.ledger.never_too_much(counted) == []
    for key in late:
        del month.ledger.events[key]
    verdict = month.ledger.in_the_end(
        [each for each in counted if each.identifier not in late],
        {key: row for key, row in rows.items() if key not in late},
        states,
    )
    assert (verdict.wrong, verdict.shown, verdict.conceded) == ([], {}, 0)
    assert sum(1 for event in month.ledger.events.values() if event.is_billable) > 400
    assert month.database.value("SELECT count(*) FROM maintenance.drift WHERE resolved_at IS NULL") == 0


def _content_is_right(month: Month) -> None:
    expected, there = month.content.expected, month.world.objects()
    assert there & expected.gone_objects == set()
    assert there == expected.objects
    runs = {row["id"] for row in month.database.rows("SELECT CAST(id AS text) AS id FROM job_runs")}
    assert runs == expected.runs
    assert {file: month.world.owner(file) for file in expected.owners} == expected.owners
    erased = month.world.erasures()
    assert {row["erased"] for row in erased} == expected.gone_runs
    assert len(erased) == len(expected.gone_runs)
    assert all(row["completed_at"] is not None for row in erased)
    assert month.world.count("maintenance.object_deletions", "done_at IS NULL") == 0


def _the_health_check_told_of_the_night(scheduler: Scheduler) -> None:
    """The bucket was out when artifact_cleanup was due: when its attempts are over it is overdue, and no other is."""
    firings = [firing for firing in scheduler.ledger.of(HEALTH) if firing.deliveries]
    late: dict[str, list[datetime]] = {}
    for firing in firings:
        fields = firing.deliveries[0].fields
        assert len(fields["jobs"]) == len(JOBS)
        for line in fields["jobs"]:
            assert line["waiting"] is not None, line["job"]
            if line["overdue"]:
                late.setdefault(line["job"], []).append(firing.deliveries[0].at)
    job = JOBS["artifact_cleanup"]
    told = [firing.deliveries[0].at for firing in firings]
    assert late == {job.name: [at for at in told if at > BAD_NIGHT + timedelta(hours=3) + patience(job)]}
    assert len(late[job.name]) > 50
