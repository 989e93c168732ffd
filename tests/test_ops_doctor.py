"""`python -m ops doctor` and `adopt`: what is wrong and what to do, and whose database this is."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from devstack.gcs_front import GcsFront
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from functions.registry import JOBS
from ops.__main__ import cli
from ops.grants import grant
from ops.host_indexes import HOST_INDEXES
from ops.shell import NO, WRONG
from tests.conftest import MakeDatabase
from tests.support.clock import ManualClock
from tests.support.cloud_scheduler import changed, cloud_of, declared
from tests.support.database import TestDatabase
from tests.support.logins import made_logins, url_as


class Whole:
    """An environment in which everything is well."""

    def __init__(self, database: TestDatabase, environ: Mapping[str, str], account: Account, stripe: str) -> None:
        self.database = database
        self.account = account
        self.environ = {
            **environ,
            "STRIPE_SECRET_KEY": account.secret_key,
            "STRIPE_METER_PAGES": account.meter.id,
            "STRIPE_API_BASE": stripe,
            "STRIPE_INVOICE_GRACE_MINUTES": "180",
        }

    def doctor(self, **changes: str) -> tuple[int, dict[str, tuple[str, str]]]:
        """The exit code, and for each thing the verdict and the sentence."""
        code, told = run("doctor", "--json", environ={**self.environ, **changes})
        return code, {row["what"]: (row["verdict"], row["said"]) for row in told}


def run(*arguments: str, environ: Mapping[str, str]) -> tuple[int, Any]:
    """A command in this process: its exit code, and what it printed as JSON."""
    done = CliRunner().invoke(cli, arguments, env=dict(environ), catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout) if done.stdout else done.stderr


@pytest.fixture
def whole(
    database: TestDatabase, environ: dict[str, str], gcs_front: GcsFront, bucket: str, clock: ManualClock
) -> Iterator[Whole]:
    database.execute("UPDATE maintenance.identity SET bucket = :bucket", bucket=bucket)
    account = Account(clock)
    with StripeServer(account) as server:
        there = {**environ, "GCS_BUCKET_NAME": bucket, "STORAGE_EMULATOR_HOST": gcs_front.url}
        yield Whole(database, there, account, server.url)


def test_where_all_is_well_each_thing_is_named(whole: Whole) -> None:
    code, told = whole.doctor()
    well = ("settings", "database", "clock", "schema and identity", "indexes", "rights", "redis", "stripe", "bucket")
    assert {what: verdict for what, (verdict, _) in told.items()} == {
        **dict.fromkeys(well, "well"),
        "schedules": "not used",
        "invoices": "well",
    }
    assert code == 0
    assert whole.account.meter.id in told["stripe"][1]
    assert whole.account.secret_key not in str(told)


def test_what_is_not_used_is_not_wrong(database: TestDatabase, environ: dict[str, str]) -> None:
    assert database.target
    without = {name: value for name, value in environ.items() if name != "REDIS_URL"}
    code, told = run("doctor", "--json", environ={**without, "K_SERVICE": "x", "REDIS_URL": ""})
    verdicts = {row["what"]: row["verdict"] for row in told}
    assert (code, verdicts["redis"], verdicts["stripe"], verdicts["bucket"]) == (0, *["not used"] * 3)


def test_each_thing_that_is_wrong_is_told_beside_the_others(whole: Whole, gcs_front: GcsFront) -> None:
    whole.database.script(f"DROP INDEX {HOST_INDEXES[0].name}")
    whole.account.key_refused = 403
    gcs_front.fail(403, method="DELETE", reason="forbidden", message="no storage.objects.delete access")
    code, told = whole.doctor(REDIS_URL="redis://127.0.0.1:1/0")
    wrong = {what: said for what, (verdict, said) in told.items() if verdict == "wrong"}
    assert (code, set(wrong)) == (NO, {"indexes", "stripe", "bucket"})
    assert (told["redis"][0], "go on under PostgreSQL's locks" in told["redis"][1]) == ("risk", True)
    assert HOST_INDEXES[0].name in wrong["indexes"]
    assert "python -m ops migrate" in wrong["indexes"]
    assert "STRIPE_SECRET_KEY" in wrong["stripe"]
    assert "storage.objects.delete" in wrong["bucket"]


def test_what_is_deployed_in_cloud_scheduler_is_looked_at_where_that_is_named(whole: Whole) -> None:
    with cloud_of(declared()) as cloud:
        code, told = whole.doctor(**cloud.environ)
        assert (code, told["schedules"][0]) == (0, "well")
    with cloud_of(changed("artifact-cleanup", paused=True)) as cloud:
        code, told = whole.doctor(**cloud.environ)
    assert (code, told["schedules"][0]) == (NO, "wrong")
    assert "artifact-cleanup: the state is PAUSED" in told["schedules"][1]
    # The stand-in is gone now.
    code, told = whole.doctor(**cloud.environ)
    assert (code, told["schedules"][0], "cannot be reached" in told["schedules"][1]) == (NO, "wrong", True)


def test_an_invoice_that_closes_before_the_next_firing_is_a_risk_and_no_fault(whole: Whole) -> None:
    code, told = whole.doctor(STRIPE_INVOICE_GRACE_MINUTES="")
    assert (code, told["invoices"][0]) == (0, "risk")
    assert "up to 135 minutes after it came up" in told["invoices"][1]
    # What counts is what is deployed.
    with cloud_of(changed("stripe-reconcile", schedule="*/30 * * * *")) as cloud:
        _, told = whole.doctor(STRIPE_INVOICE_GRACE_MINUTES="", **cloud.environ)
    assert told["invoices"] == (
        "well",
        "Usage is reported within 45 minutes, and Stripe finalizes an invoice 60 minutes after its period.",
    )


def test_what_stands_on_something_wrong_is_not_asked_and_wrong_only_once(whole: Whole) -> None:
    down = {"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}
    code, told = whole.doctor(**down)
    verdicts = {what: verdict for what, (verdict, _) in told.items()}
    not_asked = ("clock", "schema and identity", "indexes", "rights")
    assert (code, {what for what, verdict in verdicts.items() if verdict == "wrong"}) == (NO, {"database"})
    assert {what for what, verdict in verdicts.items() if verdict == "not asked"} == set(not_asked)
    # Stripe and the bucket answer all the same.
    assert (verdicts["stripe"], verdicts["bucket"], verdicts["redis"]) == ("well", "well", "well")
    whole.database.execute("UPDATE maintenance.identity SET instance = 'elsewhere:5432'")
    _, told = whole.doctor()
    assert [what for what, (verdict, _) in told.items() if verdict == "wrong"] == ["schema and identity"]
    code, told = whole.doctor(MAX_DELETE_FRACTION="half")
    assert (code, {verdict for what, (verdict, _) in told.items() if what != "settings"}) == (NO, {"not asked"})


def test_a_functions_login_has_not_the_rights_for_all_jobs(whole: Whole) -> None:
    with made_logins(whole.database) as logins:
        grant(whole.database.target, logins, JOBS)
        code, told = whole.doctor(DATABASE_URL=url_as(whole.database.url, logins["period_reset"]))
    assert (code, told["rights"][0], told["database"][0]) == (NO, "wrong", "well")
    assert "usage_events" in told["rights"][1]


@pytest.mark.parametrize(
    ("changes", "what", "sentence"),
    [
        ({"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}, "database", "accepts no connection"),
        ({"MAX_CONCURRENT_JOBS": "none"}, "settings", "MAX_CONCURRENT_JOBS must be"),
        ({"STRIPE_METER_PAGES": "mtr_other"}, "stripe", "mtr_other"),
        ({"GCS_BUCKET_NAME": "another-bucket"}, "bucket", "another-bucket"),
    ],
)
def test_a_wrong_setting_is_told_with_its_remedy(
    whole: Whole, changes: dict[str, str], what: str, sentence: str
) -> None:
    code, told = whole.doctor(**changes)
    assert (code, told[what][0]) == (NO, "wrong")
    assert sentence in told[what][1]
    assert "s3cret" not in str(told)


def test_a_copy_is_refused_until_it_is_adopted(
    database: TestDatabase, make_database: MakeDatabase, environ: dict[str, str]
) -> None:
    name = database.value("SELECT current_database()")
    database.execute("UPDATE maintenance.identity SET bucket = 'of-production', livemode = true")
    database.engine.dispose()
    copy = make_database(name)
    there = {**environ, "DATABASE_URL": copy.url, "GCS_BUCKET_NAME": "of-staging"}
    assert run("run", "period", "--json", environ=there)[1]["status"] == "misconfigured"
    done = CliRunner().invoke(cli, ["adopt", "--reason", "x"], env=there, input="n\n", catch_exceptions=False)
    assert (done.exit_code, "of-production" in done.stdout, "of-staging" in done.stdout) == (NO, True, True)
    assert copy.value("SELECT bucket FROM maintenance.identity") == "of-production"
    code, told = run("adopt", "--reason", "a restored copy", "--yes", "--json", environ=there)
    assert (code, told["changed"]) == (0, True)
    row = copy.row("SELECT database, bucket, livemode FROM maintenance.identity")
    assert row == {"database": copy.value("SELECT current_database()"), "bucket": "of-staging", "livemode": None}
    assert run("run", "period", "--json", environ=there)[1]["status"] == "completed"
    action = copy.row("SELECT action, arguments, reason FROM maintenance.operator_actions WHERE action = 'adopt'")
    assert (action["action"], action["reason"]) == ("adopt", "a restored copy")
    assert action["arguments"]["before"]["bucket"] == "of-production"
    code, told = run("adopt", "--reason", "again", "--yes", "--json", environ=there)
    adopted = copy.value("SELECT count(*) FROM maintenance.operator_actions WHERE action = 'adopt'")
    assert (code, told["changed"], adopted) == (0, False, 1)


def test_a_database_that_is_bound_to_nothing_is_for_migrate(
    make_database: MakeDatabase, service_template: str, environ: dict[str, str]
) -> None:
    code, said = run("adopt", "--reason", "x", environ={**environ, "DATABASE_URL": make_database(service_template).url})
    assert (code, "python -m ops migrate" in said) == (WRONG, True)


def test_who_breaks_off_at_the_question_has_changed_nothing(database: TestDatabase, environ: dict[str, str]) -> None:
    database.execute("UPDATE maintenance.identity SET bucket = 'of-production'")
    there = {**environ, "GCS_BUCKET_NAME": "of-staging"}
    done = CliRunner().invoke(cli, ["adopt", "--reason", "x"], env=there, input="", catch_exceptions=False)
    assert (done.exit_code, done.stderr.endswith("Nothing was changed.\n")) == (NO, True)
    assert database.value("SELECT bucket FROM maintenance.identity") == "of-production"
