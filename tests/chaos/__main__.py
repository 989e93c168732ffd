"""Play many schedules and tell what they found: python -m tests.chaos --schedules 500 --seed 1."""

import argparse
import sys
import time
from collections import Counter

from devstack.stack import terminated_cleanly

_SHOWN = 12


def main() -> int:
    """Play so many schedules, from a seed on; 1 if any of them found something."""
    # Imported here: each machine's process imports this module, and need not import all that.
    from tests.chaos.running import a_whole_place, play

    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100, help="how many to play")
    parser.add_argument("--seed", type=int, default=1, help="the first one's; the others follow")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many minutes")
    parser.add_argument("--first", action="store_true", help="stop at the first finding")
    parser.add_argument("--verbose", action="store_true", help="tell of each schedule")
    given = parser.parse_args()
    began = time.monotonic()
    found: list[int] = []
    totals: Counter[str] = Counter()
    played = 0
    try:
        with terminated_cleanly(), a_whole_place() as place:
            for seed in range(given.seed, given.seed + given.schedules):
                if given.minutes and time.monotonic() - began > given.minutes * 60:
                    break
                result = play(place, seed)
                played += 1
                totals.update(result.seen)
                if given.verbose:
                    _say(f"seed {seed}: {result.seconds:.1f} s, {_shown(result.seen)}")
                if result.findings:
                    found.append(seed)
                    more = len(result.findings) - _SHOWN
                    shown = [*result.findings[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
                    _say("\n    ".join((f"seed {seed} found:", *shown)))
                    if given.first:
                        break
    finally:
        # Also when somebody has had enough.
        seconds = time.monotonic() - began
        _say(f"{played} schedules in {seconds:.0f} s, {seconds / max(1, played):.1f} s each. Seen: {_shown(totals)}.")
        _say(
            f"{len(found)} of them found something: {', '.join(map(str, found))}." if found else "None found anything."
        )
    return 1 if found else 0


def _shown(seen: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(seen.items()))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
