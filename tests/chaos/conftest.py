"""The place where schedules are played, made once."""

from collections.abc import Iterator

import pytest

from devstack.stack import Stack
from tests.chaos.place import Place, a_place


@pytest.fixture(scope="session")
def place(stack: Stack, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Servers, proxies' places and triggers that all schedules share."""
    with a_place(stack, template, tmp_path_factory.mktemp("chaos")) as made:
        yield made
