"""What is measured runs in a process of its own, so that nothing of the measuring is measured with it."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

REPOSITORY = Path(__file__).resolve().parent.parent
_KIB_A_MIB = 1024
_OURS = frozenset(
    ("DATABASE_URL", "REDIS_URL", "K_SERVICE", "GCS_BUCKET_NAME", "STORAGE_EMULATOR_HOST", "JOB_TIMEOUT_SECONDS")
)


def peak_mib() -> float:
    """The largest resident size of this process so far, in MiB."""
    # Not getrusage: on Linux a new program inherits there the size of the process that started it.
    told = memory_mib("VmHWM")
    if told is not None:
        return told
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / _KIB_A_MIB if sys.platform != "darwin" else largest / _KIB_A_MIB**2


def resident_mib() -> float:
    """The resident size of this process now, in MiB; where nobody tells, its largest one so far."""
    told = memory_mib("VmRSS")
    return peak_mib() if told is None else told


def memory_mib(name: str, pid: int | None = None) -> float | None:
    """What Linux tells of a process's memory (this one's, without a pid), in MiB: `VmRSS` now, `VmHWM` at its peak.

    None where nobody tells.
    """
    status = Path("/proc", "self" if pid is None else str(pid), "status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / _KIB_A_MIB
    return None


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with other settings. What a function would read of ours is left out."""
    ours = {name: value for name, value in os.environ.items() if name not in _OURS}
    return {**ours, "PYTHONPATH": str(REPOSITORY), **settings}


def run_module(module: str, *arguments: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """Run `python -m module`; give the JSON object of its last line. Raises CalledProcessError if it fails."""
    done = subprocess.run(  # noqa: S603  our own modules, no shell
        [sys.executable, "-m", module, *arguments],
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return cast(dict[str, Any], json.loads(done.stdout.splitlines()[-1]))
