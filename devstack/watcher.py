"""A process group that ends with its owner, however that ends: for processes that fork, and owners that are killed.

The watcher leads the group, and who is to end with the owner is started in it (`process_group=watcher.pid`). The
group's number stays taken until the watcher is waited for, so that is the last thing to be done.
"""

from __future__ import annotations

import os
import subprocess

from devstack import guardian

# The reader of the pipe. It outlives what ends others politely, and dies with the rest of its group.
_PROGRAM = "trap '' HUP INT TERM; read -r _; kill -KILL 0"


def start_watcher() -> tuple[subprocess.Popen[bytes], int]:
    """Start a shell that kills its own group when a pipe ends that only this process holds; give both.

    `guardian.release` of the pipe ends the watcher and all of its group. Raises OSError.
    """
    reading, writing = os.pipe()
    # A forked child of the owner must not hold it as well.
    guardian.hold(writing)
    try:
        watcher = subprocess.Popen(  # noqa: S603 - a constant
            ["/bin/sh", "-c", _PROGRAM],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.defpath},
            process_group=0,
        )
    except BaseException:
        guardian.release(writing)
        raise
    finally:
        os.close(reading)
    return watcher, writing
