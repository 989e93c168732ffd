"""`python -m ops migrate --grants`: what each function's login may do, held against the statements of its job."""

import dataclasses
import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grimp
import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import dialect

from devstack.serving import REPOSITORY
from functions.registry import JOBS
from ops.grants import HEALTH_JOB, grant, grants_sql, read_logins, rights_of
from shared.errors import Misconfigured
from shared.health import health
from shared.sql import Statement
from shared.statements import STATEMENTS
from tests.conftest import MakeDatabase, MakeEnvironment
from tests.support.commands import ops
from tests.support.database import TestDatabase
from tests.support.logins import made_logins, url_as

# opt_out_cleanup shares this file with abandoned_cleanup, and leaves jobs without runs alone.
NOT_USED = {("opt_out_cleanup", "delete_parents")}


@pytest.fixture
def logins(database: TestDatabase) -> Iterator[dict[str, str]]:
    """A login for each job, with no rights yet."""
    with made_logins(database) as made:
        yield made


def statements_of(module: str) -> Mapping[str, Statement]:
    """Every statement that a job's module, or a module of ours that it imports, has loaded."""
    graph = grimp.build_graph("functions", "shared")
    found: dict[str, Statement] = {}
    for name in sorted({module, *graph.find_upstream_modules(module)}):
        if name.startswith("functions."):
            for value in vars(importlib.import_module(name)).values():
                if isinstance(value, Mapping):
                    found.update({key: each for key, each in value.items() if isinstance(each, Statement)})
    return found


@contextmanager
def acting_as(connection: Any, login: str) -> Iterator[None]:
    cursor = connection.cursor()
    cursor.execute(f'SET ROLE "{login}"')
    try:
        yield
    finally:
        cursor.execute("RESET ROLE")


def refused(connection: Any, statement: Statement) -> str | None:
    """Why PostgreSQL does not even plan a statement: the code of its error, None where it does."""
    numbering = dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
    numbered = str(text(statement.text).compile(dialect=numbering)).replace("%%", "%")
    try:
        connection.cursor().execute(f"EXPLAIN (GENERIC_PLAN) {numbered}")
    except DatabaseError as error:
        return str(error.args[0]["C"])
    return None


FORBIDDEN = "42501"


@pytest.fixture
def raw(database: TestDatabase) -> Iterator[Any]:
    """A connection of the owner's, without transactions."""
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.rollback()
        driver.autocommit = True
        yield driver
        driver.autocommit = False


@pytest.mark.parametrize("job", list(JOBS))
def test_a_login_may_run_every_statement_of_its_job(
    job: str, database: TestDatabase, logins: dict[str, str], raw: Any
) -> None:
    grant(database.target, logins, JOBS)
    # Parts of statements are no statements.
    whole = {
        name: each
        for name, each in {**STATEMENTS, **statements_of(JOBS[job].module)}.items()
        if refused(raw, each) is None
    }
    assert len(whole) > len(STATEMENTS)
    with acting_as(raw, logins[job]):
        not_allowed = {(job, name) for name, each in whole.items() if refused(raw, each) == FORBIDDEN}
    assert not_allowed == {pair for pair in NOT_USED if pair[0] == job}


@pytest.mark.parametrize("job", list(JOBS))
def test_without_any_single_right_some_statement_is_refused(
    job: str, database: TestDatabase, logins: dict[str, str], raw: Any
) -> None:
    """So that nobody has a right that no statement uses; of a column, too."""
    alone = {job: dataclasses.replace(JOBS[job], waiting_reads=())}
    grant(database.target, {job: logins[job]}, alone)
    statements = [*STATEMENTS.values(), *statements_of(JOBS[job].module).values()]
    login = f'"{logins[job]}"'

    def all_refused() -> set[str]:
        with acting_as(raw, logins[job]):
            return {each.name for each in statements if refused(raw, each) == FORBIDDEN}

    before = all_refused()
    for table, privileges in rights_of(logins[job], {job: logins[job]}, alone).items():
        for privilege in privileges:
            one, _, columns = privilege.partition(" ")
            single = [f"{one} ({column})" for column in columns.strip("()").split(", ")] if columns else [one]
            for right in single:
                raw.cursor().execute(f"REVOKE {right} ON {table} FROM {login}")
                assert all_refused() > before, f"{job} does not need {right} on {table}"
                raw.cursor().execute(f"GRANT {right} ON {table} TO {login}")
    assert all_refused() == before


