"""The operator's commands, run in this process: a start of Python for each would take a second."""

import os
from collections.abc import Mapping

from click.testing import CliRunner, Result

from ops.__main__ import cli

_KEPT = ("PATH", "HOME", "USER", "LOGNAME")


def run_command(*arguments: str, environ: Mapping[str, str]) -> Result:
    """Run `python -m ops …` with these settings and no others; an error that is none of click's comes through."""
    others = {name: None for name in os.environ if name not in _KEPT}
    return CliRunner().invoke(cli, arguments, env={**others, **environ}, catch_exceptions=False)
