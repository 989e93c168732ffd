"""The same entry points as main.py's, with a clock that stands in a file: functions-framework --source this file."""

import atexit
import os
import sys
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

globals().update(entry_points(JOBS, clock=FileClock(Path(os.environ["TEST_CLOCK_FILE"]))))
