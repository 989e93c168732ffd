"""A world for each test of the cleanups."""

import pytest

from devstack.gcs_front import GcsFront
from tests.cleanup.points import Points
from tests.conftest import MakeEnvironment
from tests.support.cleanup import CleanupWorld
from tests.support.clock import ManualClock
from tests.support.database import TestDatabase


@pytest.fixture
def world(
    database: TestDatabase, gcs_front: GcsFront, bucket: str, make_environment: MakeEnvironment, clock: ManualClock
) -> CleanupWorld:
    """An empty database and bucket."""
    return CleanupWorld(database, gcs_front, bucket, make_environment, clock)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    """Points of a job at which something happens."""
    return Points(monkeypatch)
