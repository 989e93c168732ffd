"""The demo shows what it says, `make dev` keeps a usable stack up, and neither leaves anything behind."""

from __future__ import annotations

import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import urllib3
from sqlalchemy import text

from devstack import guardian
from devstack.databases import create_database
from devstack.serving import REPOSITORY, Served, ask, fire
from devstack.stack import Stack
from functions.registry import JOBS
from ops.engine import make_engine
from shared.database_url import database_target
from tests.support.owners import is_alive
from tests.support.programs import PATIENCE_S, Start


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with Stack({}, postgres_settings={"fsync": "off"}) as stack:
        yield stack


def databases(url: str) -> set[str]:
    engine = make_engine(database_target({"DATABASE_URL": url}), {"TimeZone": "UTC"})
    try:
        with engine.connect() as connection:
            return set(connection.scalars(text("SELECT datname FROM pg_database")))
    finally:
        engine.dispose()


def relations(url: str) -> int:
    engine = make_engine(database_target({"DATABASE_URL": url}), {"TimeZone": "UTC"})
    try:
        with engine.connect() as connection:
            count = connection.scalar(text("SELECT count(*) FROM pg_class WHERE oid >= 16384"))
            assert isinstance(count, int)
            return count
    finally:
        engine.dispose()


def bucket_names(url: str) -> list[str]:
    listed = urllib3.request("GET", f"{url}/storage/v1/b?project=devstack", retries=False).json()
    return [bucket["name"] for bucket in listed.get("items") or ()]


# --- the demo


