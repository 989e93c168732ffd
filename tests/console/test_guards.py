"""What keeps the page to its user: headers, the Host, methods, and the answers when something is wrong."""

import hashlib
from pathlib import Path
from typing import cast

import pytest

from ops import console as package
from ops.console import queries
from ops.console.app import HEADERS, create_app
from shared.clock import SystemClock
from shared.sql import Statement
from tests.conftest import Environment, MakeDatabase
from tests.console.serving import Console, served
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase
from tests.support.logins import made_logins, url_as

PAGES = ("/", "/plots", "/runs", "/dead-letters", "/drift", "/outbox", "/erasures", "/holds", "/actions")
FILES = ("/static/console.css", "/static/plots.js", "/static/icon.svg")
FOLDER = Path(package.__file__).parent


@pytest.mark.parametrize("path", [*PAGES, *FILES, "/erasures.csv", "/nothing", "/static/nothing.js", "/runs/7"])
def test_every_answer_has_the_headers(console: Console, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        answer = console.ask(path, method)
        assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
        assert answer.headers["Server"] is None
        cached = path in FILES and method != "POST"
        assert (answer.headers["Cache-Control"] == "no-store") is not cached


def test_the_policy_lets_nothing_run_but_our_own_files(console: Console) -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
    assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == ("'none'", "'none'", "'self'")
    for path in PAGES:
        page = console.page(path)
        assert " style=" not in page
        assert "<style" not in page
        assert " onclick" not in page
        assert "//cdn" not in page


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_it_takes_only_questions(console: Console, method: str) -> None:
    for path in ("/", "/runs/1", "/static/console.css", "/nothing"):
        answer = console.ask(path, method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert "only shows" in answer.text


def test_the_server_refuses_whatever_would_write(
    console: Console, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = "INSERT INTO maintenance.operator_actions (at, by, action) VALUES (now(), 'x', 'x') RETURNING id"
    monkeypatch.setitem(cast(dict[str, Statement], queries._OURS), "runs", Statement("runs", "Writes.", writing))
    answer = console.ask("/runs")
    assert (answer.status, "read-only transaction" in answer.text) == (503, True)
    assert database.value("SELECT count(*) FROM maintenance.operator_actions") == 0


def test_it_has_no_other_routes(environ: dict[str, str]) -> None:
    app = create_app(Environment(environ, SystemClock()).services, port=1)
    assert {method for rule in app.url_map.iter_rules() for method in rule.methods or ()} == {"GET", "HEAD", "OPTIONS"}


def test_another_name_of_this_machine_is_refused(console: Console) -> None:
    port = console.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert console.ask("/runs", headers={"Host": host}).status == 200
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"127.0.0.1:{port + 1}",
        f"127.0.0.1.nip.io:{port}",
    ):
        for path in ("/", "/static/console.css", "/nothing"):
            answer = console.ask(path, headers={"Host": host})
            assert (answer.status, "another host" in answer.text) == (421, True)
            assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    assert console.ask("/", headers={"X-Forwarded-Host": "evil.example"}).status == 200


def test_uplot_is_what_its_author_published() -> None:
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (FOLDER / "static/vendor/uplot-1.6.32").iterdir()
    }
    assert sums == {
        "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }


@pytest.mark.parametrize("path", PAGES)
def test_a_database_that_is_down_is_a_sentence(path: str) -> None:
    environ = {"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}
    with served(environ, SystemClock()) as console:
        answer = console.ask(path)
        assert (answer.status, "accepts no connection" in answer.text) == (503, True)
        assert "s3cret" not in answer.text + console.log.getvalue()
        assert "Traceback" not in answer.text + console.log.getvalue()
        # The first page goes on asking by itself.
        assert (answer.headers["Refresh"] is not None) is (path == "/")
    assert "doctor" in answer.text


def test_the_csv_of_a_database_that_is_down_is_no_csv() -> None:
    with served({"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}, SystemClock()) as console:
        answer = console.ask("/erasures.csv")
    assert (answer.status, answer.headers["Content-Type"]) == (503, "text/html; charset=utf-8")


def test_it_recovers_when_the_database_comes_back(
    make_database: MakeDatabase, service_template: str, database: TestDatabase, clock: ManualClock
) -> None:
    name = database.value("SELECT current_database()")
    admin = make_database(service_template)
    with served({"DATABASE_URL": database.url}, clock) as console:
        assert console.ask("/runs").status == 200
        database.engine.dispose()
        admin.script(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.script(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        assert console.ask("/runs").status in (500, 503)
        admin.script(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert console.ask("/runs").status == 200


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [({}, "DATABASE_URL is not set"), ({"DATABASE_URL": "nonsense"}, "DATABASE_URL")],
)
def test_a_setting_that_is_missing_or_wrong_is_a_sentence(environ: dict[str, str], sentence: str) -> None:
    with served(environ, SystemClock()) as console:
        for path in PAGES:
            answer = console.ask(path)
            assert (answer.status, sentence in answer.text) == (500, True)
        assert console.ask("/static/console.css").status == 200


def test_a_schema_that_is_missing_is_a_sentence(database: TestDatabase, console: Console) -> None:
    database.script("DROP SCHEMA maintenance CASCADE")
    for path in PAGES:
        answer = console.ask(path)
        assert (answer.status, "python -m ops migrate" in answer.text) == (500, True)


def test_a_login_without_rights_is_a_sentence(database: TestDatabase, clock: ManualClock) -> None:
    with made_logins(database) as logins:
        environ = {"DATABASE_URL": url_as(database.url, logins["period_reset"])}
        with served(environ, clock) as console:
            for path in PAGES:
                answer = console.ask(path)
                assert (answer.status, "may not do this" in answer.text) == (500, True)
                assert "Give it that right" in answer.text


def test_a_copy_of_another_environment_is_told(database: TestDatabase, console: Console) -> None:
    database.execute("UPDATE maintenance.identity SET instance = 'elsewhere:5432'")
    answer = console.ask("/")
    assert (answer.status, "belongs to another environment" in answer.text) == (500, True)


def test_a_slow_query_is_ended_and_becomes_a_sentence(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_PATIENCE_MS", 1000)
    slow = Statement("runs", "Takes its time.", "SELECT pg_sleep(50)")
    monkeypatch.setitem(cast(dict[str, Statement], queries._OURS), "runs", slow)
    answer = console.ask("/runs")
    assert (answer.status, "took longer than 1 s" in answer.text) == (503, True)


def test_what_others_hold_locked_becomes_a_sentence(database: TestDatabase, console: Console) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE maintenance.runs IN ACCESS EXCLUSIVE MODE")
        answer = console.ask("/runs")
    assert (answer.status, "took longer than 5 s" in answer.text) == (503, True)


def test_a_bug_is_a_sentence_with_a_number_to_look_for(database: TestDatabase, console: Console) -> None:
    database.execute(
        "INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, deadline_at, counts) "
        "VALUES ('period_reset', 'cli', 'failed', false, now(), now(), '[1]')"
    )
    answer = console.ask("/runs/1")
    assert (answer.status, "This is a bug" in answer.text, "Traceback" in answer.text) == (500, True, False)
    error_id = answer.text.partition("error id ")[2][:8]
    assert f"({error_id})" in console.log.getvalue()
