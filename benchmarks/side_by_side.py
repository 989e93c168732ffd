"""One way to do a thing, run once in a fresh copy of a database while another client writes to it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any

from sqlalchemy import text

from benchmarks.arena import Arena, connected
from benchmarks.child import run_module
from benchmarks.writer import Writer

_MIB = 1024 * 1024
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Run:
    """One way, run once. `measured` is what its process said; `done` how many rows it was about."""

    measured: Mapping[str, Any]
    wal_mib: float
    writer_p50: float
    writer_p99: float
    writer_max: float
    writes: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return float(self.measured["seconds"])

    @property
    def done(self) -> int:
        """How many items it treated."""
        return int(self.measured["done"])

    @property
    def longest_writing(self) -> float:
        """Its longest transaction that could write."""
        return float(self.measured["longest_writing"])

    @property
    def longest_reading(self) -> float:
        """Its longest transaction that could only read."""
        return float(self.measured["longest_reading"])

    @property
    def peak_mib(self) -> float:
        """The peak of its process's memory."""
        return float(self.measured["peak_mib"])

    def told(self) -> str:
        """All of it in a line."""
        return (
            f"{self.seconds:5.2f} s, longest transaction {self.longest_writing * 1000:,.0f} ms writing, "
            f"{self.longest_reading * 1000:,.0f} ms reading; writer p50 {self.writer_p50 * 1000:.1f} ms, "
            f"p99 {self.writer_p99 * 1000:,.1f} ms, max {self.writer_max * 1000:,.0f} ms of {self.writes:,}; "
            f"WAL {self.wal_mib:,.0f} MiB"
        )


def run_beside_writer(
    arena: Arena, url: str, module: str, way: str, *arguments: str, settings: Mapping[str, str] = _NO_SETTINGS
) -> Run:
    """Run `python -m module way …` on a database, with the settings of a function, while another client writes."""
    with connected(url, autocommit=True) as watching:
        before = watching.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))
        with Writer(url) as writer:
            since = time.monotonic()
            measured = run_module(module, way, *arguments, settings={**arena.environ(url), **settings})
            until = time.monotonic()
        wal = watching.scalar(text("SELECT pg_current_wal_insert_lsn() - CAST(:lsn AS pg_lsn)"), {"lsn": before})
    latencies = writer.latencies(since, until)
    return Run(
        measured=measured,
        wal_mib=float(wal or 0) / _MIB,
        writer_p50=latencies.percentile(0.5),
        writer_p99=latencies.percentile(0.99),
        writer_max=latencies.percentile(1),
        writes=len(latencies.seconds),
    )


def median_of(runs: Sequence[Run], attribute: str) -> float:
    """The median of an attribute."""
    return float(median(getattr(run, attribute) for run in runs))
