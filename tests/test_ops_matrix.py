"""Every command in every situation: a sentence that says what to do, the right exit code, no stack trace, no secret.

The situations: an empty database, a big one, none that answers, one without our schema, a login without rights, a
wrong setting. A command that has no row in `tests.support.ops_world.CASES` fails here.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result

from devstack.databases import create_database, drop_database
from devstack.serving import REPOSITORY
from devstack.stack import Stack
from ops.__main__ import cli
from ops.shell import DOWN, NO, WRONG
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.logins import url_as
from tests.support.ops_world import CASES, NOT_HERE, Case, World, commands, made_world

PASSWORD = "s3cret-pass"
DOWN_URL = f"postgresql://ann:{PASSWORD}@127.0.0.1:1/byte"
KEY = "sk_live_s3cret key"
# As many as make a page, a plot or a query slow that looks at all of them.
MANY = 100_000
_NEEDY = [case for case in CASES if case.database == "needs"]
_ASIDE = [case for case in CASES if case.database == "aside"]
# Those that look at the key without asking for any setting of theirs.
_AT_STRIPE = [case for case in CASES if case.command in ("run", "stripe audit") or str(case) == "migrate"]
# Their schedules are looked for before the database is.
_FIRST_AT_GOOGLE = ("schedules pause", "schedules resume")


def run(case: Case, world: World, *options: str, **changes: str) -> Result:
    """Run a command as a person would, in a terminal of 80 columns."""
    environ: Mapping[str, str] = {**world.environ, "COLUMNS": "80", **changes}
    done = run_command(*case.line(world), *options, environ=environ)
    secrets = (PASSWORD, KEY, world.environ["STRIPE_SECRET_KEY"], re.findall(r":([^:@]{8,})@", world.database.url)[0])
    for text in (done.stdout, done.stderr):
        assert not [secret for secret in secrets if secret in text], "a secret"
        assert "Traceback" not in text
        assert "\x1b" not in text
    return done


def said(done: Result) -> str:
    """What a person reads of it on standard error: sentences, and the messages of what was logged."""
    lines = done.stderr.splitlines()
    return "\n".join(json.loads(line)["message"] if line.startswith("{") else line for line in lines)


def refuses(case: Case, done: Result, code: int, *sentences: str) -> None:
    """It ended with the code and said what to do; nothing was printed but what came of a run."""
    text = said(done) + done.stdout
    assert done.exit_code == code, text
    assert any(sentence in text for sentence in sentences), text
    assert case.command in ("run", "upcoming", "erase") or done.stdout == ""


def test_every_command_is_in_the_matrix() -> None:
    assert {case.command for case in CASES} | NOT_HERE == set(commands(cli))


# --- an empty database, and a big one


@pytest.fixture(scope="module")
def empty(stack: Stack, template: str) -> Iterator[World]:
    with made_world(stack, template, full=False) as made:
        yield made


@pytest.fixture(scope="module")
def big(stack: Stack, template: str) -> Iterator[World]:
    with made_world(stack, template, full=True, runs=MANY) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_an_empty_database(case: Case, empty: World) -> None:
    done = run(case, empty)
    assert done.exit_code in case.empty, said(done)
    if done.exit_code == WRONG:
        assert done.stdout == ""
        assert said(done).rstrip().endswith(".")
    else:
        assert done.stdout.strip()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_a_big_database_in_80_columns(case: Case, big: World) -> None:
    done = run(case, big)
    assert done.exit_code in case.full, said(done)
    lines = done.stdout.splitlines()
    if case.is_table:
        assert max(map(len, lines)) <= 80
    # Whatever stands in a name: no reader and no pager gets what only a terminal understands.
    assert all(each.isprintable() for each in lines)


@pytest.mark.parametrize("case", [case for case in CASES if case.is_table], ids=str)
def test_what_is_to_be_copied_stands_whole_in_a_table(case: Case, big: World) -> None:
    told = json.loads(run(case, big, "--json").stdout)
    # An array of rows, or an object of several such.
    rows = [row for part in told.values() for row in part] if isinstance(told, dict) else told
    shown = run(case, big).stdout
    wanted = {str(row[name]) for row in rows for name in _COPIED[case.command] if row.get(name)}
    assert wanted, "nothing of it was there"
    # Times of runs under way differ from one look to the next, so only what cannot change is looked for.
    missing = {value for value in wanted if value not in shown and len(value) <= 40 and value.isprintable()}
    assert missing == set()


# What of a row somebody would copy: to another command, or into a search.
_COPIED = {
    "status": ("short",),
    "history": ("id",),
    "actions": ("action",),
    "run": ("status",),
    "upcoming": ("status",),
    "stripe backlog": ("event",),
    "stripe dead-letters": ("event",),
    "stripe drift": ("customer",),
    "stripe audit": ("customer",),
    "outbox": ("state", "kind"),
    "hold list": ("id", "subject"),
    "erasures": ("job_run_id",),
    "schedules list": ("schedule", "cron"),
    "doctor": ("what",),
}


# --- what is not there


@pytest.mark.parametrize("case", _NEEDY, ids=str)
def test_a_database_that_does_not_answer(case: Case, empty: World) -> None:
    refuses(case, run(case, at_rest(case, empty), DATABASE_URL=DOWN_URL), DOWN, "accepts no connection")


@pytest.mark.parametrize("case", _NEEDY, ids=str)
def test_a_database_url_that_is_none(case: Case, empty: World) -> None:
    done = run(case, at_rest(case, empty), DATABASE_URL=f"nonsense:{PASSWORD}")
    refuses(case, done, WRONG, "DATABASE_URL is not a URL")


@pytest.mark.parametrize("case", _ASIDE, ids=str)
def test_what_can_do_without_a_database_does(case: Case, empty: World) -> None:
    assert run(case, empty, DATABASE_URL=DOWN_URL).exit_code in case.empty


@pytest.fixture(scope="module")
def bare(stack: Stack, service_template: str, empty: World) -> Iterator[str]:
    """The URL of a database with the service's tables and nothing of ours."""
    name = f"{empty.environ['GCS_BUCKET_NAME'].replace('-', '_')}_bare"
    yield create_database(stack.database_url, name, template=service_template)
    drop_database(stack.database_url, name)


