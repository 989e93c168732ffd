"""Runs that are due for one of the two jobs that erase runs, for tests that hold for both."""

import pytest

from tests.support.cleanup import CleanupWorld

both = pytest.mark.parametrize("job", ["abandoned_cleanup", "opt_out_cleanup"])


def drafts(world: CleanupWorld, number: int) -> list[str]:
    """So many abandoned drafts, each with a file."""
    runs = [world.draft(world.job()) for _ in range(number)]
    for run in runs:
        world.file(run)
    return runs


def due(world: CleanupWorld, job: str, number: int) -> list[str]:
    """So many runs that are due for a job, each with a file, as the only runs there are."""
    if job == "abandoned_cleanup":
        return drafts(world, number)
    runs = [world.submitted(world.job(), persist_data=False) for _ in range(number)]
    for run in runs:
        world.file(run)
    return runs
