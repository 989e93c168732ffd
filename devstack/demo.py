"""`make demo`: see each job work, on real servers, fired over HTTP as Cloud Scheduler fires it.

Everything that is shown is also checked: the exit code is 0 only if all of it was as it should be. No server and no
data is left afterwards. Where DATABASE_URL or REDIS_URL is set, that server is used, with a fresh database of its own.
Stripe is always the stand-in, whatever is set.

Here stands the frame; each part's chapters are in a module of their own. `python -m devstack.demo cleanups` shows one
part alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from devstack import demo_cleanups, demo_periods, demo_usage
from devstack.demo_scene import Scene
from devstack.prepared import prepare
from devstack.stack import terminated_cleanly
from devstack.telling import StepFailed, Teller, closed_calmly, exit_code

PER_KIND = 2_000
USERS_PER_KIND = 12

PARTS: Mapping[str, Callable[[Scene], str]] = {
    "periods": lambda scene: demo_periods.show(scene, PER_KIND),
    "usage": lambda scene: demo_usage.show(scene, USERS_PER_KIND),
    "cleanups": demo_cleanups.show,
}


def main(environ: Mapping[str, str], *names: str) -> int:
    """Run the demo, or only the parts named; give the process's exit code."""

    def work() -> None:
        teller = Teller()
        parts = [PARTS[name] for name in names or PARTS] if PARTS.keys() >= {*names} else None
        if parts is None:
            raise StepFailed(f"The demo's parts are {', '.join(PARTS)}.")
        with terminated_cleanly(), closed_calmly() as cleanup:
            now = datetime.now(UTC)
            teller.chapter(
                "Maintenance jobs at work",
                "Each job is fired as Cloud Scheduler fires it, on real servers; what it did is shown, and checked.",
            )
            prepared = prepare(environ, teller, cleanup, purpose="demo", per_kind=PER_KIND, now=now)
            scene = Scene(teller, prepared, cleanup, now)
            came_of_it = [show(scene) for show in parts]
            teller.chapter("All of it was as it should be")
            for sentence in (
                *came_of_it,
                "Next: `make dev` keeps such servers up to try things out, `make test` runs the tests.",
            ):
                teller.console.print(sentence)
        teller.right("Servers stopped, data removed: nothing is left.")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(os.environ, *sys.argv[1:]))
