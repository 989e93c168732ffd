"""Deleting objects: the outbox of a job against as many bare threads with google-cloud-storage, at the same server.

Run as `python -m benchmarks.objects job` or `… bare NAMES`, with the settings of a function, it is one of the two ways
and says as JSON how many deletes it made, in how many seconds between the first call and the last answer, and with how
much CPU time. The job drains the outbox as it finds it; NAMES is a file with a name a line.
"""

import json
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import run_module
from benchmarks.figures import Beside, Figure
from benchmarks.storage_standin import ListedBucket
from benchmarks.timed import Measured, TimedServices, run_timed
from devstack.buckets import create_bucket, put_many
from ops.host_indexes import build_host_indexes
from shared.bucket_calls import Deletion
from shared.cleanup_settings import CleanupSettings
from shared.clock import SystemClock
from shared.database_url import database_target
from shared.gcs import GcsBucket
from shared.outcome import Status
from shared.services import BUCKET_CONNECTIONS

_BUCKET = "bench-objects"
_THREADS = 32
_SLOW_SECONDS = 0.04
_OF_BARE = 95.0
_ADD = """
INSERT INTO maintenance.object_deletions
    (bucket, object_name, kind, source_file_id, job_run_id, run_id, next_attempt_at, bytes, requested_at)
SELECT :bucket, name, :kind, gen_random_uuid(), gen_random_uuid(), 1, :now, 1, :now
FROM unnest(CAST(:names AS text[])) AS name
"""


@dataclass(frozen=True)
class _Server:
    """Where objects are deleted from, and how they get there."""

    title: str
    open: Callable[[], AbstractContextManager[str]]


@dataclass(frozen=True)
class _Run:
    deletes: int
    rate: float
    ms_a_delete: float
    longest_writing: float


def measure_objects(arena: Arena, objects: int, rounds: int, console: Console) -> list[Figure]:
    """Delete so many objects each way, some rounds, from a server that answers at once and from one that does not."""
    figures = []
    for title, delay in (("fake-gcs-server", None), (f"answers after {_SLOW_SECONDS * 1000:.0f} ms", _SLOW_SECONDS)):
        part = f"Deleting {objects:,} objects, {title}"
        console.print(f"{part}:")
        # A swept object is one call; an erased file is two: the object and its conversion, which may be there.
        runs: dict[str, list[_Run]] = {"bare": [], "orphan": [], "source": []}
        with arena.template("bench_objects", {}) as template:
            build_host_indexes(database_target({"DATABASE_URL": arena.url_of(template)}))
            for number in range(rounds):
                for way in tuple(runs)[:: 1 if number % 2 == 0 else -1]:
                    run = _run(arena, template, way, objects, delay)
                    runs[way].append(run)
                    console.print(
                        f"  round {number + 1}, {way:6} {run.deletes:,} deletes, {run.rate:4.0f} a second, "
                        f"{run.ms_a_delete:.2f} ms of CPU each; "
                        f"longest transaction {run.longest_writing * 1000:.0f} ms",
                        soft_wrap=True,
                    )
        figures += _figures(part, runs, comparable=delay is not None)
    return figures