def test_the_demo_shows_each_job_and_its_guards(start: Start, tmp_path: Path) -> None:
    demo = start("devstack.demo")
    demo.read_until()
    assert demo.process.wait(PATIENCE_S) == 0, demo.said
    for fact in (
        "200 healthy: postgres ok, redis ok",
        "X-CloudScheduler-ScheduleTime: ",
        '"status": "completed"',
        '"updated_count": 8000',
        '"counters_created": 7700',
        "200 replayed",
        '{"dry_run": true}',
        "Dry run: period reset would move 0 free users",
        "Dry run: period reset would move 10000 free users",
        "6,000 paid accounts byte for byte as before",
        "stripe_reconcile: waiting_count 360, waiting_pages 3,380,",
        "no POST reached Stripe",
        '"in_doubt_count": 6',
        '"blocked_count": 24',
        "173 x 200, 31 x 400 (exists already), 3 x 429, 8 x 500, 22 x no answer",
        "no request to Stripe",
        "6 sends of 6 events: 3 x 200, 3 x 400",
        "Nothing is in doubt any more",
        "Equal for each of 96 customers",
        "228 events at Stripe, none of them twice",
        "24 events with 236 pages (no_customer)",
        "Usage counter cleanup deleted 1110 usage counters",
        "Abandoned cleanup erased 12 drafts",
        "12 records of erasures, complete",
        "Dry run: opt-out cleanup would erase 16 runs",
        "jobs_cleaned 16, files_rehomed 4, waiting_on_draft 4, held 4, and not a byte has changed",
        "Opt-out cleanup erased 16 runs",
        "24 usage events of erased tasks stay",
        "2 with 8,192 bytes, gone at ",
        "500 refused",
        "would_delete 60, allowed 20. Not a byte has changed",
        "Artifact cleanup deleted 20 objects",
        "76 of 176 objects",
        "nothing is left",
    ):
        assert fact in " ".join(demo.said.split())
    assert re.search(r"free, months behind +2,000 +0 → 2,000 +2,000 → 0 +0 → 2,000", demo.said)
    assert re.search(r"all +8,000 → 0 +2,300 → 10,000", demo.said)
    assert re.search(r"all +360 +222 +108 +24 +6\b", demo.said)
    assert re.search(r"free, then upgraded +483 +247 +247 +0 → 247", demo.said)
    assert re.search(r"all +3,380 +2,291 +2,291 +472 → 2,291", demo.said)
    assert re.search(r"more than 13 months ago +1,050 → 0 ", demo.said)
    assert re.search(r"current period, 15 months +30 ", demo.said)
    assert re.search(r"idle, beside a finished run +8 → 4 +8 → 4 ", demo.said)
    assert re.search(r"an automation's, 100 days +4 +4 ", demo.said)
    assert re.search(r"an automation's latest +4 +8 → 0 ", demo.said)
    assert re.search(r"shared with an appended run +8 → 4 +8 → 4 ", demo.said)
    assert re.search(r"its file needed by a draft +8 +4 ", demo.said)
    assert re.search(r"unpacked ZIP +4 → 0 +4 ", demo.said)
    assert re.search(r"of a deleted job, 15 days +8 → 0 +0 ", demo.said)
    assert re.search(r"of a deleted job, 10 days +4 +0 ", demo.said)
    ((gone, until),) = re.findall(r"gone at (\S+)\s+copies +in the bucket until (\S+) \(soft_delete\)", demo.said)
    assert datetime.fromisoformat(until) - datetime.fromisoformat(gone) == timedelta(days=7)
    assert "sk_test_" not in demo.said
    assert max(map(len, demo.said.splitlines())) <= 80
    assert demo.left() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "moments",
    [
        ("Starting PostgreSQL",),
        pytest.param(("ops migrate …",), marks=pytest.mark.slow),
        ("Starting functions-framework",),
        pytest.param(("Starting functions-framework --target=stripe",), marks=pytest.mark.slow),
        pytest.param(("with troubles on command", "The job runs"), marks=pytest.mark.slow),
    ],
    ids=lambda moments: moments[-1],
)
def test_interrupted_at_any_moment_the_demo_leaves_nothing(
    start: Start, tmp_path: Path, moments: tuple[str, ...]
) -> None:
    demo = start("devstack.demo")
    for moment in moments:
        assert demo.read_until(moment), demo.said
    assert demo.end(signal.SIGINT) == 130, demo.said
    assert "Stopped. Nothing is left running." in demo.said
    assert "Traceback" not in demo.said
    assert demo.left() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "moment",
    [
        "Seeding runs, files",
        pytest.param("Starting functions-framework --target=abandoned", marks=pytest.mark.slow),
        pytest.param("Deletes unpacked ZIPs", marks=pytest.mark.slow),
    ],
)
def test_interrupted_at_any_moment_the_cleanups_leave_nothing(start: Start, tmp_path: Path, moment: str) -> None:
    demo = start("devstack.demo", "cleanups")
    assert demo.read_until(moment), demo.said
    assert "fake-gcs-server" in demo.programs()
    assert demo.end(signal.SIGINT) == 130, demo.said
    assert "Traceback" not in demo.said
    assert demo.left() == []
    assert list(tmp_path.iterdir()) == []


def test_given_a_storage_server_the_demo_leaves_no_bucket_on_it(start: Start, servers: Stack) -> None:
    given = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
    demo = start("devstack.demo", "cleanups", STORAGE_EMULATOR_HOST=servers.gcs_url, **given)
    assert demo.read_until("bucket of objects ("), demo.said
    # While it is looked at, the demo does not come to its end.
    demo.process.send_signal(signal.SIGSTOP)
    assert any(bucket.startswith("maintenance-demo-") for bucket in bucket_names(servers.gcs_url))
    demo.process.send_signal(signal.SIGINT)
    assert demo.end(signal.SIGCONT) == 130, demo.said
    assert "fake-gcs-server" not in demo.programs()
    assert bucket_names(servers.gcs_url) == []


def test_a_part_of_the_demo_that_does_not_exist_is_told_in_a_sentence(start: Start) -> None:
    demo = start("devstack.demo", "cleanup")
    demo.read_until()
    assert demo.process.wait(PATIENCE_S) == 1
    assert "The demo's parts are periods, usage, cleanups." in demo.said


