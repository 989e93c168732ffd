"""Where the tests' servers keep their data: each test has a fresh database, which is three hundred small files."""

import os
import shutil
import stat
from pathlib import Path

from devstack.stack import ROOT

_MEMORY = Path("/dev/shm")  # noqa: S108  the system's own place for files in memory
# Two processes' servers need a tenth of it; a container has 64 MiB there unless it is given more.
_ENOUGH_BYTES = 2 * 2**30


def servers_root() -> Path:
    """The folder below which owners of servers have theirs: in memory where there is room, else the dev stack's own.

    On a disk, two servers that make files at the same time keep each other waiting: a fresh database took five times
    as long.
    """
    root = _MEMORY / f"devstack-{os.geteuid()}"
    try:
        if shutil.disk_usage(_MEMORY).free < _ENOUGH_BYTES:
            return ROOT
        root.mkdir(exist_ok=True)
        status = root.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            # Others made it, to deceive us.
            return ROOT
        # PostgreSQL's account must reach what is below.
        root.chmod(0o755)
    except OSError:
        return ROOT
    return root
