"""jobs.json and the named SQL: wrong declarations fail at import, with a sentence."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from functions.registry import JOBS, load_jobs
from shared.job import parse_job
from shared.sql import load_statements

ENTRY = json.loads(Path("functions/jobs.json").read_text())[0]


def test_the_schedules_of_the_jobs_there_are() -> None:
    schedules = {name: (job.cli, job.schedule, job.counts[0]) for name, job in JOBS.items()}
    assert schedules == {
        "period_reset": ("period", "30 0 * * *", "updated_count"),
        "stripe_reconcile": ("stripe", "15 */2 * * *", "success_count"),
        "usage_counter_cleanup": ("usage", "0 2 * * 0", "deleted_count"),
        "abandoned_cleanup": ("abandoned", "0 1 * * *", "jobs_cleaned"),
        "artifact_cleanup": ("artifact", "0 3 * * *", "artifacts_cleaned"),
        "opt_out_cleanup": ("optout", "0 4 * * 6", "jobs_cleaned"),
    }


def test_a_jobs_firings() -> None:
    job = JOBS["period_reset"]
    at = datetime(2026, 5, 15, 0, 30, tzinfo=UTC)
    assert job.next_firing(at) == at + timedelta(days=1)
    assert job.next_firing(at - timedelta(microseconds=1)) == at
    assert job.last_firing(at) == at - timedelta(days=1)
    assert job.last_firing(at + timedelta(microseconds=1)) == at


@pytest.mark.parametrize("key", sorted(ENTRY))
def test_a_missing_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"unknown or missing keys: {key}"):
        parse_job({name: value for name, value in ENTRY.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schedul": "x"}, "unknown or missing keys: schedul"),
        ({"name": "Period Reset"}, "lower-case Python identifier"),
        ({"name": 7}, "name must be a str"),
        ({"cli": "period reset"}, "short lower-case word"),
        ({"schedule": "30 0 * *"}, "schedule"),
        ({"schedule": "61 0 * * *"}, "schedule"),
        ({"schedule": "0 30 0 * * *"}, "five fields"),
        ({"timeout_seconds": 1711}, "timeout_seconds"),
        ({"timeout_seconds": "1710"}, "timeout_seconds must be a int"),
        ({"timeout_seconds": True}, "timeout_seconds must be a int"),
        ({"retries": 6}, "retries"),
        ({"memory_mib": 1}, "memory_mib"),
        ({"needs": ["postgres", "mongo"]}, "needs"),
        ({"needs": []}, "needs"),
        ({"needs": "postgres"}, "needs must be a tuple"),
        ({"counts": []}, "counts"),
        ({"counts": [1]}, "counts must be a tuple"),
        ({"gauges": ["updated_count"]}, "both counts and gauges"),
    ],
)
def test_a_wrong_entry_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_job({**ENTRY, **changes})


def test_two_jobs_with_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps([ENTRY, {**ENTRY, "cli": "other", "module": "other"}]))
    with pytest.raises(ValueError, match="two jobs have the same name"):
        load_jobs(file)


def test_statements_are_read_with_their_descriptions(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text(
        "-- A file.\n\n-- name: one\n-- What it\n-- is for.\nSELECT 1;\n\n-- name: two\n-- Two.\nSELECT\n 2;\n"
    )
    statements = load_statements(file)
    assert statements["one"].description == "What it is for."
    assert statements["two"].text == "SELECT\n 2"


@pytest.mark.parametrize("indent", ["", "    "])
def test_a_condition_is_inserted_however_far_its_line_is_indented(tmp_path: Path, indent: str) -> None:
    file = tmp_path / "queries.sql"
    file.write_text(
        f"-- name: old\n-- Old.\nage > 7\n\n-- name: clear\n-- Clear.\nDELETE FROM t WHERE\n{indent}-- insert: old\n;\n"
    )
    assert load_statements(file)["clear"].text == "DELETE FROM t WHERE\nage > 7\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-- name: one\n-- One.\nSELECT 1\n-- insert: two\n", "no statement above"),
        ("-- name: a\n-- A.\nSELECT 1\n-- insert: a;\nFROM b\n", "must be written"),
        ("-- name: a\n-- A.\nSELECT 1\n\t--insert: a\nFROM b\n", "must be written"),
        ("-- name: a\n-- A.\nSELECT 1\nFROM b WHERE -- Insert: a\n", "must be written"),
        ("SELECT 1;\n-- name: one\n-- One.\nSELECT 1;\n", "before the first"),
        ("-- name: one\nSELECT 1;\n", "needs a description"),
        ("-- name: one\n-- One.\n", "needs a description and SQL"),
        ("-- name: one\n-- One.\nSELECT 1;\n-- name: one\n-- One.\nSELECT 2;\n", "twice"),
    ],
)
def test_a_file_of_statements_that_is_wrong_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "queries.sql"
    file.write_text(text)
    with pytest.raises(ValueError, match=why):
        load_statements(file)
