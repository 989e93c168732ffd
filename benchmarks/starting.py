"""What it costs to start a function's process: time and memory of importing everything that period_reset needs."""

import statistics
import subprocess
import sys
import time

from rich.console import Console

from benchmarks.child import environment
from benchmarks.figures import Beside, Figure

_STARTS = 9
_PEAK = "import sys; from benchmarks.child import peak_mib; sys.stdout.write(str(peak_mib()))"
_BARE = "import functions_framework"
# What has happened when the first request is about to connect: both clients are made, and nothing is connected.
_OURS = """
import functions_framework
import main
from functions.registry import JOBS
from shared.clock import SystemClock
from shared.services import Services
import sys
JOBS["period_reset"].load()
environ = {"DATABASE_URL": "postgresql://user@localhost/database", "REDIS_URL": "redis://localhost"}
services = Services(environ, SystemClock(), sys.stderr)
assert services.redis is not None
assert services.database is not None
"""


def measure_starting(console: Console) -> list[Figure]:
    """Start both programs in turn, some times; give the medians."""
    programs = {"bare": _BARE, "ours": _OURS}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(_STARTS + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            _python(program)
            if number:  # the first time, files are read and compiled
                times[name].append(time.perf_counter() - began)
    peaks = {name: float(_python(f"{program}\n{_PEAK}")) for name, program in programs.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name in programs:
        console.print(f"  {name}: {medians[name] * 1000:.0f} ms, {peaks[name]:.1f} MiB")
    part = "Starting a process, everything imported that period_reset needs"
    alone = "functions-framework alone"
    return [
        Figure(
            part, "time", medians["ours"] * 1000, "ms", digits=0, beside=Beside(alone, medians["bare"] * 1000, "ms", 0)
        ),
        Figure(part, f"time, {alone} = 1", medians["ours"] / medians["bare"], "times", 2.5, digits=2),
        Figure(part, "peak memory", peaks["ours"], "MiB", 64, beside=Beside(alone, peaks["bare"], "MiB")),
    ]


def _python(program: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(  # noqa: S603  our own programs, no shell
        command, env=environment({}), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
