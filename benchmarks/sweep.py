"""Sweeping a bucket: how much memory a listing of a million objects takes, and what short deadlines cost.

Run as `python -m benchmarks.sweep`, with the settings of a function, it runs artifact_cleanup, attempt after attempt
until it completes, and says as JSON how many attempts that took, how long, its counts, and its memory at the start and
at its peak.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import peak_mib, resident_mib, run_module
from benchmarks.figures import Figure
from benchmarks.storage_standin import ListedBucket
from benchmarks.timed import TimedServices, run_timed
from devstack.gcs_listing import Objects
from functions.registry import JOBS
from shared.clock import SystemClock
from shared.outcome import Status

_JOB = "artifact_cleanup"
_BUCKET = "bench-sweep"
# Of so many objects the database does not name one.
_ONE_UNNAMED_OF = 200
_ROWS_A_STATEMENT = 10_000
_ALLOWED_MIB = 100
# Two seconds for an attempt: a run stops a minute before its timeout.
_SHORT_TIMEOUT = "62"
_MOST_ATTEMPTS = 1_000
_ADD_FILES = """
INSERT INTO source_files
    (job_run_id, original_filename, original_path, gcs_object_name, file_type, file_size_bytes, status, source_type)
SELECT gen_random_uuid(), 'invoice.pdf', 'invoice.pdf', name, 'application/pdf', 10000, 'uploaded', 'upload'
FROM unnest(CAST(:names AS text[])) AS name
"""
_OUTBOX = "SELECT count(DISTINCT object_name) FROM maintenance.object_deletions WHERE state = 'deleted'"


def measure_sweep(arena: Arena, objects: int, console: Console) -> list[Figure]:
    """Sweep so many objects in one go; then a tenth of them in one go and through short deadlines."""
    whole = _sweep(arena, objects, {"one go": {}}, console)["one go"]
    few = objects // 10
    ways = _sweep(arena, few, {"one go": {}, "short deadlines": {"JOB_TIMEOUT_SECONDS": _SHORT_TIMEOUT}}, console)
    once, often = ways["one go"], ways["short deadlines"]
    part = f"Sweeping {objects:,} objects, {objects // _ONE_UNNAMED_OF:,} of them without a row"
    short = f"Sweeping {few:,} objects with 2 s for an attempt"
    return [
        Figure(part, "memory over the start", whole["peak_mib"] - whole["start_mib"], "MiB", _ALLOWED_MIB),
        Figure(part, "… for a tenth of them", once["peak_mib"] - once["start_mib"], "MiB"),
        Figure(part, "peak memory", whole["peak_mib"], "MiB"),
        Figure(part, "time", whole["seconds"], "s"),
        Figure(part, "longest writing transaction", whole["longest_writing"], "s", digits=2),
        Figure(part, "longest reading transaction", whole["longest_reading"], "s", digits=2),
        Figure(short, "attempts", often["attempts"], "", digits=0),
        Figure(short, "time of the attempts, in one go = 1", often["seconds"] / once["seconds"], "times", digits=2),
        Figure(short, "time in one go", once["seconds"], "s"),
    ]


def _sweep(arena: Arena, objects: int, ways: dict[str, dict[str, str]], console: Console) -> dict[str, dict[str, Any]]:
    console.print(f"Making rows for most of {objects:,} objects …")
    expected = -(-objects // _ONE_UNNAMED_OF)
    told = {}
    with sweep_template(arena, objects) as template:
        for way, settings in ways.items():
            with ListedBucket(objects) as server, arena.fresh(template, bucket=_BUCKET) as url:
                storage = {"GCS_BUCKET_NAME": _BUCKET, "STORAGE_EMULATOR_HOST": server.url}
                measured = run_module("benchmarks.sweep", settings={**arena.environ(url), **storage, **settings})
                pages, deleted = server.counts()["pages"], server.counts()["deleted"]
                with connected(url) as connection:
                    recorded = connection.scalar(text(_OUTBOX))
            counts = measured["counts"]
            console.print(
                f"  {way}: {counts['listed_count']:,} objects, {counts['artifacts_cleaned']:,} deleted, in "
                f"{measured['seconds']:.1f} s and {measured['attempts']} attempts; {pages:,} pages listed; memory from "
                f"{measured['start_mib']:.1f} to {measured['peak_mib']:.1f} MiB; longest transaction "
                f"{measured['longest_writing']:.2f} s writing, {measured['longest_reading']:.2f} s reading",
                soft_wrap=True,
            )
            found = (counts["listed_count"], counts["artifacts_cleaned"], recorded, deleted)
            if found != (objects, expected, expected, expected):
                raise RuntimeError(f"{way}: listed, counted, on record and deleted were {found}")
            told[way] = measured
    return told


@contextmanager
def sweep_template(arena: Arena, objects: int) -> Iterator[str]:
    """A database to be copied, which names most of the objects that the stand-in lists."""
    names = Objects(objects)
    with arena.template("bench_sweep", {}) as template:
        with connected(arena.url_of(template)) as connection, connection.begin():
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for start in range(0, objects, _ROWS_A_STATEMENT):
                numbers = range(start, min(start + _ROWS_A_STATEMENT, objects))
                named = [names[number] for number in numbers if number % _ONE_UNNAMED_OF]
                connection.execute(text(_ADD_FILES), {"names": named})
        with connected(arena.url_of(template), autocommit=True) as connection:
            connection.execute(text("VACUUM (ANALYZE, FREEZE)"))
        yield template


class _Services(TimedServices):
    """The services of production; made with all that they import, so that the start is over when they are there."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        JOBS[_JOB].load()
        assert self.bucket  # noqa: S101  made when it is asked for


def _main() -> None:
    _Services(dict(os.environ), SystemClock(), sys.stderr).close()
    start = resident_mib()
    slot = SystemClock().now().replace(microsecond=0)
    told: dict[str, Any] = {"attempts": 0, "seconds": 0.0, "longest_writing": 0.0, "longest_reading": 0.0}
    while told["attempts"] < _MOST_ATTEMPTS:
        outcome, measured = run_timed(_Services, _JOB, slot)
        told["attempts"] += 1
        told["seconds"] += measured["seconds"]
        for kind in ("longest_writing", "longest_reading"):
            told[kind] = max(told[kind], measured[kind])
        if outcome.status is not Status.INCOMPLETE:
            break
    if outcome.status is not Status.COMPLETED:
        raise RuntimeError(outcome.message)
    told |= {"counts": dict(outcome.counts), "start_mib": start, "peak_mib": peak_mib()}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    _main()
