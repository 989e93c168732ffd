"""What each function's login may do in the database: the tables that its job declares, and nothing else.

Dangers, and what holds them:

* Too much. A login keeps nothing from before on any table that a job declares, nor in the schema `maintenance`.
* Somebody else's rights. A login that owns one of the tables, or is a superuser, is refused: what was taken from it
  here would be missed elsewhere. So is a name that PostgreSQL would cut short, and take for another's.
* Half of it. All is one transaction: whoever runs a job meanwhile has the old rights or the new ones.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sqlalchemy import Connection, text

from ops.engine import make_engine, translated_from_engine
from ops.migrate import take_turn
from shared.database_url import DatabaseTarget
from shared.errors import Misconfigured
from shared.job import Job
from shared.sql import load_statements

# The job whose function is asked for the health of all. Terraform knows it as `health_job`.
HEALTH_JOB = "period_reset"
# The statements of shared/queries.sql, which belong to every run.
_EVERY_RUN = {
    "maintenance.alembic_version": ("SELECT",),
    "maintenance.identity": ("SELECT",),
    "maintenance.controls": ("SELECT",),
    "maintenance.runs": ("SELECT", "INSERT", "UPDATE"),
    "maintenance.fences": ("SELECT", "INSERT", "UPDATE"),
}
_LONGEST_NAME = 63
_LIMITS = {"lock_timeout": "5000", "TimeZone": "UTC"}
_STATEMENTS = load_statements(Path(__file__).with_name("grants.sql"))

Rights = Mapping[str, Sequence[str]]


def read_logins(content: str, jobs: Mapping[str, Job]) -> dict[str, str]:
    """Read `terraform output -json database_users`: a JSON object with the login of each job, by the job's name.

    Raises Misconfigured for anything else.
    """
    example = '{"period_reset": "fn-period-reset@project.iam", …}, as `terraform output -json database_users` prints it'
    try:
        logins = json.loads(content)
    except ValueError:
        logins = None
    if not isinstance(logins, dict) or not all(isinstance(login, str) and login for login in logins.values()):
        raise Misconfigured("logins", f"The logins must be a JSON object: {example}.")
    wrong = sorted(set(jobs).symmetric_difference(logins))
    if wrong:
        raise Misconfigured(
            "logins",
            f"The logins must name each job once; missing or unknown: {', '.join(wrong)}. "
            "After an upgrade, `terraform apply` makes them, and `terraform output -json database_users` lists them.",
        )
    for login in logins.values():
        if len(login.encode()) > _LONGEST_NAME or not login.isprintable():
            raise Misconfigured("logins", f"{login!r} is no login: PostgreSQL takes {_LONGEST_NAME} bytes at most.")
    return logins


def rights_of(login: str, logins: Mapping[str, str], jobs: Mapping[str, Job]) -> Rights:
    """The privileges of a login by table, with those of every job that has it."""
    rights: dict[str, list[str]] = {}
    mine = [jobs[name] for name, its in logins.items() if its == login]
    parts: list[Rights] = [_EVERY_RUN, *(job.rights for job in mine)]
    if any(job.name == HEALTH_JOB for job in mine):
        parts.append({table: ("SELECT",) for job in jobs.values() for table in job.waiting_reads})
    for part in parts:
        for table, privileges in part.items():
            known = rights.setdefault(table, [])
            known.extend(each for each in privileges if each not in known)
    return rights


def grants_sql(logins: Mapping[str, str], jobs: Mapping[str, Job], *, with_ours: bool = False) -> str:
    """The statements that concern the service's own tables, for whoever owns those; or, `with_ours`, all of them."""
    tables = [table for table in _tables(jobs) if with_ours or not _is_ours(table)]
    return "".join(
        f"{statement};\n" for login in _distinct(logins) for statement in _statements(login, logins, jobs, tables)
    )


def grant(target: DatabaseTarget, logins: Mapping[str, str], jobs: Mapping[str, Job]) -> list[str]:
    """Give each login the rights of its jobs, and take all others on these tables away; give the logins.

    What belongs to another owner is left to that one, and only looked at.
    Raises Misconfigured where a login or table is not there, a login has rights of its own, or a right is missing that
    is for another owner to give; Unavailable when the database cannot be reached.
    """
    engine = make_engine(target, _LIMITS)
    try:
        with translated_from_engine(target), engine.begin() as connection:
            take_turn(connection)
            mine = _own_tables(connection, target, jobs)
            for login in _distinct(logins):
                _check_login(connection, login, target, jobs)
                for statement in _statements(login, logins, jobs, mine):
                    connection.execute(text(statement.replace(":", r"\:")))
        with translated_from_engine(target), engine.connect() as connection:
            _check_others_tables(connection, logins, jobs, set(_tables(jobs)) - set(mine))
        return _distinct(logins)
    finally:
        engine.dispose()