@pytest.mark.parametrize("case", [case for case in _NEEDY if case.command != "migrate"], ids=str)
def test_a_database_without_our_schema(case: Case, empty: World, bare: str) -> None:
    done = run(case, at_rest(case, empty), DATABASE_URL=bare)
    refuses(case, done, WRONG, "python -m ops migrate")


@pytest.fixture(scope="module")
def stranger(empty: World) -> Iterator[str]:
    """The URL of a login that may connect, and nothing else."""
    login = f"stranger-{empty.environ['GCS_BUCKET_NAME']}"
    empty.database.script(f"CREATE ROLE \"{login}\" LOGIN PASSWORD '{PASSWORD}'")
    yield url_as(empty.database.url, login).replace(":pw@", f":{PASSWORD}@")
    empty.database.script(f'DROP OWNED BY "{login}"; DROP ROLE "{login}"')


@pytest.mark.parametrize("case", _NEEDY, ids=str)
def test_a_login_without_rights(case: Case, empty: World, stranger: str) -> None:
    refuses(case, run(case, at_rest(case, empty), DATABASE_URL=stranger), WRONG, "may not", "rights", "permission")


@pytest.mark.parametrize("case", _AT_STRIPE, ids=str)
def test_a_key_for_stripe_that_is_none(case: Case, empty: World) -> None:
    refuses(case, run(case, empty, STRIPE_SECRET_KEY=KEY), WRONG, "STRIPE_SECRET_KEY must")


def test_a_meter_that_stripe_does_not_know(empty: World) -> None:
    audit = next(case for case in CASES if case.command == "stripe audit")
    done = run(audit, empty, STRIPE_METER_PAGES="mtr_unknown")
    refuses(audit, done, WRONG, "Correct whichever of the two settings is the wrong one.")


def test_doctor_tells_of_what_is_wrong_and_goes_on(empty: World, bare: str, stranger: str) -> None:
    (doctor,) = (case for case in CASES if case.command == "doctor")
    for changes, sentence in (
        ({"DATABASE_URL": DOWN_URL}, "accepts no connection"),
        ({"DATABASE_URL": f"nonsense:{PASSWORD}"}, "DATABASE_URL is not a URL"),
        ({"DATABASE_URL": bare}, "python -m ops migrate"),
        ({"DATABASE_URL": stranger}, "may not"),
        ({"STRIPE_SECRET_KEY": KEY}, "STRIPE_SECRET_KEY"),
    ):
        done = run(doctor, empty, **changes)
        assert done.exit_code == NO
        assert sentence in " ".join(done.stdout.split())


def at_rest(case: Case, world: World) -> World:
    """The world, in which a schedule that is to be paused or resumed can be."""
    if case.command in _FIRST_AT_GOOGLE:
        job = case.line(world)[-1]
        undo = "resume" if case.command == "schedules pause" else "pause"
        run_command("schedules", undo, job, environ=world.environ)
    return world


def test_the_database_of_the_matrix_is_really_the_servers(big: World) -> None:
    database: TestDatabase = big.database
    assert database.value("SELECT count(*) FROM maintenance.runs") > MANY


@pytest.mark.parametrize(
    "arguments", [["history", "usage"], ["erasures", "--export", "csv"], ["stripe", "backlog"]], ids=" ".join
)
def test_a_reader_that_has_had_enough_is_no_error(arguments: list[str], big: World) -> None:
    """As in `python -m ops history --limit 10000 | head -1`."""
    if "--export" not in arguments:
        arguments = [*arguments, "--limit", "10000"]
    big.database.execute(
        "INSERT INTO usage_events (user_id, occurred_at, source, pages) "
        "SELECT user_id, :at, 'extraction', 1 FROM usage_events LIMIT 1000",
        at=datetime.now(UTC) - timedelta(hours=5),
    )
    big.database.execute(
        "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at) "
        "SELECT job, run_id, gen_random_uuid(), user_hash, extent, row_counts, erased_at FROM maintenance.erasures, "
        "generate_series(1, 5)"
    )
    ops = subprocess.Popen(
        [sys.executable, "-m", "ops", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **big.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ops.stdout is not None
    assert ops.stderr is not None
    first = ops.stdout.readline()
    ops.stdout.close()
    told = ops.stderr.read()
    ops.stderr.close()
    assert (ops.wait(), told) == (0, "")
    assert first.strip()
    assert "\x1b" not in first