@pytest.mark.parametrize("moment", ["1. Health", pytest.param("with troubles on command", marks=pytest.mark.slow)])
def test_killed_the_demo_leaves_no_process(start: Start, moment: str) -> None:
    demo = start("devstack.demo")
    assert demo.read_until(moment), demo.said
    demo.look()
    assert "functions-framework" in demo.programs()
    assert "fake-gcs-server" in demo.programs()
    demo.end(signal.SIGKILL)
    assert guardian.wait_for(lambda: demo.left() == [], PATIENCE_S), demo.left()


@pytest.mark.parametrize(
    "parts", [("periods",), pytest.param((), marks=pytest.mark.slow)], ids=lambda parts: " ".join(parts) or "all"
)
def test_the_demo_uses_given_servers_and_leaves_the_named_database_alone(
    start: Start, servers: Stack, parts: tuple[str, ...]
) -> None:
    url = create_database(servers.database_url, f"named_{secrets.token_hex(4)}")
    before, relations_before = databases(url), relations(url)
    demo = start("devstack.demo", *parts, DATABASE_URL=url, REDIS_URL=servers.redis_url)
    assert demo.read_until("2. Before"), demo.said
    assert [name for name in databases(url) - before if not name.startswith("maintenance_demo_")] == []
    assert databases(url) > before
    demo.read_until()
    assert demo.process.wait(PATIENCE_S) == 0, demo.said
    assert "postgres" not in demo.programs()
    assert databases(url) == before
    assert relations(url) == relations_before
    assert demo.left() == []


