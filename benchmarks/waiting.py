"""What people wait for: the demo, and the pages of the console with no run and with 100,000."""

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.child import REPOSITORY, environment
from benchmarks.figures import Figure
from devstack.guardian import free_port
from devstack.history import seed_month, seed_runs
from shared.clock import SystemClock

_HOST = "127.0.0.1"
_PAGES = ("/", "/plots?days=90", "/runs", "/dead-letters", "/drift", "/outbox", "/erasures", "/holds", "/actions")
_ROUNDS = 3
_PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.05


def measure_waiting(arena: Arena, console: Console) -> list[Figure]:
    """Run the demo once, and get each page of the console a few times; the slowest page is shown, by its median."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "devstack.demo"],
        cwd=REPOSITORY,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    demo = time.perf_counter() - began
    now = SystemClock().now()
    with arena.template("bench_waiting", {}) as template:
        with arena.fresh(template, bucket="bench-waiting") as url:
            empty = _slowest(arena.environ(url))
        with arena.fresh(template, bucket="bench-waiting") as url:
            seed_month(url, now)
            seed_runs(url, now)
            big = _slowest(arena.environ(url))
    console.print(
        f"  demo {demo:.1f} s; slowest page {empty[0]} {empty[1]:.2f} s, with 100,000 runs {big[0]} {big[1]:.2f} s"
    )
    part = "What people wait for"
    return [
        Figure(part, "make demo, after the install", demo, "s", 60),
        Figure(part, "the console's slowest page, no runs", empty[1], "s", 1, digits=2),
        Figure(part, "the console's slowest page, 100,000 runs", big[1], "s", 1, digits=2),
    ]


def _slowest(settings: Mapping[str, str]) -> tuple[str, float]:
    with _served(settings) as port:
        took = {page: sorted(_seconds(port, page) for _ in range(_ROUNDS))[_ROUNDS // 2] for page in _PAGES}
    return max(took.items(), key=lambda item: item[1])


def _seconds(port: int, page: str) -> float:
    began = time.perf_counter()
    connection = http.client.HTTPConnection(_HOST, port, timeout=_PATIENCE_SECONDS)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise RuntimeError(f"the console answered {response.status} for {page}")
    return time.perf_counter() - began


@contextlib.contextmanager
def _served(settings: Mapping[str, str]) -> Iterator[int]:
    """The console as a process of its own; gives its port."""
    port = free_port()
    process = subprocess.Popen(  # noqa: S603  our own module, no shell
        [sys.executable, "-m", "ops", "console", "--port", str(port)],
        cwd=REPOSITORY,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError):
                _seconds(port, "/")
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the console did not start")
            time.sleep(_POLL_SECONDS)
        yield port
    finally:
        process.terminate()
        process.wait()
