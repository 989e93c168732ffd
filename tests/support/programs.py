"""Commands of ours in processes of their own, as a person starts and ends them, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from devstack import guardian
from devstack.serving import REPOSITORY
from devstack.stack import ROOT
from tests.support.owners import is_alive

PATIENCE_S = 60.0
Start = Callable[..., "Program"]


class Program:
    """A command in a process of its own; remembers every descendant that it was seen with."""

    def __init__(self, home: Path, module: str, *arguments: str, **settings: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self.said = ""
        self._family: set[psutil.Process] = set()

    def read_until(self, fact: str = "") -> bool:
        """Read lines until one has the fact, or to the end; whether it was found."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            self.look()
            if fact and fact in line:
                return True
        return False

    def look(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family.update(psutil.Process(self.process.pid).children(recursive=True))

    def programs(self) -> str:
        """The command lines of all descendants that still are there."""
        lines = []
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                lines.append(shlex.join(process.cmdline()))
        return "\n".join(lines)

    def end(self, number: signal.Signals) -> int:
        self.look()
        self.process.send_signal(number)
        self.read_until()
        return self.process.wait(PATIENCE_S)

    def left(self) -> list[object]:
        """What there still is of it: descendants, its folder, processes that were started for its folder."""
        folders = list(ROOT.glob(f"{self.process.pid}-*"))
        servers = [server for folder in folders for server in guardian.servers_below(folder)]
        return [*filter(is_alive, self._family), *folders, *servers]
