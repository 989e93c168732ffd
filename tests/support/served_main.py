"""The same entry points as main.py's, with a clock that stands in a file: functions-framework --source this file.

TEST_SHARDS is how many shards each job has that can be done in shards.
"""

import atexit
import os
import sys
from dataclasses import replace
from pathlib import Path

from functions.registry import JOBS
from shared.entry import entry_points
from tests.support.clock import FileClock

if "TEST_MODULES_FILE" in os.environ:

    def write_modules() -> None:
        """Write down what is imported. The master and its worker both do, so the file is added to."""
        with Path(os.environ["TEST_MODULES_FILE"]).open("a") as file:
            file.write("\n".join((*sys.modules, "")))

    atexit.register(write_modules)

shards = int(os.environ.get("TEST_SHARDS", "1"))
jobs = {name: replace(job, shards=shards) if set(job.needs) & {"stripe", "gcs"} else job for name, job in JOBS.items()}
globals().update(entry_points(jobs, clock=FileClock(Path(os.environ["TEST_CLOCK_FILE"]))))
