"""`python -m ops migrate`: our own schema, and whose database it is."""

import json
import os
import threading
from collections.abc import Mapping

import pg8000.native
import pytest
from sqlalchemy import make_url, text

from functions.registry import JOBS
from ops.host_indexes import HOST_INDEXES
from ops.migrate import migrate
from ops.shell import DOWN, WRONG
from shared.errors import Misconfigured, Unavailable
from shared.start_check import SCHEMA_VERSION
from tests.conftest import MakeDatabase
from tests.support.clock import NOON
from tests.support.commands import ops, ops_process
from tests.support.database import TestDatabase

STRUCTURE = """
SELECT string_agg(concat_ws(' ', table_schema, table_name, column_name, data_type, is_nullable, column_default), E'\\n'
    ORDER BY table_schema, table_name, column_name)
FROM information_schema.columns WHERE table_schema IN ('maintenance', 'public')
"""


def test_the_command_makes_the_schema_and_can_be_repeated(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    service_tables = database.value(STRUCTURE)
    first = ops_process("migrate", environ={"DATABASE_URL": database.url})
    assert (first.returncode, first.stderr) == (0, "")
    assert f"at version {SCHEMA_VERSION} (new)" in first.stdout
    assert (
        "bound to no mode of Stripe yet and to no bucket yet. Run this again with STRIPE_SECRET_KEY and" in first.stdout
    )
    after = database.value(STRUCTURE)
    assert [line for line in after.splitlines() if line.startswith("public")] == service_tables.splitlines()
    second = ops("migrate", environ={"DATABASE_URL": database.url})
    assert (second.returncode, "already" in second.stdout) == (0, True)
    assert database.value(STRUCTURE) == after
    tables = {row["t"] for row in database.rows("SELECT tablename t FROM pg_tables WHERE schemaname = 'maintenance'")}
    assert tables == {
        *("alembic_version", "runs", "fences", "identity", "controls", "meter_sends", "drift", "cursors"),
        *("holds", "object_deletions", "erasures", "operator_actions"),
    }


def test_the_first_migration_binds_the_database_and_later_ones_leave_that(
    make_database: MakeDatabase, service_template: str
) -> None:
    database = make_database(service_template)
    migrate(database.target, NOON)
    migrate(database.target, NOON.replace(year=2030))
    row = database.row("SELECT * FROM maintenance.identity")
    assert (row["instance"], row["database"]) == (database.target.instance, database.target.database)
    assert row["bound_at"] == NOON


def test_a_copy_in_another_environment_is_not_migrated(database: TestDatabase) -> None:
    database.execute("UPDATE maintenance.identity SET instance = 'production:5432'")
    with pytest.raises(Misconfigured, match="belongs to another environment"):
        migrate(database.target, NOON)
    assert database.value("SELECT instance FROM maintenance.identity") == "production:5432"


def test_a_schema_that_is_newer_than_the_code_is_left_alone(database: TestDatabase) -> None:
    database.execute("UPDATE maintenance.alembic_version SET version_num = '9999'")
    with pytest.raises(Misconfigured, match="newer than this code"):
        migrate(database.target, NOON)
    assert database.value("SELECT version_num FROM maintenance.alembic_version") == "9999"


def test_two_migrations_at_once_wait_for_each_other(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            migrate(database.target, NOON)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert database.value("SELECT count(*) FROM maintenance.identity") == 1


@pytest.mark.slow
def test_a_lock_that_is_needed_is_waited_for_a_few_seconds_only(database: TestDatabase) -> None:
    with database.engine.connect() as other:
        other.execute(text("LOCK TABLE maintenance.identity IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(Unavailable, match="lock"):
            migrate(database.target, NOON)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}, "accepts no connection"),
        ({"DATABASE_URL": "s3cret"}, "not a URL"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(environ: Mapping[str, str], sentence: str) -> None:
    result = ops("migrate", environ=environ)
    assert result.returncode == (DOWN if "connection" in sentence else WRONG)
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert "s3cret" not in result.stderr + result.stdout


def test_a_login_that_may_not_make_schemas_is_told_so(database: TestDatabase) -> None:
    name = f"weak_{os.getpid()}"
    database.execute("DROP SCHEMA maintenance CASCADE")
    database.script(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
    try:
        target = database.target
        url = f"postgresql://{name}:weak@{target.host}:{target.port}/{target.database}"
        result = ops("migrate", environ={"DATABASE_URL": url})
    finally:
        database.script(f"DROP ROLE {name}")
    assert result.returncode == WRONG
    assert "Give it" in result.stderr


def test_help_has_an_example() -> None:
    result = ops("migrate", "--help", environ={})
    assert result.returncode == 0
    assert "Example:" in result.stdout


def test_it_says_what_is_bound_and_what_is_still_to_be_said(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    environ = {"DATABASE_URL": database.url, "GCS_BUCKET_NAME": "files"}
    first = ops("migrate", environ=environ).stdout
    assert "to no mode of Stripe yet and to the bucket files. Run this again with STRIPE_SECRET_KEY set" in first
    second = ops("migrate", environ={**environ, "STRIPE_SECRET_KEY": "sk_test_x"}).stdout
    assert "It is bound to Stripe's test mode and to the bucket files.\n" in second


def test_a_database_without_the_services_tables_is_left_as_it_is(make_database: MakeDatabase) -> None:
    database = make_database(None)
    done = ops("migrate", environ={"DATABASE_URL": database.url})
    assert done.returncode == WRONG
    assert (
        "there is no billing_accounts, usage_events, job_runs, source_files. Is that the right database?" in done.stderr
    )
    assert database.value("SELECT to_regnamespace('maintenance')") is None


def test_the_plan_shows_the_sql_and_changes_nothing(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    before = database.value(STRUCTURE)
    planned = ops("migrate", "--plan", environ={"DATABASE_URL": database.url})
    assert (planned.returncode, planned.stderr, database.value(STRUCTURE)) == (0, "", before)
    assert "is at version none; this is 000" in planned.stdout
    for part in ("CREATE SCHEMA", "CREATE TABLE maintenance.runs", "CREATE INDEX CONCURRENTLY maintenance_usage"):
        assert part in planned.stdout
    # What it prints is what a migration does: run by somebody else, it leaves nothing to migrate.
    url = make_url(database.url)
    connection = pg8000.native.Connection(
        url.username or "", url.host or "", url.database, url.port or 5432, url.password
    )
    for statement in _statements(planned.stdout):
        connection.run(statement)
    connection.close()
    again = ops("migrate", "--plan", "--json", environ={"DATABASE_URL": database.url})
    told = json.loads(again.stdout)
    assert (told["before"], told["version"], told["sql"], told["grants"]) == (SCHEMA_VERSION, SCHEMA_VERSION, "", "")
    by_hand = database.value(STRUCTURE)
    migrated = make_database(service_template)
    assert ops("migrate", environ={"DATABASE_URL": migrated.url}).returncode == 0
    assert by_hand == migrated.value(STRUCTURE)


def test_the_plan_refuses_what_the_migration_would(database: TestDatabase) -> None:
    logins = json.dumps(dict.fromkeys(JOBS, 'a"b'))
    database.execute("UPDATE maintenance.alembic_version SET version_num = '9999'")
    newer = ops("migrate", "--plan", environ={"DATABASE_URL": database.url})
    assert (newer.returncode, "newer than this code" in newer.stderr) == (WRONG, True)
    database.execute("UPDATE maintenance.alembic_version SET version_num = :v", v=SCHEMA_VERSION)
    shown = ops("migrate", "--plan", "--grants", "-", environ={"DATABASE_URL": database.url}, stdin=logins)
    assert 'ON maintenance.runs TO "a""b";' in shown.stdout
    database.execute("UPDATE maintenance.identity SET instance = 'elsewhere:5432'")
    copy = ops("migrate", "--plan", environ={"DATABASE_URL": database.url})
    assert (copy.returncode, "belongs to another environment" in copy.stderr) == (WRONG, True)
    assert "`python -m ops adopt`" in copy.stderr


def test_the_plan_refuses_another_bucket_and_drops_what_is_broken(database: TestDatabase) -> None:
    url = {"DATABASE_URL": database.url}
    database.execute("UPDATE maintenance.identity SET bucket = 'mine', livemode = true")
    for changes in ({"GCS_BUCKET_NAME": "other"}, {"STRIPE_SECRET_KEY": "sk_test_x"}):
        refused = ops("migrate", "--plan", environ={**url, **changes})
        assert (refused.returncode, "belongs to another environment" in refused.stderr) == (WRONG, True)
    name = HOST_INDEXES[1].name
    database.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass")
    shown = ops("migrate", "--plan", environ=url).stdout
    assert f'DROP INDEX CONCURRENTLY "{name}";\nCREATE INDEX CONCURRENTLY {name} ON' in shown
    with database.engine.begin() as held:
        held.exec_driver_sql("LOCK TABLE maintenance.alembic_version")
        waited = ops("migrate", "--plan", environ=url)
    assert (waited.returncode, "Another session holds a lock" in waited.stderr) == (DOWN, True)


def _statements(script: str) -> list[str]:
    """The statements of a script. Only function bodies have semicolons within them."""
    parts: list[str] = []
    for part in "\n".join(line for line in script.splitlines() if not line.startswith("--")).split(";\n"):
        if parts and parts[-1].count("$$") % 2:
            parts[-1] += ";\n" + part
        else:
            parts.append(part)
    return [part for part in parts if part.strip()]
