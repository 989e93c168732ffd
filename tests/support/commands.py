"""The operator's commands, mostly run in this process: a start of Python for each would take a second."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from click.testing import CliRunner, Result

from devstack.serving import REPOSITORY
from ops.__main__ import cli

_KEPT = ("PATH", "HOME", "USER", "LOGNAME")


class Done(NamedTuple):
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str, environ: Mapping[str, str], stdin: str = "") -> Result:
    """Run `python -m ops …` with these settings and no others; an error that is none of click's comes through."""
    others = {name: None for name in os.environ if name not in _KEPT}
    return CliRunner().invoke(
        cli, arguments, stdin, {**others, **environ}, catch_exceptions=False, prog_name="python -m ops"
    )


def ops(*arguments: str, environ: Mapping[str, str], stdin: str = "") -> Done:
    """The same, as a process is looked at."""
    done = run_command(*arguments, environ=environ, stdin=stdin)
    return Done(done.exit_code, done.stdout, done.stderr)


def ops_process(*arguments: str, environ: Mapping[str, str]) -> Done:
    """The same, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ops", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