@pytest.mark.slow
def test_interrupted_the_demo_drops_its_database(start: Start, servers: Stack) -> None:
    before = databases(servers.database_url)
    demo = start("devstack.demo", DATABASE_URL=servers.database_url, REDIS_URL=servers.redis_url)
    assert demo.read_until("2. Before"), demo.said
    assert demo.end(signal.SIGINT) == 130
    assert databases(servers.database_url) == before


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://somewhere/db", "DATABASE_URL"),
        (f"postgresql://someone:{'hidden-word'}@127.0.0.1:1/db", "127.0.0.1"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_in_a_sentence(start: Start, url: str, told: str) -> None:
    demo = start("devstack.demo", DATABASE_URL=url)
    demo.read_until()
    assert demo.process.wait(PATIENCE_S) == 1
    assert "Failed: " in demo.said
    assert told in demo.said
    assert "Traceback" not in demo.said
    assert "hidden-word" not in demo.said
    assert demo.left() == []


# --- make dev


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_dev_prints_settings_that_work_until_it_is_ended(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    dev = start("devstack")
    assert dev.read_until("Ctrl-C stops"), dev.said
    exports = [shlex.split(line)[1] for line in dev.said.splitlines() if line.startswith("export ")]
    settings = dict(export.split("=", 1) for export in exports)
    stripe = {f"STRIPE_{name}" for name in ("SECRET_KEY", "METER_PAGES", "API_BASE", "TAKEOVER_AT")}
    assert set(settings) >= {"DATABASE_URL", "REDIS_URL", "GCS_BUCKET_NAME", "STORAGE_EMULATOR_HOST", *stripe}
    engine = make_engine(database_target(settings), {"TimeZone": "UTC"})
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()
    slot = JOBS["period_reset"].last_firing(datetime.now(UTC))
    with Served("period_reset", settings, log=tmp_path / "log" / "function.log") as served:
        assert ask(served.url).fields["status"] == "healthy"
        answer = fire(served.url, job="period_reset", slot=slot)
    assert (answer.status, answer.fields["updated_count"]) == (200, 2000)
    with Served("stripe_reconcile", settings, log=tmp_path / "log" / "function.log") as served:
        answer = fire(served.url, job="stripe_reconcile", slot=None)
    assert (answer.status, answer.fields["success"]) == (200, True), answer.fields
    assert [answer.fields[f"{name}_count"] for name in ("success", "waiting", "in_doubt", "blocked")] == [38, 0, 0, 4]
    cleaned = {"usage_counter_cleanup": 1110, "abandoned_cleanup": 12, "opt_out_cleanup": 16, "artifact_cleanup": 20}
    for job, count in cleaned.items():
        with Served(job, settings, log=tmp_path / "log" / "function.log") as served:
            answer = fire(served.url, job=job, slot=JOBS[job].last_firing(datetime.now(UTC)))
        assert (answer.status, answer.fields[JOBS[job].counts[0]]) == (200, count), answer.fields
    assert dev.end(number) == 0
    assert dev.left() == []


# --- serving


@pytest.fixture
def nowhere() -> dict[str, str]:
    """Settings under which nothing answers."""
    return {"DATABASE_URL": "postgresql://someone@127.0.0.1:1/db", "REDIS_URL": "redis://127.0.0.1:1/0"}


def test_a_firing_looks_as_cloud_schedulers(tmp_path: Path) -> None:
    source = tmp_path / "mirror.py"
    source.write_text(
        "import functions.registry\n"
        "def mirror(request):\n"
        "    return {'method': request.method, 'body': request.get_data(as_text=True), **dict(request.headers)}\n"
    )
    slot = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)
    with Served("mirror", {}, log=tmp_path / "log", source=source) as served:
        seen = fire(served.url, job="period_reset", slot=slot, body=b"{}").fields
        manual = fire(served.url, job="period_reset", slot=None).fields
    assert (seen["method"], seen["body"], seen["User-Agent"]) == ("POST", "{}", "Google-Cloud-Scheduler")
    found = {name.lower(): value for name, value in seen.items()}
    assert found["x-cloudscheduler"] == "true"
    assert found["x-cloudscheduler-jobname"] == "period-reset"
    assert found["x-cloudscheduler-scheduletime"] == "2026-01-01T00:30:00Z"
    assert "x-cloudscheduler-scheduletime" not in {name.lower() for name in manual}


def test_what_the_function_logs_can_be_read(tmp_path: Path, nowhere: dict[str, str]) -> None:
    log = tmp_path / "log"
    log.write_text('{"message": "from before"}\n')
    with Served("period_reset", nowhere, log=log) as served:
        status, fields, headers = fire(served.url, job="period_reset", slot=None)
        assert (status, fields["status"], headers["retry-after"]) == (503, "unavailable", "30")
        lines = served.log_lines()
    assert lines[-1]["event"] == "answer"
    assert "from before" not in [line["message"] for line in lines]


def test_a_dead_worker_is_replaced_and_a_stopped_one_is_killed(tmp_path: Path, nowhere: dict[str, str]) -> None:
    with Served("period_reset", nowhere, log=tmp_path / "log") as served:
        first = psutil.Process(served.worker_pid())
        first.kill()
        assert guardian.wait_for(lambda: served.worker_pid() != first.pid, PATIENCE_S)
        second = psutil.Process(served.worker_pid())
        second.send_signal(signal.SIGSTOP)
        served.stop()
        assert not is_alive(second)
        served.stop()
    with pytest.raises(OSError, match="refused"):
        ask(served.url)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(guardian.StartError, match="expected to contain a function named 'nothing'"),
        Served("nothing", {}, log=tmp_path / "log"),
    ):
        pass


def test_a_taken_port_is_given_up(tmp_path: Path, nowhere: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Served("period_reset", nowhere, log=tmp_path / "first") as first:
        taken = int(first.url.rsplit(":", 1)[1])
        ports = iter([taken, guardian.free_port()])
        monkeypatch.setattr(guardian, "free_port", lambda: next(ports))
        with Served("period_reset", nowhere, log=tmp_path / "second") as second:
            assert second.url != first.url
            assert ask(second.url).status == 503
        assert ask(first.url).status == 503


def test_a_killed_owner_leaves_no_server(tmp_path: Path) -> None:
    owner = (
        "import sys, time\nfrom pathlib import Path\nfrom devstack.serving import Served\n"
        "with Served('period_reset', {}, log=Path(sys.argv[1])) as served:\n"
        "    sys.stdout.write(f'{served.pid} {served.worker_pid()}\\n')\n    sys.stdout.flush()\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", owner, str(tmp_path / "log")],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        left = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert [is_alive(each) for each in left] == [True, True]
        process.kill()
    assert guardian.wait_for(lambda: not any(map(is_alive, left)), PATIENCE_S)
