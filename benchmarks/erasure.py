"""Erasing runs with all that hangs on them: both jobs against one statement, while another client writes.

Only the database's part: the bucket ends the run with the first delete that it is asked for, after all rows are erased
and all objects are in the outbox. How fast the outbox is claimed and settled then is measured by itself, with a bucket
that takes no time.

Run as `python -m benchmarks.erasure WAY` with the settings of a function, it is one of the ways and says as JSON how
long it took, how many runs (or objects) it was about, and how long its longest transactions were.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

from rich.console import Console
from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import peak_mib
from benchmarks.figures import Beside, Figure
from benchmarks.runs import FILES_A_RUN, ONE_DUE_OF, runs_template
from benchmarks.side_by_side import Run, median_of, run_beside_writer
from benchmarks.timed import Measured, TimedServices, run_timed, timed_statement
from functions.cleanup import outbox
from shared.bucket_calls import Answer, BucketState, Deletion, StoredObject
from shared.clock import SystemClock
from shared.errors import Unavailable
from shared.outcome import Status

_BUCKET = "bench-files"
_SETTINGS = {"GCS_BUCKET_NAME": _BUCKET}
_JOBS = ("abandoned_cleanup", "opt_out_cleanup")
_WAYS = ("statement", *_JOBS)
_DELETE = """
DELETE FROM job_runs
WHERE config_step <> 'submitted' AND status = 'cancelled' AND NOT persist_data AND last_active_at < :idle_before
"""
_AS_FAST_AS_IT_GOES = 1e9


def measure_erasure(arena: Arena, runs: int, rounds: int, console: Console) -> list[Figure]:
    """Run all ways in turn, some rounds, each in a fresh copy; give the figures from the medians."""
    due = runs // ONE_DUE_OF
    console.print(f"Making {runs:,} runs with {runs * FILES_A_RUN:,} files …")
    found: dict[str, list[Run]] = {way: [] for way in (*_WAYS, "drain")}
    with runs_template(arena, "bench_erasure", runs) as template:
        for number in range(rounds):
            # Turned round every second time, so that no way always comes first.
            for way in _WAYS[:: 1 if number % 2 == 0 else -1]:
                with arena.fresh(template, bucket=_BUCKET) as url:
                    for step in (way, "drain") if way == "opt_out_cleanup" else (way,):
                        run = run_beside_writer(arena, url, "benchmarks.erasure", step, settings=_SETTINGS)
                        found[step].append(run)
                        what = "objects" if step == "drain" else "runs"
                        console.print(
                            f"  round {number + 1}, {step:17} {run.done:>7,} {what:7} in {run.told()}", soft_wrap=True
                        )
                        if run.done != (due * FILES_A_RUN if step == "drain" else due):
                            raise RuntimeError(f"{step} was about {run.done:,} {what}")
                        _check_what_is_left(url, runs - due, way)
    return _figures(found, runs)


def _check_what_is_left(url: str, runs: int, way: str) -> None:
    with connected(url) as connection:
        left = connection.scalar(text("SELECT count(*) FROM job_runs"))
        files = connection.scalar(text("SELECT count(*) FROM source_files"))
    if (left, files) != (runs, runs * FILES_A_RUN):
        raise RuntimeError(f"{way} left {left:,} runs with {files:,} files, and not {runs:,}")


def _figures(found: Mapping[str, Sequence[Run]], runs: int) -> list[Figure]:
    part = f"Erasing {runs // ONE_DUE_OF:,} of {runs:,} runs, {runs // ONE_DUE_OF * FILES_A_RUN:,} objects"

    def beside(attribute: str, unit: str, digits: int, factor: float = 1) -> Beside:
        return Beside("one statement", median_of(found["statement"], attribute) * factor, unit, digits)

    figures = []
    for job in _JOBS:
        mine = found[job]
        ratio = median_of(mine, "seconds") / median_of(found["statement"], "seconds")
        figures += [
            Figure(part, f"{job}, time", median_of(mine, "seconds"), "s", digits=2, beside=beside("seconds", "s", 2)),
            Figure(part, f"{job}, one statement = 1", ratio, "times", 1.7, digits=2),
            Figure(
                part,
                f"{job}, longest writing transaction",
                median_of(mine, "longest_writing"),
                "s",
                0.3,
                digits=2,
                beside=beside("longest_writing", "s", 2),
            ),
            Figure(
                part,
                f"{job}, another client's p99 meanwhile",
                median_of(mine, "writer_p99") * 1000,
                "ms",
                20,
                beside=beside("writer_p99", "ms", 1, 1000),
            ),
            Figure(part, f"{job}, another client's longest wait", median_of(mine, "writer_max") * 1000, "ms", digits=0),
            Figure(part, f"{job}, longest reading transaction", median_of(mine, "longest_reading"), "s", digits=2),
            Figure(part, f"{job}, peak memory", median_of(mine, "peak_mib"), "MiB"),
            Figure(
                part, f"{job}, WAL", median_of(mine, "wal_mib"), "MiB", digits=0, beside=beside("wal_mib", "MiB", 0)
            ),
        ]
    drains = found["drain"]
    rate = drains[0].done / median_of(drains, "seconds")
    return [
        *figures,
        Figure(part, "claiming and settling the outbox", rate, "/s", at_least=True, digits=0),
        Figure(part, "… longest writing transaction", median_of(drains, "longest_writing"), "s", digits=2),
        Figure(part, "… another client's p99 meanwhile", median_of(drains, "writer_p99") * 1000, "ms"),
    ]


class _Bucket:
    """A bucket that is not there: all its objects are absent, or with `closed` it takes no call."""

    name = _BUCKET

    def __init__(self, *, closed: bool) -> None:
        self._closed = closed

    def state(self) -> BucketState:
        """What a bucket without soft delete keeps."""
        return BucketState(timedelta(0), versioned=False)

    def pages(self, start: str | None) -> Iterator[Sequence[StoredObject]]:  # noqa: ARG002  as the protocol has it
        """No object."""
        return iter(())

    def generation(self, name: str) -> int | Deletion:
        """None."""
        return self.delete(name, None)

    def delete(self, name: str, generation: int | None) -> Deletion:  # noqa: ARG002  as the protocol has it
        """Nothing to delete."""
        if self._closed:
            raise Unavailable("gcs", "this bucket is closed")
        return Deletion(Answer.ABSENT)


class _Services(TimedServices):
    """The services of production with a bucket of our own."""

    is_closed = True

    @property
    def bucket(self) -> _Bucket:  # type: ignore[override]  # a stand-in of it
        """As the parent's."""
        return _Bucket(closed=self.is_closed)


