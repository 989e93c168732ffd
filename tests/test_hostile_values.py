"""Whatever stands in the service's rows: the jobs do the same work, and log it in whole lines."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from devstack.gcs_front import GcsFront
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from functions.registry import JOBS
from tests.conftest import MakeEnvironment
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.stripe import StripeWorld

HOSTILE = {
    "a line break": "x\r\ny\n",
    "SQL": "'; DROP TABLE maintenance.runs; --",
    "parameters": "%s %(id)s :id ::int $1 {id} \\",
    "a path": "../../../etc/passwd",
    "a log line": '"}\n{"severity": "EMERGENCY", "message": "all is lost"}',
    "a terminal": "\x1b[2J\x1b]0;x\x07\u202egnp.exe\u2028",
    "a template": "{{7*7}}${jndi:ldap://x}<script>alert(1)</script>",
    "beyond the plane": "\U0010ffff💣\ufeff",
    "blanks": " \t ",
    "nothing": "",
}
# What people write and what other programs say: it decides nothing.
CONTENT = {
    "users": ("display_name", "photo_url"),
    "extraction_jobs": ("name",),
    "job_runs": ("description",),
    "job_fields": ("field_name", "ai_prompt"),
    "source_files": ("original_path", "external_id", "source_type"),
    "extraction_tasks": ("processing_mode", "status", "error_message"),
    "job_exports": ("status", "error_message"),
    "automations": ("name", "trigger_type", "processing_mode", "dest_type"),
    "automation_runs": ("error_message",),
    "usage_events": ("source", "notes"),
    "subscription_plans": ("display_name", "stripe_product_id"),
}
# What decides: something that nobody knows is left alone.
DECIDING = {
    "billing_accounts": ("stripe_customer_id", "stripe_subscription_id", "status"),
    "usage_events": ("stripe_record_id",),
    "job_runs": ("config_step", "status"),
    "source_files": ("original_filename", "gcs_object_name", "file_type", "status"),
    "automation_runs": ("status",),
    "job_exports": ("external_id",),
}
WIDTHS = {"config_step": 20, "source_type": 20, "status": 50, "file_type": 100, "name": 255}
BIG = "x\n" * 5_000_000


class World:
    """Work for each of the six jobs, of users with these ids."""

    def __init__(self, cleanup: CleanupWorld, stripe: StripeWorld, ann: str = "ann", pat: str = "pat") -> None:
        self.database = cleanup.database
        self._environment = cleanup.environment(stripe.settings())
        stripe.database.account(ann, "free")
        stripe.user(pat, customer="cus_pat")
        stripe.usage(pat, 3)
        draft = cleanup.draft(cleanup.job(ann))
        cleanup.task(draft, cleanup.file(draft))
        gone = cleanup.submitted(cleanup.job(pat), persist_data=False)
        cleanup.usage(cleanup.task(gone, cleanup.file(gone)), pat)
        cleanup.export(gone, "sheet")
        kept = cleanup.submitted(cleanup.job(pat))
        cleanup.task(kept, cleanup.file(kept))
        cleanup.file(kept, file_type="application/zip", status="unpacked")
        filled = cleanup.draft(cleanup.job(pat), age=1)
        cleanup.automation_run(cleanup.automation(cleanup.job(pat), pat), filled, "completed")
        cleanup.put("jobs/nobody/orphan.pdf")
        self.database.use(pat, NOON - timedelta(days=500), 1)

    def set(self, table: str, column: str, value: str) -> None:
        """Write a value into all rows of a column, as far as it is wide; where it must be unique, with a number."""
        value = value[: WIDTHS.get(column, len(value))]
        if column == "gcs_object_name":
            numbered = "left(:v, 500) || row_number() OVER ()"
            self.database.execute(
                f"UPDATE {table} SET {column} = n.v FROM (SELECT ctid AS place, {numbered} AS v FROM {table}) AS n "
                f"WHERE n.place = {table}.ctid",
                v=value,
            )
        else:
            self.database.execute(f"UPDATE {table} SET {column} = :v", v=value)

    def run_all(self) -> dict[str, tuple[str, Mapping[str, int]]]:
        """Run each job; give its status and what it counted. Each line of the log is a whole one, and ours."""
        done: dict[str, tuple[str, Mapping[str, int]]] = {}
        for job in JOBS:
            outcome = self._environment.run(job)
            counted = {name: outcome.counts.get(name, 0) for name in JOBS[job].counts}
            done[job] = (outcome.status.value, counted)
        lines = self._environment.lines()
        assert all(line["severity"] in ("INFO", "WARNING", "ERROR") for line in lines)
        assert not [line for line in lines if line["event"] == "error"], lines
        assert "Traceback" not in self._environment.log
        return done


@pytest.fixture
def parts(
    database: TestDatabase, gcs_front: GcsFront, bucket: str, make_environment: MakeEnvironment, clock: ManualClock
) -> Iterator[tuple[CleanupWorld, StripeWorld]]:
    account = Account(clock)
    with StripeServer(account) as server:
        yield (
            CleanupWorld(database, gcs_front, bucket, make_environment, clock),
            StripeWorld(database, server, account, make_environment, clock),
        )


DONE: dict[str, tuple[str, dict[str, Any]]] = {
    "period_reset": ("completed", {"updated_count": 1}),
    "stripe_reconcile": ("completed", {"success_count": 1, "success_pages": 3}),
    "usage_counter_cleanup": ("completed", {"deleted_count": 1}),
    "abandoned_cleanup": ("completed", {"jobs_cleaned": 1}),
    "artifact_cleanup": ("completed", {"zips_cleaned": 1, "orphans_cleaned": 1}),
    "opt_out_cleanup": ("completed", {"jobs_cleaned": 1}),
}


def as_ever(done: Mapping[str, tuple[str, Mapping[str, int]]]) -> None:
    """Hold what was done against what there is to do."""
    for job, (status, counts) in DONE.items():
        said, counted = done[job]
        assert (job, said, {name: counted[name] for name in counts}) == (job, status, counts)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_people_write_changes_nothing(parts: tuple[CleanupWorld, StripeWorld], kind: str) -> None:
    world = World(*parts)
    for table, columns in CONTENT.items():
        for column in columns:
            world.set(table, column, HOSTILE[kind])
    as_ever(world.run_all())


def test_a_note_of_ten_megabytes_changes_nothing(parts: tuple[CleanupWorld, StripeWorld]) -> None:
    world = World(*parts)
    world.set("usage_events", "notes", BIG)
    world.set("job_runs", "description", BIG)
    world.set("source_files", "original_path", BIG)
    as_ever(world.run_all())


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_user_may_be_called_anything(parts: tuple[CleanupWorld, StripeWorld], kind: str) -> None:
    as_ever(World(*parts, ann=f"a{HOSTILE[kind]}", pat=f"p{HOSTILE[kind]}").run_all())


@pytest.mark.parametrize("count", [2, pytest.param(len(HOSTILE), marks=pytest.mark.slow)])
@pytest.mark.parametrize(("table", "column"), [(table, column) for table in DECIDING for column in DECIDING[table]])
def test_what_nobody_knows_is_left_alone_and_takes_no_other_job_along(
    parts: tuple[CleanupWorld, StripeWorld], table: str, column: str, count: int
) -> None:
    world = World(*parts)
    for value in list(HOSTILE.values())[:count]:
        world.set(table, column, value)
        done = world.run_all()
        # Stripe refuses a customer that it does not know; everything else is as ever, or left.
        assert {job: status for job, (status, _) in done.items() if status not in ("completed", "incomplete")} == {}
    assert world.database.value("SELECT count(*) FROM maintenance.runs WHERE status = 'failed'") == 0
