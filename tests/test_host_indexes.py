"""The indexes on the service's tables: built where they are missing, beside a live service, and by their owner only."""

import os
import threading

from sqlalchemy import text

from ops.host_indexes import HOST_INDEXES, build_host_indexes, host_sql
from ops.shell import WRONG
from tests.conftest import MakeDatabase
from tests.support.commands import ops
from tests.support.database import TestDatabase

NAMES = [index.name for index in HOST_INDEXES]
VALID = "SELECT count(*) FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname = :name AND indisvalid"


def test_migrate_builds_what_is_missing_and_repeats_nothing(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    first = ops("migrate", environ={"DATABASE_URL": database.url})
    assert (first.returncode, first.stderr) == (0, "")
    for name in NAMES:
        assert f"Built the index {name}." in first.stdout
        assert database.value(VALID, name=name) == 1
    second = ops("migrate", environ={"DATABASE_URL": database.url})
    assert (second.returncode, "Built" in second.stdout) == (0, False)


def test_the_backlog_is_found_by_it(database: TestDatabase) -> None:
    database.account("ann")
    database.execute(
        "INSERT INTO usage_events (user_id, occurred_at, source, pages, stripe_reported) "
        "SELECT 'ann', CAST('2026-01-01Z' AS timestamptz) + n * interval '1 minute', 'x', 1, mod(n, 100) > 0 "
        "FROM generate_series(1, 20000) n"
    )
    database.execute("ANALYZE usage_events")
    plan = database.rows(
        "EXPLAIN SELECT id FROM usage_events WHERE NOT stripe_reported AND occurred_at < '2027-01-01Z' "
        "ORDER BY occurred_at, id LIMIT 100"
    )
    assert any(NAMES[0] in str(line) for line in plan)


def test_the_same_index_under_another_name_is_good_enough(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    for index in HOST_INDEXES:
        database.script(index.sql.replace(index.name, f"theirs_{index.name}").replace(" CONCURRENTLY", ""))
    assert build_host_indexes(database.target) == []


def test_an_index_with_another_condition_is_not(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    database.script("CREATE INDEX one ON usage_events (occurred_at) WHERE stripe_reported")
    database.script("CREATE INDEX other ON usage_events (occurred_at)")
    assert NAMES[0] in build_host_indexes(database.target)


def test_what_a_broken_build_left_is_built_anew(database: TestDatabase) -> None:
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)", name=NAMES[0])
    assert build_host_indexes(database.target) == [NAMES[0]]
    assert database.value(VALID, name=NAMES[0]) == 1


def test_two_at_once_take_turns(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    built: list[str] = []
    threads = [threading.Thread(target=lambda: built.extend(build_host_indexes(database.target))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == sorted(NAMES)


def test_the_service_writes_on_while_it_is_built(make_database: MakeDatabase, service_template: str) -> None:
    """An older transaction of the service's holds the build up; a new one does not wait for the build."""
    database = make_database(service_template)
    database.account("ann")
    with database.engine.connect() as older:
        older.execute(text("INSERT INTO usage_events (user_id, source, pages) VALUES ('ann', 'x', 1)"))
        thread = threading.Thread(target=lambda: build_host_indexes(database.target))
        thread.start()
        database.execute("INSERT INTO usage_events (user_id, source, pages) VALUES ('ann', 'x', 1)")
        older.commit()
    thread.join()
    assert database.value(VALID, name=NAMES[0]) == 1


def test_who_does_not_own_the_table_is_told_what_to_do(make_database: MakeDatabase, service_template: str) -> None:
    database = make_database(service_template)
    name = f"weak_{os.getpid()}"
    database.script(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
    database.script(f"GRANT CREATE ON DATABASE {database.target.database} TO {name}")
    try:
        target = database.target
        url = f"postgresql://{name}:weak@{target.host}:{target.port}/{target.database}"
        result = ops("migrate", environ={"DATABASE_URL": url})
    finally:
        database.script(f"DROP OWNED BY {name} CASCADE")
        database.script(f"DROP ROLE {name}")
    assert result.returncode == WRONG
    assert "does not own the table" in result.stderr
    assert "--host-sql" in result.stderr
    assert "is at version" in result.stdout, "our own schema is there all the same"


def test_the_statements_for_the_services_own_migrations(make_database: MakeDatabase, service_template: str) -> None:
    printed = ops("migrate", "--host-sql", environ={})
    assert (printed.returncode, printed.stdout) == (0, host_sql())
    database = make_database(service_template)
    for index in HOST_INDEXES:
        assert f"{index.sql.partition(index.name)[2]};" in printed.stdout
        database.script(index.sql.replace(" CONCURRENTLY", ""))
    assert build_host_indexes(database.target) == []


def test_what_is_printed_for_the_service_does_nothing_where_the_indexes_are(
    make_database: MakeDatabase, service_template: str
) -> None:
    database = make_database(service_template)
    statements = [line for line in host_sql().splitlines() if not line.startswith("--")]
    assert all(line.startswith("CREATE INDEX CONCURRENTLY IF NOT EXISTS ") for line in statements)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for line in (*statements, *statements):
            connection.exec_driver_sql(line)
    assert build_host_indexes(database.target) == []
    assert [database.value(VALID, name=name) for name in NAMES] == [1] * len(NAMES)
