"""The storage stand-in with any number of objects as a process of its own, so that its work is not measured."""

import json
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast

import urllib3

from benchmarks.child import environment


class ListedBucket:
    """A server of so many objects while the `with` block lasts; a delete takes it `delay` seconds, a listing none."""

    def __init__(self, objects: int, delay: float = 0.0) -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own module, no shell
            [sys.executable, "-m", "devstack.gcs_listing", "--objects", str(objects), "--delay", str(delay)],
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = ""

    def __enter__(self) -> Self:
        self.url = self._process.stdout.readline().strip() if self._process.stdout else ""
        if not self.url:
            self._process.kill()
            self._process.wait()
            raise RuntimeError("the storage stand-in did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # It ends with its standard input.
        self._process.communicate()

    def counts(self) -> Mapping[str, int]:
        """What it was asked for: objects `deleted`, `pages` listed, objects and buckets `looked` at."""
        return cast(dict[str, Any], json.loads(urllib3.request("GET", f"{self.url}/standin/counts").data))