def _run(arena: Arena, template: str, way: str, objects: int, delay: float | None) -> _Run:
    calls_each = 2 if way == "source" else 1
    names = [f"jobs/{number:06}/runs/1/file {number}.pdf" for number in range(objects // calls_each)]
    with arena.fresh(template, bucket=_BUCKET) as url:
        if delay is not None:
            with ListedBucket(1, delay) as server:
                measured = _measure(arena, url, server.url, way, names)
                deleted = server.counts()["deleted"]
        else:
            server_url = arena.stack.gcs_url
            create_bucket(server_url, _BUCKET)
            put_many(server_url, _BUCKET, names)
            measured = _measure(arena, url, server_url, way, names)
            deleted = len(names) * calls_each
    if not measured["deletes"] == deleted == len(names) * calls_each:
        raise RuntimeError(f"{way} made {measured['deletes']:,} deletes for {len(names):,} objects")
    return _Run(
        int(measured["deletes"]),
        measured["deletes"] / measured["span"],
        measured["cpu_seconds"] * 1000 / measured["deletes"],
        measured["longest_writing"],
    )


def _measure(arena: Arena, url: str, server_url: str, way: str, names: Sequence[str]) -> Mapping[str, float]:
    settings = {**arena.environ(url), "GCS_BUCKET_NAME": _BUCKET, "STORAGE_EMULATOR_HOST": server_url}
    if way == "bare":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "names")
            file.write_text("\n".join(names), encoding="utf-8")
            return run_module("benchmarks.objects", "bare", str(file), settings=settings)
    with connected(url) as connection, connection.begin():
        parameters = {"bucket": _BUCKET, "kind": way, "now": SystemClock().now(), "names": list(names)}
        connection.execute(text(_ADD), parameters)
    return run_module("benchmarks.objects", "job", settings=settings)


def _figures(part: str, runs: Mapping[str, Sequence[_Run]], *, comparable: bool) -> list[Figure]:
    def median(way: str, attribute: str) -> float:
        return float(statistics.median(getattr(run, attribute) for run in runs[way]))

    bare, threads = median("bare", "rate"), f"{_THREADS} bare threads"
    cpu_beside = Beside(threads, median("bare", "ms_a_delete"), "ms", 2)
    figures = []
    for way, what in (("orphan", "swept objects"), ("source", "erased files with their conversions")):
        # fake-gcs-server is faster for a conversion that is not there: only of the slow server each call is the same.
        limit = _OF_BARE if comparable or way == "orphan" else None
        figures += [
            Figure(part, f"{what}, of bare threads", median(way, "rate") / bare * 100, "%", limit, at_least=True),
            Figure(
                part,
                f"{what}, deletes",
                median(way, "rate"),
                "/s",
                at_least=True,
                digits=0,
                beside=Beside(threads, bare, "/s", 0),
            ),
            Figure(part, f"{what}, CPU time of each", median(way, "ms_a_delete"), "ms", digits=2, beside=cpu_beside),
        ]
    return figures


class _Span:
    """When the first of some calls began and the last one ended, how many there were, and the CPU time in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls = 0
        self._began = self._cpu_began = 0.0
        self._ended = self._cpu_ended = 0.0

    def begin(self) -> None:
        """A call begins."""
        with self._lock:
            if not self._began:
                self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """A call was answered."""
        with self._lock:
            self.calls += 1
            self._ended, self._cpu_ended = time.perf_counter(), time.process_time()

    def measured(self) -> Measured:
        """All of it."""
        return {
            "deletes": self.calls,
            "span": self._ended - self._began,
            "cpu_seconds": self._cpu_ended - self._cpu_began,
        }


class _TimedBucket(GcsBucket):
    """The bucket of production with a stopwatch."""

    def __init__(self, settings: CleanupSettings, connections: int) -> None:
        super().__init__(settings, connections)
        self.span = _Span()

    def delete(self, name: str, generation: int | None) -> Deletion:
        """As the parent's."""
        self.span.begin()
        try:
            return super().delete(name, generation)
        finally:
            self.span.end()


class _Services(TimedServices):
    """The services of production with that bucket."""

    made: _TimedBucket | None = None

    @property
    def bucket(self) -> _TimedBucket:
        """As the parent's."""
        if self.made is None:
            type(self).made = _TimedBucket(self.settings.cleanup, BUCKET_CONNECTIONS)
        assert self.made is not None  # noqa: S101  made just now
        return self.made


def job() -> Measured:
    """A job as it runs in production, with nothing to do but to drain the outbox."""
    outcome, measured = run_timed(_Services, "opt_out_cleanup")
    if outcome.status is not Status.COMPLETED or _Services.made is None:
        raise RuntimeError(outcome.message)
    return {**measured, **_Services.made.span.measured()}


def bare(names_file: str) -> Measured:
    """Threads that each take a name and delete the object; no database, no limit, and connections are kept."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client
    from requests.adapters import HTTPAdapter

    client = Client(
        project="bench",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # the library has no types
        client_options={"api_endpoint": os.environ["STORAGE_EMULATOR_HOST"]},
    )
    client._http.mount("http://", HTTPAdapter(pool_maxsize=_THREADS))
    bucket = client.bucket(os.environ["GCS_BUCKET_NAME"])
    names: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in Path(names_file).read_text(encoding="utf-8").splitlines():
        names.put(name)
    span = _Span()

    def delete_all() -> None:
        while True:
            try:
                name = names.get_nowait()
            except queue.Empty:
                return
            span.begin()
            bucket.delete_blob(name)
            span.end()

    threads = [threading.Thread(target=delete_all) for _ in range(_THREADS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - began, "longest_writing": 0.0, **span.measured()}


if __name__ == "__main__":
    measured = job() if sys.argv[1] == "job" else bare(sys.argv[2])
    sys.stdout.write(json.dumps(measured) + "\n")
