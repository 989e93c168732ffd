"""What keeps the page to its user: headers, the Host, methods, and the answers when something is wrong."""

import hashlib
import http.client
import io
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from ops import console as package
from ops import erasure_register
from ops.console import queries
from ops.console.app import HEADERS, HOST, create_app
from ops.console.serving import Server
from shared.clock import SystemClock
from shared.errors import LockLost
from shared.services import Services
from shared.sql import Statement
from tests.conftest import Environment, MakeDatabase
from tests.console.serving import Console, free_port, served
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase
from tests.support.logins import made_logins, url_as
from tests.support.serving import RawAnswer
from tests.support.wait import until

PAGES = ("/", "/plots", "/runs", "/dead-letters", "/drift", "/outbox", "/erasures", "/holds", "/actions")
FILES = ("/static/console.css", "/static/plots.js", "/static/icon.svg")
FOLDER = Path(package.__file__).parent
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name = 'bytereview-maintenance'"
)


@pytest.mark.parametrize("path", [*PAGES, *FILES, "/erasures.csv", "/nothing", "/static/nothing.js", "/runs/7"])
def test_every_answer_has_the_headers(console: Console, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        answer = console.ask(path, method)
        assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
        assert answer.headers["Server"] is None
        cached = path in FILES and method != "POST"
        assert (answer.headers["Cache-Control"] == "no-store") is not cached


def test_the_policy_lets_nothing_run_but_our_own_files(console: Console) -> None:
    assert HEADERS["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
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


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense", ""])
def test_another_page_in_the_browser_cannot_make_it_ask_the_database(console: Console, site: str) -> None:
    def asked(path: str, mode: str | None, dest: str | None) -> RawAnswer:
        sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        return console.ask(path, headers={name: value for name, value in sent.items() if value is not None})

    for mode, dest in (
        ("no-cors", "image"), ("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "document"),
        (None, None), ("navigate", None),
    ):  # fmt: skip
        for path in ("/", "/erasures.csv", "/static/icon.svg", "/nothing"):
            answer = asked(path, mode, dest)
            assert (answer.status, "Another page asked" in answer.text) == (403, True)
    # Somebody follows a link.
    assert asked("/runs", "navigate", "document").status == 200


def test_its_own_pages_and_who_is_no_browser_are_answered(console: Console) -> None:
    for site in ("same-origin", "none"):
        assert console.ask("/runs", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}).status == 200
    assert console.ask("/runs").status == 200


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
    database.execute(
        "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at) "
        "VALUES ('a-job', 1, '11111111-2222-3333-4444-555555555555', '\\x00', 'run', '{}', now())"
    )
    for path in (*PAGES, "/runs/1", "/erasures?user=ann", "/erasures.csv", "/erasures.csv?user=ann"):
        answer = console.ask(path)
        assert (answer.status, "belongs to another environment" in answer.text) == (500, True), path
        assert "11111111" not in answer.text


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


@pytest.mark.parametrize("path", ["/erasures", "/erasures?user=ann", "/erasures.csv", "/erasures.csv?user=ann"])
@pytest.mark.parametrize("table", ["erasures", "identity"])
def test_a_register_that_others_hold_locked_becomes_a_sentence(
    database: TestDatabase, console: Console, path: str, table: str
) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql(f"LOCK TABLE maintenance.{table} IN ACCESS EXCLUSIVE MODE")
        answer = console.ask(path)
    assert (answer.status, "took longer than 5 s" in answer.text) == (503, True)
    assert "load this page again" in answer.text


@pytest.mark.parametrize("path", ["/erasures", "/erasures.csv"])
def test_a_slow_register_is_ended_too(console: Console, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(queries, "_PATIENCE_MS", 1000)
    slow = Statement("register", "Takes its time.", "SELECT pg_sleep(50)")
    monkeypatch.setitem(cast(dict[str, Statement], erasure_register._STATEMENTS), "register", slow)
    answer = console.ask(path)
    assert (answer.status, "took longer than 1 s" in answer.text) == (503, True)


def test_a_lock_that_is_lost_where_no_page_foresees_it_is_no_bug(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise LockLost("canceling statement due to lock timeout (SQLSTATE 55P03)")

    monkeypatch.setattr(queries, "lines_of", busy)
    answer = console.ask("/")
    assert (answer.status, "The database is busy" in answer.text) == (503, True)
    assert "load this page again" in answer.text
    assert "report this one" not in answer.text


@pytest.mark.parametrize(
    "stays",
    [pytest.param(True, id="who asked waits"), pytest.param(False, id="who asked is gone", marks=pytest.mark.slow)],
)
def test_the_end_waits_for_what_was_asked(
    database: TestDatabase, environ: dict[str, str], clock: ManualClock, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    # Longer than waitress waits.
    slow = Statement("runs", "Takes its time.", "SELECT pg_sleep(6.5)")
    monkeypatch.setattr(queries, "_PATIENCE_MS", 6000)
    monkeypatch.setitem(cast(dict[str, Statement], queries._OURS), "runs", slow)
    with served(environ, clock) as console:
        connection = http.client.HTTPConnection(HOST, console.port, timeout=60)
        connection.request("GET", "/runs")
        until(
            lambda: database.value(f"{_OTHERS} AND query ~ '^SELECT pg_sleep' AND state = 'active'") == 1,
            "the page is being made",
        )
        if not stays:
            connection.close()
    assert database.value(f"{_OTHERS} AND state = 'active'") == 0
    until(lambda: database.value(_OTHERS) == 0, "no connection is left")
    if stays:
        answer = connection.getresponse()
        assert (answer.status, "took longer than 6 s" in answer.read().decode()) == (503, True)
        connection.close()


def test_to_stop_what_has_ended_does_nothing(environ: dict[str, str], clock: ManualClock) -> None:
    """As where a signal comes while it ends. What it was woken through is closed, and may be another's file by now."""
    services, port = Services(environ, clock, io.StringIO()), free_port()
    server = Server(create_app(services, port=port), port)
    serving = threading.Thread(target=server.serve)
    serving.start()
    server.stop()
    serving.join()
    with ExitStack() as stack:
        reader, writer = os.pipe()
        for each in (reader, writer):
            stack.callback(os.close, each)
        os.set_blocking(reader, False)
        server.stop()
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    services.close()


def test_a_bug_is_a_sentence_with_a_number_to_look_for(database: TestDatabase, console: Console) -> None:
    database.execute(
        "INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, deadline_at, counts) "
        "VALUES ('period_reset', 'cli', 'failed', false, now(), now(), '[1]')"
    )
    answer = console.ask("/runs/1")
    assert (answer.status, "This is a bug" in answer.text, "Traceback" in answer.text) == (500, True, False)
    error_id = answer.text.partition("error id ")[2][:8]
    assert f"({error_id})" in console.log.getvalue()
