"""The other client: it writes as the service does, one row a transaction, to random accounts, and times each write.

Run as `python -m benchmarks.writer` with DATABASE_URL: says `ready`, writes until its standard input is closed, and
then says when each write began and how long it took, as JSON. `Writer` is the other end of that.
"""

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sqlalchemy import text

from benchmarks.arena import connected
from benchmarks.child import environment

# As busy as a service with some hundred users at once; a client without pauses would take one of two cores.
_PAUSE_SECONDS = 0.005
_WARM_UP = 200
_ACCOUNTS = "SELECT user_id FROM billing_accounts ORDER BY md5('writer' || user_id) LIMIT 50000"
_TOUCH = "UPDATE billing_accounts SET updated_at = updated_at + interval '1 second' WHERE user_id = :user_id"
_ADD_USAGE = """
INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
SELECT user_id, current_period_start, current_period_end, 1 FROM billing_accounts
WHERE user_id = :user_id AND current_period_start IS NOT NULL
ON CONFLICT (user_id, period_start) DO UPDATE SET pages_total = usage_counters.pages_total + excluded.pages_total
"""


@dataclass(frozen=True)
class Latencies:
    """How long each write took, in seconds, in ascending order."""

    seconds: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """The value that this share of the writes did not exceed; NaN where there was none."""
        if not self.seconds:
            return float("nan")
        return self.seconds[min(len(self.seconds) - 1, int(len(self.seconds) * share))]


class Writer:
    """A writer process while the `with` block lasts; it is writing when the block begins."""

    def __init__(self, database_url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.writer"],
            env=environment({"DATABASE_URL": database_url}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._writes: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            self._process.kill()
            self._process.wait()
            raise RuntimeError("the writer did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        written, _ = self._process.communicate()
        if error is None:
            self._writes = [(began, took) for began, took in json.loads(written)]

    def latencies(self, since: float, until: float) -> Latencies:
        """The writes that began in a span of time.monotonic(). To be asked after the block."""
        return Latencies(tuple(sorted(took for began, took in self._writes if since <= began <= until)))


def _main() -> None:
    writes: list[tuple[float, float]] = []
    with connected(os.environ["DATABASE_URL"], autocommit=True) as connection:
        accounts = connection.scalars(text(_ACCOUNTS)).all()
        statements = (text(_TOUCH), text(_ADD_USAGE))
        number = 0
        while not select.select([sys.stdin], [], [], _PAUSE_SECONDS)[0]:
            began = time.monotonic()
            connection.execute(statements[number % 2], {"user_id": accounts[number % len(accounts)]})
            writes.append((began, time.monotonic() - began))
            number += 1
            if number == _WARM_UP:
                sys.stdout.write("ready\n")
                sys.stdout.flush()
    sys.stdout.write(json.dumps(writes) + "\n")


if __name__ == "__main__":
    _main()
