"""What tests of a bucket in trouble have in common: what a job is due to delete, and what the bucket was asked."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from devstack import buckets
from devstack.gcs_front import read_target
from devstack.gcs_listing import ListingServer
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON


def due(world: CleanupWorld, job: str, number: int) -> list[str]:
    """So many objects that a job is due to delete, in a bucket with one that stays; their names."""
    world.file(world.submitted(world.job("eve")))
    if job == "artifact_cleanup":
        return [world.put(f"temp_uploads/ann/{each}_x_a.pdf") for each in range(number)]
    run = world.draft(world.job()) if job == "abandoned_cleanup" else world.submitted(world.job(), persist_data=False)
    return [world.object_of(world.file(run)) for _ in range(number)]


def add_open_rows(world: CleanupWorld, names: list[str], erasure: int | None = None) -> None:
    """Rows of the outbox for objects of ten bytes, as an earlier run may have left them."""
    world.database.execute(
        "INSERT INTO maintenance.object_deletions "
        "(bucket, object_name, generation, kind, erasure_id, run_id, next_attempt_at, bytes, requested_at) "
        "SELECT :bucket, name, NULL, 'orphan', :erasure, 0, :noon, 10, :noon FROM unnest(CAST(:names AS text[])) name",
        bucket=world.bucket,
        names=names,
        erasure=erasure,
        noon=NOON,
    )


def asked_to_delete(world: CleanupWorld) -> Counter[str]:
    """How often the bucket was asked to delete which object."""
    return Counter(each.name for each in world.front.requests if each.method == "DELETE" and each.name is not None)


def deleted(world: CleanupWorld) -> list[str]:
    """The objects that the bucket says it deleted, in order."""
    return sorted(each.name or "" for each in world.front.requests if (each.method, each.status) == ("DELETE", 204))


def states(world: CleanupWorld) -> Counter[str]:
    """How many rows of the outbox are in which state; one that is still claimed is a state of its own."""
    rows = world.database.rows(
        "SELECT CASE WHEN claimed_until IS NULL THEN state ELSE 'claimed' END AS state, count(*) AS number "
        "FROM maintenance.object_deletions GROUP BY 1"
    )
    return Counter({row["state"]: row["number"] for row in rows})


def remaining(world: CleanupWorld, names: list[str]) -> set[str]:
    """Which of these objects are still there."""
    return {*names} & buckets.names(world.front.upstream, world.bucket)


class LongBucket(ListingServer):
    """A bucket too long for one deadline. It remembers which pages were listed and which objects were to be deleted.

    `on_page` and `on_delete` are called with how many there were by then.
    """

    def __init__(self, objects: int) -> None:
        super().__init__(objects)
        # Of each page the numbers of its first object and of its last.
        self.pages: list[tuple[int, int]] = []
        self.deleted: Counter[str] = Counter()
        self.on_page: Callable[[int], object] = lambda _: None
        self.on_delete: Callable[[int], object] = lambda _: None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        target = read_target(request.method, request.raw_path)
        if target.method == "DELETE" and target.name is not None:
            self.deleted[target.name] += 1
            self.on_delete(self.deleted.total())
        return await super()._handle(request)

    def _page(self, query: dict[str, str]) -> dict[str, Any]:
        page = super()._page(query)
        first, last = (self.objects.first(page["items"][place]["name"]) for place in (0, -1))
        self.pages.append((first, last))
        self.on_page(len(self.pages))
        return page
