"""Importing touches no network and no environment; the entry points are what the declaration says."""

import ast
import subprocess
import sys
import types
from pathlib import Path

import main
from devstack.serving import REPOSITORY
from functions.registry import JOBS

# The environment cannot be read, a socket cannot be made: whoever tries while main is imported fails.
WATCHED_IMPORT = """
import os, socket, sys

class Untouchable(dict):
    def __getitem__(self, name): raise AssertionError(f"the environment was read: {name}")
    get = __getitem__
    __contains__ = __getitem__

import functions_framework, flask, pg8000, redis, cronsim  # what others do at import is theirs

def refuse(*_): raise AssertionError("a socket was made")

socket.socket.__init__ = refuse
os.environ = Untouchable()
import main
assert callable(main.period_reset)
"""


def test_importing_main_touches_no_network_and_no_environment() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WATCHED_IMPORT], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_main_imports_the_registry_and_the_entry_and_nothing_else() -> None:
    tree = ast.parse(Path(main.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"functions.registry", "shared.entry"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]


def test_there_is_an_entry_point_for_each_job() -> None:
    points = {name: value for name, value in vars(main).items() if name in JOBS}
    assert set(points) == set(JOBS)
    # functions-framework refuses anything that is not a plain function.
    assert all(isinstance(point, types.FunctionType) for point in points.values())
    assert all(point.__name__ == name for name, point in points.items())


def test_every_job_has_what_a_job_module_offers() -> None:
    for job in JOBS.values():
        module = job.load()
        assert callable(module.run)
        assert callable(module.waiting)
