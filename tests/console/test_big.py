"""How long the pages take, with 100,000 runs and with none."""

import time

from tests.console.serving import Console, served
from tests.console.test_guards import PAGES
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase


def test_100_000_runs_and_none_are_shown_in_under_a_second(
    big: TestDatabase, console: Console, clock: ManualClock
) -> None:
    """Promised for both. Others work on this machine too, so one answer of three must be quick."""

    def seconds(asked: Console, path: str) -> float:
        def once() -> float:
            started = time.monotonic()
            asked.page(path)
            return time.monotonic() - started

        best = once()
        for _ in range(2):
            if best < 1:
                break
            best = min(best, once())
        return best

    assert big.value("SELECT count(*) FROM maintenance.runs") > 100_000
    paths = (*PAGES, "/plots?days=90", "/runs?job=usage&status=refused", "/runs?before=5", "/runs/100000")
    with served({"DATABASE_URL": big.url}, clock) as of_big:
        took = {path: seconds(of_big, path) for path in paths}
    took |= {f"{path} (empty)": seconds(console, path) for path in PAGES}
    assert {path: each for path, each in took.items() if each >= 1} == {}