def missing_rights(target: DatabaseTarget, jobs: Mapping[str, Job]) -> list[str]:
    """The tables on which the session's own login lacks a right that some job needs.

    Raises Misconfigured where a table is not there or its schema may not be used, Unavailable when the database cannot
    be reached.
    """
    engine = make_engine(target, _LIMITS)
    try:
        with translated_from_engine(target), engine.connect() as connection:
            login = str(connection.scalar(text("SELECT current_user")))
            return _lacking(connection, dict.fromkeys(jobs, login), jobs, _tables(jobs))
    finally:
        engine.dispose()


def _distinct(logins: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(logins.values()))


def _tables(jobs: Mapping[str, Job]) -> list[str]:
    return list(dict.fromkeys([*_EVERY_RUN, *(table for job in jobs.values() for table in job.rights)]))


def _is_ours(table: str) -> bool:
    return table.startswith("maintenance.")


def _statements(login: str, logins: Mapping[str, str], jobs: Mapping[str, Job], tables: Sequence[str]) -> list[str]:
    """What gives a login its rights on these tables, and no others on them."""
    name = '"' + login.replace('"', '""') + '"'
    rights = rights_of(login, logins, jobs)
    services = [table for table in tables if not _is_ours(table)]
    statements = []
    if len(services) < len(tables):
        statements.append(f"REVOKE ALL ON ALL TABLES IN SCHEMA maintenance FROM {name}")
        statements.append(f"GRANT USAGE ON SCHEMA maintenance TO {name}")
    if services:
        statements.append(f"REVOKE ALL ON {', '.join(services)} FROM {name}")
        statements.append(f"GRANT USAGE ON SCHEMA public TO {name}")
    given = {table: rights[table] for table in rights if table in tables}
    return statements + [f"GRANT {', '.join(each)} ON {table} TO {name}" for table, each in given.items()]


def _own_tables(connection: Connection, target: DatabaseTarget, jobs: Mapping[str, Job]) -> list[str]:
    """Those of the tables that this session may give rights on; at least all of ours."""
    rows = connection.execute(text(_STATEMENTS["tables"].text), {"tables": _tables(jobs)}).all()
    missing = [row.name for row in rows if not row.there]
    if missing:
        raise Misconfigured(
            "database",
            f"There is no table {', '.join(missing)} in {target}. The service's own tables must be there first, and "
            "the schema `maintenance` from `python -m ops migrate`. No rights were changed.",
        )
    others = [row.name for row in rows if not row.mine and _is_ours(row.name)]
    if others:
        raise Misconfigured(
            "database rights",
            f"This login does not own {', '.join(others)}, so it may give nobody rights there. No rights were changed. "
            "Use the login that ran `python -m ops migrate` first.",
        )
    return [row.name for row in rows if row.mine]


def _check_others_tables(
    connection: Connection, logins: Mapping[str, str], jobs: Mapping[str, Job], tables: Collection[str]
) -> None:
    lacking = _lacking(connection, logins, jobs, tables)
    if lacking:
        raise Misconfigured(
            "database rights",
            f"Rights on {', '.join(lacking)} are missing, and this login does not own that. Everything else is given. "
            "Have the owner run what `python -m ops migrate --grants … --host-sql` prints.",
        )


def _lacking(
    connection: Connection, logins: Mapping[str, str], jobs: Mapping[str, Job], tables: Collection[str]
) -> list[str]:
    """Those of the tables on which a login has not a right that it should have."""
    wanted = [
        (login, table, privilege)
        for login in _distinct(logins)
        for table, privileges in rights_of(login, logins, jobs).items()
        if table in tables
        for privilege in privileges
    ]
    return list(
        connection.scalars(
            text(_STATEMENTS["lacking"].text),
            {
                "logins": [login for login, _, _ in wanted],
                "tables": [table for _, table, _ in wanted],
                "privileges": [privilege.partition(" ")[0] for _, _, privilege in wanted],
                "columns": [privilege.partition(" ")[2].strip("()").replace(" ", "") for _, _, privilege in wanted],
            },
        )
    )


def _check_login(connection: Connection, login: str, target: DatabaseTarget, jobs: Mapping[str, Job]) -> None:
    asked = {"login": login, "tables": _tables(jobs)}
    row = connection.execute(text(_STATEMENTS["login"].text), asked).first()
    if row is None:
        raise Misconfigured(
            "logins", f"There is no login {login} in {target}. `terraform apply` makes it. No rights were changed."
        )
    if row.powerful:
        raise Misconfigured(
            "logins",
            f"The login {login} owns tables of its own or is a superuser, so a function must not have it. Nothing was "
            "changed.",
        )