class _DrainingServices(_Services):
    is_closed = False


def job(name: str) -> Measured:
    """The job as it runs in production, through the runner, until it is about to delete objects."""
    outcome, measured = run_timed(_Services, name)
    if outcome.status is not Status.UNAVAILABLE:
        raise RuntimeError(outcome.message)
    return {**measured, "done": outcome.counts["jobs_cleaned"]}


def drain() -> Measured:
    """What the outbox costs when the bucket takes no time: the pace, which is there for the bucket, is left out."""
    outbox._RATE = outbox._FIRST_RATE = _AS_FAST_AS_IT_GOES  # type: ignore[assignment]  # they are whole numbers there
    outcome, measured = run_timed(_DrainingServices, "opt_out_cleanup")
    if outcome.status is not Status.COMPLETED:
        raise RuntimeError(outcome.message)
    return {**measured, "done": outcome.counts["objects_absent"]}


def statement() -> Measured:
    """One statement in one transaction, which leaves every object behind: the fastest that PostgreSQL can do it."""
    return timed_statement(_DELETE, idle_before=SystemClock().now() - timedelta(days=30))


WAYS: Mapping[str, Callable[[], Measured]] = {
    "statement": statement,
    "abandoned_cleanup": lambda: job("abandoned_cleanup"),
    "opt_out_cleanup": lambda: job("opt_out_cleanup"),
    "drain": drain,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps({**WAYS[sys.argv[1]](), "peak_mib": peak_mib()}) + "\n")
