"""What the pages say: on an empty database, on a month of history, and on hostile names."""

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from functions.cleanup.erasing import hash_of
from functions.registry import JOBS
from ops.console.rendering import harmless
from ops.console.words import MEANINGS, STATUSES
from tests.conftest import Environment
from tests.console.hostile import AS_TEXT, PERSON
from tests.console.serving import Console, served
from tests.console.test_guards import PAGES
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase

_RUN = (
    "INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, finished_at, deadline_at, counts, "
    "message) VALUES (:job, 'schedule', :status, :dry, :at, :at, :at, CAST(:counts AS jsonb), :message)"
)

_SEND = (
    "INSERT INTO maintenance.meter_sends (usage_event_id, user_id, identifier, occurred_at, value, state, error_code) "
    "VALUES (gen_random_uuid(), 'pat', gen_random_uuid(), :at, 1, :state, :code)"
)


def add_run(
    database: TestDatabase, at: datetime, status: str = "completed", job: str = "period_reset", dry: bool = False,
    **counts: int,
) -> None:  # fmt: skip
    database.execute(_RUN, job=job, status=status, dry=dry, at=at, counts=json.dumps(counts), message=f"It {status}")


def text_of(page: str) -> str:
    """What a reader sees of a page, or hears."""
    spoken = re.sub(r'<[^>]*aria-label="([^"]*)"[^>]*>', r" \1 ", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", spoken)).split())


def links_of(page: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(r'href="([^"]*)"', page)]


def test_an_empty_database_has_all_pages(console: Console) -> None:
    said = {path: text_of(console.page(path)) for path in PAGES}
    assert said["/"].count("It has not run yet") == len(JOBS)
    assert said["/"].count("never ran") == len(JOBS)
    assert "Nothing has run yet" in said["/runs"]
    assert "No run in this time has this figure" in said["/plots"]
    assert "There are no dead letters" in said["/dead-letters"]
    assert "do not differ anywhere" in said["/drift"]
    assert "Nothing waits to leave the bucket" in said["/outbox"]
    assert "Nothing was erased yet" in said["/erasures"]
    assert "Nothing is held" in said["/holds"]
    assert "Nothing was done by hand yet" in said["/actions"]


def test_the_first_page_says_how_each_job_is(
    console: Console, database: TestDatabase, environment: Environment
) -> None:
    database.account("ann", "free")
    assert "6 jobs are overdue" in text_of(console.page("/"))
    database.execute("UPDATE maintenance.identity SET bound_at = :now", now=NOON)
    said = text_of(console.page("/"))
    assert "All 6 jobs are on time" in said
    assert "Nothing needs a person" in said
    assert "1 due" in said
    outcome = environment.run()
    add_run(database, NOON, "running", "stripe_reconcile")
    add_run(database, NOON, "failed", "artifact_cleanup")
    database.execute(
        "INSERT INTO maintenance.controls (job, paused_until, by, why) "
        "VALUES ('opt_out_cleanup', :at, 'bob', 'a move')",
        at=NOON + timedelta(days=2),
    )
    page = console.page("/")
    said = text_of(page)
    assert "something needs a person" in said
    assert "artifact_cleanup: the newest run is failed" in said
    assert "opt_out_cleanup is paused until 2026-05-17 12:00" in said
    assert "by bob : a move" in said
    assert "Running since 2026-05-15 12:00" in said
    assert f"Run {outcome.run_id}, 2026-05-15 12:00: completed" in said
    assert f"/runs/{outcome.run_id}" in links_of(page)
    assert "Made 2026-05-15 12:00:00 UTC" in said


def test_shards_are_among_the_runs_and_say_nothing_about_their_job(console: Console, database: TestDatabase) -> None:
    add_run(database, NOON, "incomplete", "artifact_cleanup")
    add_run(database, NOON + timedelta(seconds=1), "failed", "artifact_cleanup")
    database.execute("UPDATE maintenance.runs SET shard = 3 WHERE status = 'failed'")
    said = text_of(console.page("/"))
    assert "failed" not in said
    assert "incomplete" in said
    listed = text_of(console.page("/runs?job=artifact_cleanup"))
    assert listed.count("artifact_cleanup , shard 3") == 1
    assert listed.count(", shard") == 1


def test_the_first_page_says_what_no_run_does_by_itself(console: Console, database: TestDatabase) -> None:
    database.execute("UPDATE maintenance.identity SET bound_at = :now", now=NOON)
    database.account("pat", "pro", NOON - timedelta(days=40), NOON - timedelta(days=3))
    said = text_of(console.page("/"))
    assert "All 6 jobs are on time" in said
    assert "Nothing needs a person" not in said
    assert "One paid account is more than two days past its period's end" in said
    assert "let Stripe send those again" in said
    assert "blocked" not in said
    for state, code in (("blocked", "no_customer"), ("blocked", "no_account"), ("blocked", "retry")):
        database.execute(_SEND, at=NOON - timedelta(days=1), state=state, code=code)
    page = console.page("/")
    assert "2 usage events are blocked . Is it to be billed?" in text_of(page)
    assert "<code>python -m ops stripe backlog</code> names them." in page
    assert "/runs?job=stripe_reconcile" in links_of(page)


def test_the_strip_has_the_last_thirty_runs_the_newest_last(console: Console, database: TestDatabase) -> None:
    for hours in range(33):
        add_run(database, NOON - timedelta(hours=hours), dry=hours == 1, failed_count=int(hours == 2))
    page = console.page("/")
    (strip,) = re.findall(r'<ol class="strip".*?</ol>', page, re.DOTALL)
    shown = re.findall(r'href="/runs/(\d+)" aria-label="([^"]*)"', strip)
    assert [int(number) for number, _ in shown] == list(range(30, 0, -1))
    assert [said.partition(": ")[2] for _, said in shown[-3:]] == [
        "completed, items failed",
        "completed, dry",
        "completed",
    ]
    # The state is that of the newest run that may change something.
    add_run(database, NOON, "failed", dry=True)
    assert "the newest run is failed" not in text_of(console.page("/"))
    add_run(database, NOON, "failed")
    assert "period_reset: the newest run is failed" in text_of(console.page("/"))


def test_in_report_mode_a_dry_run_is_a_run(database: TestDatabase, environ: dict[str, str], clock: ManualClock) -> None:
    add_run(database, NOON - timedelta(hours=1), "refused", dry=True)
    with served({**environ, "MAINTENANCE_MODE": "report"}, clock) as console:
        said = text_of(console.page("/"))
    assert "report mode: runs only count" in said
    assert "period_reset: the newest run is refused" in said


def test_the_first_page_loads_itself_again_unless_told_not_to(console: Console) -> None:
    assert console.ask("/").headers["Refresh"] == "30"
    quiet = console.ask("/?refresh=off")
    assert quiet.headers["Refresh"] is None
    assert "/?refresh=off" in links_of(console.page("/"))
    assert all(console.ask(path).headers["Refresh"] is None for path in PAGES[1:])


def test_runs_are_filtered_and_paged(console: Console, database: TestDatabase) -> None:
    for minutes in range(120):
        # Two a moment: pages must not lose one of them.
        add_run(database, NOON - timedelta(minutes=minutes // 2), "failed" if minutes % 2 else "completed")
    add_run(database, NOON - timedelta(days=1), job="stripe_reconcile")
    seen, path = [], "/runs"
    while path:
        page = console.page(path)
        seen += [int(number) for number in re.findall(r'<a href="/runs/(\d+)">', page)]
        older = re.findall(r'rel="next" href="([^"]*)"', page)
        path = html.unescape(older[0]) if older else ""
    assert len(seen) == len(set(seen)) == 121
    assert seen == [
        row["id"] for row in database.rows("SELECT id FROM maintenance.runs ORDER BY started_at DESC, id DESC")
    ]
    failed = console.page("/runs?job=period&status=failed")
    assert re.findall(r"<option selected>(\w+)", failed) == ["period_reset", "failed"]
    assert len(re.findall(r'<a href="/runs/(\d+)">', failed)) == 50
    assert "completed" not in re.sub(r"<option.*?</option>", "", failed)
    (older,) = re.findall(r'rel="next" href="([^"]*)"', failed)
    assert "job=period_reset&status=failed&before=" in html.unescape(older)
    assert "There is no such run" in console.page("/runs?job=usage")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/runs?job=nothing", "There is no job 'nothing'"),
        ("/runs?status=good", "There is no status 'good'"),
        ("/runs?before=x", "is no number of a row"),
        ("/runs?before=99999999999999999999", "is no number of a row"),
        ("/erasures?below=-1", "is no number of a row"),
        ("/plots?days=8", "Plots are made over 7, 30, 90 days"),
        ("/plots?days=", "Plots are made over 7, 30, 90 days"),
        ("/runs/12345", "There is no run 12345"),
        ("/runs/99999999999999999999", "There is no run 99999999999999999999"),
        ("/runs/x", "There is no such page"),
        ("/%00", "There is no such page"),
    ],
)
def test_what_is_not_there_is_told(console: Console, path: str, sentence: str) -> None:
    answer = console.ask(path)
    assert (answer.status, sentence in text_of(answer.text)) == (404, True)


@pytest.mark.parametrize("status", STATUSES)
def test_a_run_says_what_its_status_means_and_what_to_do(console: Console, database: TestDatabase, status: str) -> None:
    add_run(database, NOON, status, updated_count=1234, due_count=5, report_mode=1, something_else=7)
    said = text_of(console.page("/runs/1"))
    assert f"What it means. {MEANINGS[status].means}" in said
    assert f"What to do. {MEANINGS[status].do.replace('JOB', 'period').replace('`', '')}" in said.replace(" .", ".")
    assert f"It {status}" in said
    assert "What it did updated_count 1,234 What waited at its end due_count 5 Beside that something_else 7" in said
    assert "in report mode" in said


def test_a_completed_run_in_which_items_failed_is_no_plain_success(console: Console, database: TestDatabase) -> None:
    add_run(database, NOON, failed_count=3)
    assert MEANINGS["partly"].means in text_of(console.page("/runs/1"))


def test_a_runs_page_links_to_its_log_lines(with_history: Console, console: Console, database: TestDatabase) -> None:
    (link,) = [link for link in links_of(with_history.page("/runs/7")) if "console.cloud.google.com" in link]
    assert "jsonPayload.run_id=7" in unquote(link)
    assert link.endswith("?project=bytereview-prod")
    between = re.findall(r"timeRange=([^/]+)/([^?]+)\?", unquote(link))
    first, last = (datetime.fromisoformat(each) for each in between[0])
    assert timedelta(minutes=4) <= last - first < timedelta(hours=1)
    add_run(database, NOON)
    page = console.page("/runs/1")
    assert not [link for link in links_of(page) if link.startswith("http")]
    assert "jsonPayload.run_id=1" in page


def test_a_month_of_history_is_told(with_history: Console, month: TestDatabase) -> None:
    def ids(sql: str) -> set[str]:
        return {str(row["id"]) for row in month.rows(sql)}

    dead = ids("SELECT usage_event_id AS id FROM maintenance.meter_sends WHERE state IN ('rejected', 'expired')")
    assert dead
    assert all(each in with_history.page("/dead-letters") for each in dead)
    drift = ids("SELECT stripe_customer_id AS id FROM maintenance.drift WHERE resolved_at IS NULL")
    resolved = ids("SELECT stripe_customer_id AS id FROM maintenance.drift WHERE resolved_at IS NOT NULL") - drift
    assert drift
    assert resolved
    assert all(each in with_history.page("/drift") for each in drift)
    assert not any(each in with_history.page("/drift") for each in resolved)
    assert all(each in with_history.page("/drift?all=yes") for each in drift | resolved)
    runs = with_history.page("/erasures")
    assert set(re.findall(r"<code>([0-9a-f-]{36})</code>", runs)) <= ids(
        "SELECT job_run_id AS id FROM maintenance.erasures"
    )
    names = ids("SELECT object_name AS id FROM maintenance.object_deletions WHERE done_at IS NULL")
    outbox = with_history.page("/outbox")
    assert names
    assert not any(name in outbox for name in names)
    held = ids("SELECT subject AS id FROM maintenance.holds WHERE until IS NULL")
    assert held
    assert all(each in with_history.page("/holds") for each in held)
    for row in month.rows("SELECT by, action FROM maintenance.operator_actions"):
        assert row["action"] in with_history.page("/actions")


def test_the_plots_say_in_numbers_words_and_a_table_what_the_runs_counted(
    console: Console, database: TestDatabase
) -> None:
    for days in range(3):
        add_run(database, NOON - timedelta(days=days), updated_count=10 * days, due_count=days)
    add_run(database, NOON, job="abandoned_cleanup", bytes_deleted=1500, open_objects=4)
    add_run(database, NOON, job="artifact_cleanup", bytes_deleted=500, open_objects=6)
    add_run(database, NOON, job="stripe_reconcile", waiting_count=8, oldest_waiting_minutes=90)
    # None of these is counted: it changed nothing, has not ended, or is too old.
    add_run(database, NOON, dry=True, updated_count=1000)
    add_run(database, NOON - timedelta(days=31), updated_count=1000)
    page = console.page("/plots")
    data = {key: json.loads(text) for key, text in re.findall(r'id="data-([\w-]+)">(.*?)</script>', page)}
    assert data["moved"]["values"] == [20, 10, 0]
    assert data["moved"]["at"] == [int((NOON - timedelta(days=days)).timestamp()) for days in (2, 1, 0)]
    assert (data["due"]["values"], data["bytes"]["values"]) == ([2, 1, 0], [2000])
    # What is open is the same for all cleanups, and does not add up.
    assert data["outbox"]["values"] == [6]
    assert (data["unreported"]["values"], data["oldest"]["values"]) == ([8], [5400])
    said = text_of(page)
    assert "30 in all. The most: 20, 13 May 12:00." in said
    assert "2026-05-13 12:00 20 2026-05-14 12:00 10 2026-05-15 12:00 0" in said
    assert "Newest: 1 h 30 min." in said
    assert "2.0 kB in all" in said
    only = console.page("/plots?job=period&days=90")
    assert set(re.findall(r'id="data-([\w-]+)">', only)) == {"moved", "due", "took-period", "did-period"}
    assert re.findall(r'<option value="90" selected>|<option selected>period_reset', only) != []


def test_one_user_is_found_in_the_register_by_the_hash_alone(console: Console, database: TestDatabase) -> None:
    key = bytes(database.value("SELECT erasure_key FROM maintenance.identity"))
    for user in ("ann", "bob"):
        for _ in range(60):
            database.execute(
                "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at) "
                "VALUES (:user || '-row', 1, gen_random_uuid(), decode(:hash, 'hex'), 'run', '{\"job_runs\": 2}', :at)",
                user=user,
                hash=hash_of(key, user),
                at=NOON,
            )
    runs = {
        row["id"] for row in database.rows("SELECT job_run_id::text AS id FROM maintenance.erasures WHERE job ~ 'ann'")
    }
    found, path = set(), "/erasures?user=ann"
    while path:
        page = console.page(path)
        found |= set(re.findall(r"<code>([0-9a-f-]{36})</code>", page))
        older = re.findall(r'rel="next" href="([^"]*)"', page)
        path = html.unescape(older[0]) if older else ""
    assert found == runs
    assert "Nothing of this user was erased" in console.page("/erasures?user=carl")
    answer = console.ask("/erasures.csv?user=ann")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="erasures.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {row["job_run_id"] for row in rows} == runs
    assert len(list(csv.DictReader(io.StringIO(console.page("/erasures.csv"))))) == 120


def test_the_csv_has_nothing_that_a_spreadsheet_would_run(console: Console, database: TestDatabase) -> None:
    database.execute(
        "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at) "
        "VALUES ('=HYPERLINK(1)', 1, gen_random_uuid(), '\\x00', 'run', '{}', :at)",
        at=NOON,
    )
    (row,) = csv.DictReader(io.StringIO(console.page("/erasures.csv")))
    assert row["job"] == "'=HYPERLINK(1)"


@pytest.fixture
def on_hostile(hostile: TestDatabase, clock: ManualClock) -> Iterator[Console]:
    with served({"DATABASE_URL": hostile.url}, clock) as console:
        yield console


class Elements(HTMLParser):
    """The elements of a page, each with its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_stay_text(on_hostile: Console, hostile: TestDatabase) -> None:
    runs = [f"/runs/{row['id']}" for row in hostile.rows("SELECT id FROM maintenance.runs")]
    told = {"/", "/runs", "/dead-letters", "/drift", "/outbox", "/holds", "/actions", *runs}
    for path in (*PAGES, *runs):
        page = on_hostile.page(path)
        elements = Elements(page)
        assert (AS_TEXT in elements.text) is (path in told), path
        assert not {"img", "iframe", "style", "object", "base"} & {tag for tag, _ in elements.found}
        for tag, attributes in elements.found:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert all(attributes[name][:1] in "/#" for name in ("href", "src", "action") if name in attributes)
            assert tag != "script" or attributes.get("src", "").startswith("/static/") or attributes["type"] != ""
            assert AS_TEXT not in attributes.get("href", "")
        assert not {"\x1b", "\u202e", "\x07"} & set(page)
        assert PERSON not in page
    assert "[e-mail address]" in on_hostile.page("/holds")
    assert "secret-name-of-an-object" not in on_hostile.page("/outbox")


def test_what_is_asked_for_stays_text(console: Console) -> None:
    asked = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"
    for path in (
        f"/runs?job={asked}",
        f"/runs?status={asked}",
        f"/erasures?user={asked}",
        f"/{asked}",
        f"/plots?days={asked}",
    ):
        text = console.ask(path).text
        assert "<script>" not in text


def test_what_a_login_is_called_is_no_address_of_a_person() -> None:
    said = "The login 'fn-period@bytereview-prod.iam' and x@p.iam.gserviceaccount.com, but Ann <ann@example.com>."
    assert harmless(said, str) == (
        "The login 'fn-period@bytereview-prod.iam' and x@p.iam.gserviceaccount.com, but Ann <[e-mail address]>."
    )
    assert harmless("s3cret here", lambda text: text.replace("s3cret", "[redacted]")) == "[redacted] here"
