"""The made-up history is a believable one: every job's own figures, every status, and the same each time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from devstack.history import seed_month, seed_runs
from devstack.history_runs import ON_REQUEST
from functions.registry import JOBS
from shared.job import FAILED_COUNT
from tests.support.database import TestDatabase

NOW = datetime(2026, 7, 11, 9, 20, tzinfo=UTC)
_STATUSES = {
    *("completed", "incomplete", "failed", "refused", "unavailable", "misconfigured"),
    *("fenced", "lost", "running", "paused"),
}
# Figures that every run may have beside the declared ones.
_OWN = {FAILED_COUNT, "limit", "report_mode"}


@pytest.mark.parametrize(
    "now", [NOW, datetime(2026, 3, 1, 0, 5, tzinfo=UTC), datetime(2026, 11, 2, 17, 16, tzinfo=UTC)]
)
def test_a_month_has_every_job_and_every_status(database: TestDatabase, now: datetime) -> None:
    seed_month(database.url, now)
    runs = database.rows("SELECT * FROM maintenance.runs ORDER BY id")
    assert {run["status"] for run in runs} == _STATUSES
    assert {run["job"] for run in runs} == {*JOBS, ON_REQUEST.name}
    for run in runs:
        job = {**JOBS, ON_REQUEST.name: ON_REQUEST}[run["job"]]
        assert run["counts"].keys() <= {*job.counts, *job.gauges, *_OWN}
        assert run["started_at"] < now
        assert (run["finished_at"] is None) == (run["status"] == "running")
        if run["slot"] is not None:
            assert run["slot"] == job.last_firing(run["slot"] + timedelta(seconds=1))
            assert run["slot"] < run["started_at"]
    for name in JOBS:
        fired = [run for run in runs if run["job"] == name and run["trigger"] == "schedule"]
        slots = {run["slot"] for run in fired}
        firing = JOBS[name].last_firing(now - timedelta(minutes=30))
        assert firing in slots, "the last firing has run"
    assert [run["started_at"] for run in runs] == sorted(run["started_at"] for run in runs)
    assert database.rows("SELECT job, run_id FROM maintenance.fences ORDER BY job") == database.rows(
        "SELECT job, max(id) AS run_id FROM maintenance.runs WHERE NOT dry_run GROUP BY job ORDER BY job"
    )


def test_a_month_has_something_in_every_table_and_state(database: TestDatabase) -> None:
    seed_month(database.url, NOW)
    for table, column, states in (
        (
            "meter_sends",
            "state",
            {"pending", "sending", "in_doubt", "accepted", "rejected", "expired", "blocked", "waived"},
        ),
        ("object_deletions", "state", {"pending", "deleted", "absent", "held", "superseded", "failed"}),
        ("holds", "scope", {"user", "job", "run"}),
        ("erasures", "copies", {None, "none", "soft_delete"}),
    ):
        found = database.rows(f"SELECT DISTINCT {column} AS it FROM maintenance.{table}")
        assert {row["it"] for row in found} == states, table
    for sql in (
        "SELECT FROM maintenance.drift WHERE resolved_at IS NULL",
        "SELECT FROM maintenance.drift WHERE resolved_at IS NOT NULL",
        "SELECT FROM maintenance.controls",
        "SELECT FROM maintenance.operator_actions",
        "SELECT FROM maintenance.erasures WHERE completed_at IS NULL",
    ):
        assert database.value(f"SELECT EXISTS ({sql})"), sql
    # What is done is known by its hash alone, and what people did lies behind.
    assert not database.value(
        "SELECT EXISTS (SELECT FROM maintenance.object_deletions "
        "WHERE done_at IS NOT NULL AND object_name !~ '^[0-9a-f]{64}$')"
    )
    assert database.value("SELECT max(at) FROM maintenance.operator_actions") < NOW


def test_the_figures_agree_with_what_is_there(database: TestDatabase) -> None:
    seed_month(database.url, NOW)
    latest = database.value(
        "SELECT counts FROM maintenance.runs WHERE job = 'stripe_reconcile' AND status = 'completed' AND NOT dry_run "
        "AND slot IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    assert latest["dead_letter_count"] == database.value(
        "SELECT count(*) FROM maintenance.meter_sends WHERE state IN ('rejected', 'expired')"
    )
    assert latest["blocked_count"] == database.value(
        "SELECT count(*) FROM maintenance.meter_sends WHERE state = 'blocked'"
    )
    assert latest["unresolved_drift_count"] == database.value(
        "SELECT count(*) FROM maintenance.drift WHERE resolved_at IS NULL"
    )
    erased = database.rows("SELECT run_id, count(*) AS n FROM maintenance.erasures GROUP BY run_id ORDER BY run_id")
    assert erased
    assert erased == database.rows(
        "SELECT id AS run_id, CAST(counts ->> 'jobs_cleaned' AS bigint) AS n FROM maintenance.runs "
        "WHERE job IN ('abandoned_cleanup', 'opt_out_cleanup', 'erasure_on_request') AND NOT dry_run "
        "AND counts ->> 'jobs_cleaned' <> '0' "
        "ORDER BY id"
    )


def test_plots_have_life(database: TestDatabase) -> None:
    seed_month(database.url, NOW)
    due = database.rows(
        "SELECT date_part('day', started_at) AS day, max(CAST(counts ->> 'updated_count' AS integer)) AS n "
        "FROM maintenance.runs WHERE job = 'period_reset' AND status <> 'paused' GROUP BY 1 ORDER BY 2 DESC"
    )
    assert due[0]["day"] == 1
    assert due[0]["n"] > 50 * due[1]["n"]
    waiting = [
        row["n"]
        for row in database.rows(
            "SELECT CAST(counts ->> 'waiting_count' AS integer) AS n FROM maintenance.runs "
            "WHERE job = 'stripe_reconcile' AND counts ? 'waiting_count' ORDER BY id"
        )
    ]
    assert max(waiting) > 300
    assert waiting[0] < 20
    assert waiting[-1] < 20


@pytest.mark.parametrize("seed", [seed_month, lambda url, now: seed_runs(url, now, 500)])
def test_it_is_the_same_each_time(
    make_database: Callable[[str | None], TestDatabase], database: TestDatabase, seed: Callable[[str, datetime], None]
) -> None:
    name = database.value("SELECT current_database()")
    database.engine.dispose()
    other = make_database(name)
    tables = ("runs", "meter_sends", "drift", "holds", "operator_actions", "controls", "object_deletions", "erasures")
    seen = []
    for each in (database, other):
        seed(each.url, NOW)
        seen.append(
            [
                each.value(
                    f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM maintenance.{table} AS t"
                )
                for table in tables
            ]
        )
    assert seen[0] == seen[1]


def test_a_long_ledger_lies_before_the_month(database: TestDatabase) -> None:
    seed_month(database.url, NOW)
    first = database.value("SELECT min(started_at) FROM maintenance.runs")
    before = database.value("SELECT count(*) FROM maintenance.runs")
    seed_runs(database.url, NOW, 2_000)
    assert database.value("SELECT count(*) FROM maintenance.runs") == before + 2_000
    older = database.rows("SELECT job, status, counts FROM maintenance.runs WHERE finished_at < :first", first=first)
    assert len(older) == 2_000
    assert {row["job"] for row in older} == set(JOBS)
    assert {row["status"] for row in older} == {"completed", "incomplete", "failed", "unavailable", "lost"}
    for row in older:
        assert row["counts"].keys() <= {*JOBS[row["job"]].counts, *JOBS[row["job"]].gauges, FAILED_COUNT}


def test_too_short_a_month_and_a_database_of_nobody_are_refused(
    database: TestDatabase, make_database: Callable[[str | None], TestDatabase], template: str
) -> None:
    with pytest.raises(ValueError, match="14 days at least, not 3"):
        seed_month(database.url, NOW, days=3)
    with pytest.raises(ValueError, match="bound to no environment"):
        seed_month(make_database(template).url, NOW)