def test_the_login_of_the_health_check_sees_what_waits_for_every_job(
    database: TestDatabase, logins: dict[str, str], make_environment: MakeEnvironment
) -> None:
    grant(database.target, logins, JOBS)

    def blind(login: str) -> set[str]:
        environment = make_environment({"DATABASE_URL": url_as(database.url, login)})
        report = health(environment.services, JOBS[HEALTH_JOB], JOBS)
        return {line["job"] for line in report["jobs"] if line["waiting"] is None}  # type: ignore[attr-defined]

    assert blind(logins[HEALTH_JOB]) == set()
    seen = set(JOBS["artifact_cleanup"].rights)
    hidden = {job.name for job in JOBS.values() if not set(job.waiting_reads) <= seen}
    assert blind(logins["artifact_cleanup"]) == hidden != set()
    # And it needs each of these.
    mine = JOBS[HEALTH_JOB].rights
    for job in JOBS.values():
        for table in set(job.waiting_reads) - set(mine):
            database.script(f'REVOKE SELECT ON {table} FROM "{logins[HEALTH_JOB]}"')
            assert job.name in blind(logins[HEALTH_JOB]), f"{job.name} does not read {table}"
            database.script(f'GRANT SELECT ON {table} TO "{logins[HEALTH_JOB]}"')


def test_the_command_gives_rights_and_takes_away_what_is_too_much(
    database: TestDatabase, logins: dict[str, str], tmp_path: Path
) -> None:
    login = logins["usage_counter_cleanup"]
    database.script(f'GRANT ALL ON users, usage_counters, maintenance.operator_actions TO "{login}"')
    file = tmp_path / "logins.json"
    file.write_text(json.dumps(logins))
    for _ in range(2):
        done = ops("migrate", "--grants", str(file), environ={"DATABASE_URL": database.url})
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Gave {login} the tables of its job." in done.stdout
    rights = database.rows(
        "SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type) AS told "
        "FROM information_schema.role_table_grants WHERE grantee = :login GROUP BY table_name",
        login=login,
    )
    told = {row["table_name"]: row["told"] for row in rights}
    assert told["usage_counters"] == "DELETE SELECT"
    assert "operator_actions" not in told
    # A table that no job declares is none of ours to say anything of.
    assert "TRUNCATE" in told["users"]


def rights_in_place(database: TestDatabase, logins: dict[str, str]) -> list[dict[str, Any]]:
    """All that the logins may do with whole tables and with columns."""
    return [
        dict(row)
        for row in database.rows(
            "SELECT grantee, table_schema, table_name, '' AS column_name, privilege_type "
            "FROM information_schema.role_table_grants WHERE grantee = ANY (CAST(:logins AS text[])) "
            "UNION SELECT grantee, table_schema, table_name, column_name, privilege_type "
            "FROM information_schema.role_column_grants WHERE grantee = ANY (CAST(:logins AS text[])) "
            "ORDER BY 1, 2, 3, 4, 5",
            logins=list(logins.values()),
        )
    ]


def test_where_another_owns_the_services_tables_each_owner_gives_its_part(
    database: TestDatabase, logins: dict[str, str], tmp_path: Path
) -> None:
    grant(database.target, logins, JOBS)
    wanted = rights_in_place(database, logins)
    for login in logins.values():
        database.script(f'DROP OWNED BY "{login}"')
    ours = logins["period_reset"] + "-operator"
    database.script(f'CREATE ROLE "{ours}" LOGIN PASSWORD \'pw\'; ALTER SCHEMA maintenance OWNER TO "{ours}"')
    for row in database.rows("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'maintenance'"):
        database.script(f'ALTER TABLE maintenance.{row["name"]} OWNER TO "{ours}"')
    operator = TestDatabase(url_as(database.url, ours))
    try:
        with pytest.raises(Misconfigured, match="Rights on automation_runs, automations, billing_accounts, ") as told:
            grant(operator.target, logins, JOBS)
        assert "--host-sql" in str(told.value)
        file = tmp_path / "logins.json"
        file.write_text(json.dumps(logins))
        printed = ops("migrate", "--grants", str(file), "--host-sql", environ={})
        assert (printed.returncode, printed.stdout) == (0, grants_sql(logins, JOBS))
        assert "maintenance." not in printed.stdout
        database.script(printed.stdout)
        assert grant(operator.target, logins, JOBS) == list(logins.values())
        assert rights_in_place(database, logins) == wanted
    finally:
        operator.engine.dispose()
        database.script(f'REASSIGN OWNED BY "{ours}" TO CURRENT_USER; DROP OWNED BY "{ours}"; DROP ROLE "{ours}"')


