"""What the installation deploys is what fires: the jobs of the real plan, over HTTP, at a real function."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from devstack.scheduler import Scheduler
from devstack.scheduler_jobs import jobs_of_plan
from devstack.scheduler_ledger import Outcome
from devstack.terraform_plan import MINIMAL, NoPlanError, installation_plan, why_absent
from functions.registry import JOBS
from tests.support.database import TestDatabase
from tests.support.serving import Functions

needs_terraform = pytest.mark.skipif(why_absent() is not None, reason=why_absent() or "")
EVENING = datetime(2026, 5, 31, 23, 50, tzinfo=UTC)
SLOT = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


# One test, because the plan takes half a minute to make, and more on a busy machine.
@pytest.mark.slow
@needs_terraform
@pytest.mark.timeout(300)
def test_the_jobs_of_the_installation_fire_the_function_that_they_name(
    functions: Functions, database: TestDatabase
) -> None:
    jobs = {job.id: job for job in jobs_of_plan(installation_plan())}
    declared = {name.replace("_", "-"): job for name, job in JOBS.items()}
    assert set(jobs) == {*declared, "maintenance-health"}
    for slug, job in declared.items():
        found = jobs[slug]
        assert (found.function, found.method, found.schedule) == (slug, "POST", job.schedule)
        assert found.retries.count == job.retries
        assert found.deadline == timedelta(seconds=job.timeout_seconds + 90)
    assert (jobs["maintenance-health"].function, jobs["maintenance-health"].method) == ("period-reset", "GET")

    database.account("ann", "free", MAY, JUNE - SECOND)
    functions.clock.set(EVENING)
    fired = [jobs["period-reset"], jobs["maintenance-health"]]
    scheduler = Scheduler(fired, {"period-reset": functions.serve().url}, functions.clock)
    scheduler.faults.add("cut", job="period-reset", attempt=1)
    scheduler.faults.add("twin", job="period-reset", attempt=2)
    end = SLOT + timedelta(minutes=10)
    scheduler.run_until(end)

    assert scheduler.ledger.gaps(fired, EVENING, end) == []
    (firing,) = scheduler.ledger.of("period-reset")
    assert (firing.slot, firing.outcome) == (SLOT, Outcome.SUCCEEDED)
    assert [attempt.at for attempt in firing.attempts] == [SLOT, SLOT + 30 * SECOND]
    assert [delivery.fields["status"] for delivery in firing.deliveries] == ["completed", "replayed", "replayed"]
    assert [delivery.fields["updated_count"] for delivery in firing.deliveries] == [1, 1, 1]
    assert database.period("ann") == (JUNE, datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC))
    health = scheduler.ledger.of("maintenance-health")
    assert [delivery.status for each in health for delivery in each.deliveries] == [200] * 10
    assert database.value("SELECT count(*) FROM maintenance.runs") == 1


@needs_terraform
def test_a_plan_that_terraform_refuses_is_told_in_its_words() -> None:
    with pytest.raises(NoPlanError, match="region must be a region"):
        installation_plan({**MINIMAL, "region": "europe"})


def test_without_terraform_there_is_no_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPlanError, match="terraform is not installed"):
        installation_plan()
