"""`make demo`: see each job work, on real servers, fired over HTTP as Cloud Scheduler fires it.

Everything that is shown is also checked: the exit code is 0 only if all of it was as it should be. No server and no
data is left afterwards. Where DATABASE_URL or REDIS_URL is set, that server is used, with a fresh database of its own.
Stripe is always the stand-in, whatever is set.

Here stands the frame; each job's chapters are in a module of their own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from devstack import demo_periods, demo_usage
from devstack.demo_scene import Scene
from devstack.prepared import prepare
from devstack.stack import terminated_cleanly
from devstack.telling import Teller, closed_calmly, exit_code

PER_KIND = 2_000
USERS_PER_KIND = 12


def main(environ: Mapping[str, str]) -> int:
    """Run the demo; give the process's exit code."""

    def work() -> None:
        teller = Teller()
        with terminated_cleanly(), closed_calmly() as cleanup:
            now = datetime.now(UTC)
            teller.chapter(
                "Maintenance jobs at work",
                "Each job is fired as Cloud Scheduler fires it, on real servers; what it did is shown, and checked.",
            )
            prepared = prepare(environ, teller, cleanup, purpose="demo", per_kind=PER_KIND, now=now)
            scene = Scene(teller, prepared, cleanup, now)
            came_of_it = [demo_periods.show(scene, PER_KIND), demo_usage.show(scene, USERS_PER_KIND)]
            teller.chapter("All of it was as it should be")
            for sentence in (
                *came_of_it,
                "Next: `make dev` keeps such servers up to try things out, `make test` runs the tests.",
            ):
                teller.console.print(sentence)
        teller.right("Servers stopped, data removed: nothing is left.")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(os.environ))