def test_jobs_that_share_a_login_have_the_rights_of_both(database: TestDatabase, logins: dict[str, str]) -> None:
    one = logins["period_reset"]
    assert grant(database.target, dict.fromkeys(logins, one), JOBS) == [one]
    allowed = "SELECT has_table_privilege(:login, :table, 'DELETE')"
    assert database.value(allowed, login=one, table="usage_counters")
    assert database.value(allowed, login=one, table="job_runs")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("period_reset", "must be a JSON object"),
        ('["fn-period-reset"]', "must be a JSON object"),
        ('{"period_reset": null}', "must be a JSON object"),
        ('{"period_reset": "fn"}', "missing or unknown: abandoned_cleanup, artifact_cleanup, "),
        (json.dumps({**dict.fromkeys(JOBS, "fn"), "seventh": "fn"}), "missing or unknown: seventh.*terraform output"),
        (json.dumps({**dict.fromkeys(JOBS, "fn"), "period_reset": "f" * 64}), "is no login"),
        (json.dumps({**dict.fromkeys(JOBS, "fn"), "period_reset": "f\nn"}), "is no login"),
    ],
)
def test_logins_that_are_not_understood_are_refused(content: str, sentence: str) -> None:
    with pytest.raises(Misconfigured, match=sentence):
        read_logins(content, JOBS)


def test_a_login_that_is_not_there_or_has_rights_of_its_own_is_refused_and_nothing_changes(
    database: TestDatabase, logins: dict[str, str]
) -> None:
    owner = database.value("SELECT current_user")
    for wrong, sentence in (("nobody@x.iam", "There is no login nobody@x.iam"), (owner, "must not have it")):
        with pytest.raises(Misconfigured, match=sentence):
            grant(database.target, {**logins, "stripe_reconcile": wrong}, JOBS)
    assert not database.value(
        "SELECT has_table_privilege(:login, 'billing_accounts', 'SELECT')", login=logins["period_reset"]
    )


def test_a_login_that_does_not_own_the_tables_is_told_so(database: TestDatabase, logins: dict[str, str]) -> None:
    other = logins["artifact_cleanup"]
    url = url_as(database.url, other)
    with pytest.raises(Misconfigured, match=r"does not own maintenance\.alembic_version, ") as told:
        grant(TestDatabase(url).target, logins, JOBS)
    assert "the login that ran `python -m ops migrate`" in str(told.value)


def test_tables_that_are_not_there_are_named(
    make_database: MakeDatabase, service_template: str, logins: dict[str, str]
) -> None:
    with pytest.raises(Misconfigured, match=r"no table maintenance\.alembic_version, .* `python -m ops migrate`"):
        grant(make_database(service_template).target, logins, JOBS)


def test_a_login_with_a_hostile_name_is_only_a_name(database: TestDatabase, logins: dict[str, str]) -> None:
    hostile = f'"; DROP TABLE users; --:x{logins["artifact_cleanup"][-30:]}'
    quoted = hostile.replace('"', '""')
    database.script(f'CREATE ROLE "{quoted}"')
    try:
        grant(database.target, {**logins, "artifact_cleanup": hostile}, JOBS)
        assert database.value("SELECT has_table_privilege(:login, 'source_files', 'SELECT')", login=hostile)
    finally:
        database.script(f'DROP OWNED BY "{quoted}"; DROP ROLE "{quoted}"')


def test_the_documentation_lists_the_rights_as_they_are() -> None:
    own = {name: (job.rights, job.waiting_reads) for name, job in JOBS.items()}
    lines = [
        f"| {name} | `{table}` | {', '.join(privileges)} |"
        for name, (rights, _) in own.items()
        for table, privileges in rights.items()
    ]
    reads = {table: None for _, tables in own.values() for table in tables}
    told = (REPOSITORY / "docs" / "database-rights.md").read_text()
    assert [line for line in told.splitlines() if line.startswith("| ") and "`" in line] == lines
    assert ", ".join(f"`{table}`" for table in reads) in " ".join(told.split())
