"""A firing in shards, its tasks delivered by hand: in any order, twice, too early, or not at all."""

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import grpc  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.registry import JOBS
from shared.context import Context
from shared.continuation import Left, continued
from shared.errors import BadRequest
from shared.health import health
from shared.invocation import LARGEST_STEP, Invocation, parse_task
from shared.job import JobResult
from shared.outcome import Outcome, Status
from shared.shards import LARGEST_SHARDS, Part, Share
from tests.conftest import MakeEnvironment
from tests.support.clock import NOON, ManualClock
from tests.support.database import TestDatabase
from tests.support.jobs import ordered
from tests.support.shards import SHARDS, Firing
from tests.support.tasks import QUEUE, Taking


@pytest.fixture
def firing(make_environment: MakeEnvironment, database: TestDatabase, clock: ManualClock) -> Iterator[Firing]:
    with Taking() as taking:
        yield Firing(make_environment, taking, database, clock)


# ---- the way of a firing


def test_a_firing_is_opened_done_in_shards_and_closed_with_one_result(firing: Firing) -> None:
    opened = firing.run()
    assert (opened.status, opened.success, opened.details) == (Status.INCOMPLETE, False, {"handed_to": SHARDS})
    assert "3 shards go on" in opened.message
    assert firing.queued == [(1, 1), (2, 1), (3, 1)]
    for number in range(SHARDS - 1):
        done = firing.deliver(number)
        assert (done.status, done.details, done.counts["updated_count"]) == (Status.COMPLETED, {}, 1)
    assert firing.deliver(2).details == {"continued_by": 1}
    assert firing.queued[3:] == [(0, 1)]
    closed = firing.deliver(3)
    assert (closed.status, closed.success) == (Status.COMPLETED, True)
    # The opening's, the shards' and its own.
    assert (closed.counts["updated_count"], closed.counts["due_count"]) == (5, 7)
    assert [part for part, _ in firing.parts] == [Part.OPENING, Part.SHARD, Part.SHARD, Part.SHARD, Part.CLOSING]
    again = firing.run()
    assert (again.status, again.counts) == (Status.REPLAYED, closed.counts)
    # And from the ledger, where Redis has lost it.
    firing.environment.services.redis._client.flushdb()  # type: ignore[union-attr]
    assert firing.run().counts == closed.counts
    assert firing.rows() == [
        (0, 0, "incomplete"), (1, 1, "completed"), (2, 1, "completed"), (3, 1, "completed"), (0, 1, "completed"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_in_any_order_and_however_often_delivered_everything_is_done_once(firing: Firing, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  no secret
    due: list[Callable[[], Outcome]] = [firing.run]
    known = 0
    while due:
        deliver = due.pop(rng.randrange(len(due)))
        for _ in range(rng.choice((1, 1, 2, 3))):
            outcome = deliver()
            assert outcome.status in (Status.COMPLETED, Status.REPLAYED, Status.INCOMPLETE)
        due += [lambda number=number: firing.deliver(number) for number in range(known, len(firing.taking.names))]  # type: ignore[misc]
        known = len(firing.taking.names)
        if rng.random() < 0.3:
            due.append(firing.run)
    did = Counter(firing.parts)
    assert {(part, number): count for (part, number), count in did.items() if part is not Part.OPENING} == {
        **{(Part.SHARD, number): 1 for number in range(1, SHARDS + 1)},
        (Part.CLOSING, 0): 1,
    }
    last = firing.run()
    assert (last.status, last.counts["updated_count"]) == (Status.REPLAYED, len(firing.parts))


def test_an_opening_that_is_not_over_hands_nothing_over(firing: Firing) -> None:
    def stay(ctx: Context) -> JobResult | None:
        return JobResult("rows stayed locked", complete=False) if ctx.share.part is Part.OPENING else None

    firing.orders = stay
    opened = firing.run()
    assert (opened.status, opened.details, firing.queued) == (Status.INCOMPLETE, {}, [])

    def no_time(ctx: Context) -> JobResult | None:
        firing.clock.set(ctx.deadline_at)
        return stay(ctx)

    firing.orders = no_time
    assert (firing.run().details, firing.queued) == ({"continued_by": 1}, [(0, 1)])
    firing.orders = lambda _: None
    assert firing.deliver(0).details == {"handed_to": SHARDS}


def test_a_shard_whose_time_ran_out_goes_on_in_its_own_next_step(firing: Firing) -> None:
    firing.run()

    def no_time(ctx: Context) -> JobResult:
        firing.clock.set(ctx.deadline_at)
        return JobResult("time ran out", complete=False)

    firing.orders = no_time
    assert firing.deliver(1).details == {"continued_by": 2}
    assert firing.queued[3:] == [(2, 2)]
    firing.orders = lambda _: None
    assert [firing.deliver(number).status for number in (3, 0, 2, 4)] == [Status.COMPLETED] * 4
    assert (firing.rows()[-1], firing.run().counts["updated_count"]) == ((0, 1, "completed"), 6)


def test_where_the_ledger_is_away_the_queue_is_not_blamed(make_environment: MakeEnvironment) -> None:
    changes = {"DATABASE_URL": "postgresql://ann@127.0.0.1:1/files", "CONTINUATION_QUEUE": QUEUE}
    services = make_environment({**changes, "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1"}).services
    job = replace(JOBS["stripe_reconcile"], shards=SHARDS)
    done = Outcome(Status.COMPLETED, True, "Did it", job.name, slot=NOON)
    told = continued(services, job, Invocation("task", NOON, step=1, shard=1, host="127.0.0.1"), done, Left.NOTHING)
    assert (told.status, told.success, told.details) == (Status.UNAVAILABLE, False, {"service": "postgres"})


def test_where_the_queue_is_away_whoever_asked_tries_again(firing: Firing) -> None:
    firing.taking.refuse = grpc.StatusCode.UNAVAILABLE
    opened = firing.run()
    assert (opened.status, opened.details) == (Status.INCOMPLETE, {})
    firing.taking.refuse = None
    assert firing.run().details == {"handed_to": SHARDS}
    for number in (0, 1):
        firing.deliver(number)
    firing.taking.refuse = grpc.StatusCode.UNAVAILABLE
    last = firing.deliver(2)
    # What the shard did is on record; the answer makes Cloud Tasks deliver it again.
    assert (last.status, last.success) == (Status.UNAVAILABLE, False)
    assert ("could not be queued" in last.message, last.details) == (True, {"service": "cloud_tasks"})
    firing.taking.refuse = None
    again = firing.deliver(2)
    assert (again.status, again.details) == (Status.REPLAYED, {"continued_by": 1})
    assert firing.deliver(3).status is Status.COMPLETED


def test_what_shards_could_not_do_counts_in_the_result(firing: Firing) -> None:
    def fail(ctx: Context) -> None:
        if ctx.share.part is Part.SHARD:
            ctx.item_failed(f"item {ctx.share.number}", "it is broken")

    firing.orders = fail
    firing.run()
    for number in range(4):
        outcome = firing.deliver(number)
    assert (outcome.counts["failed_count"], outcome.success) == (SHARDS, True)
    assert firing.run().counts["failed_count"] == SHARDS


def test_the_closing_knows_what_the_opening_left(firing: Firing) -> None:
    left: list[tuple[Part, dict[str, int]]] = []

    def note(ctx: Context) -> None:
        left.append((ctx.share.part, dict(ctx.left)))
        if ctx.share.part is Part.OPENING:
            ctx.item_failed("one", "it is broken")

    firing.orders = note
    firing.run()
    for number in range(3):
        firing.deliver(number)
    # A pause comes between, which leaves a run on record that found nothing.
    firing.database.execute(
        "INSERT INTO maintenance.controls (job, paused_until, by, why) VALUES ('in_shards', :until, 'me', 'why')",
        until=NOON + timedelta(hours=1),
    )
    assert firing.deliver(3).status is Status.PAUSED
    firing.database.execute("DELETE FROM maintenance.controls")
    firing.deliver(3)
    assert left[-1] == (Part.CLOSING, {"due_count": 7, "failed_count": 1})


def test_a_shard_alone_is_no_success_of_the_job(firing: Firing) -> None:
    services, jobs = firing.environment.services, {firing.job.name: firing.job}
    firing.run()
    for number in range(SHARDS):
        firing.deliver(number)
        assert health(services, firing.job, jobs)["jobs"][0]["last_success"] is None  # type: ignore[index]
    firing.deliver(3)
    assert health(services, firing.job, jobs)["jobs"][0]["last_success"] is not None  # type: ignore[index]


def test_a_firing_is_closed_by_shards_of_one_division_alone(firing: Firing) -> None:
    firing.run()
    firing.deliver(0)
    firing.deliver(1)
    # Half of what was one shard's then.
    firing.job = replace(firing.job, shards=2)
    assert firing.run().details == {"handed_to": 2}
    assert all(part is not Part.CLOSING for part, _ in firing.parts)
    firing.job = replace(firing.job, shards=SHARDS)
    firing.deliver(2)
    assert firing.run().status is Status.COMPLETED


def test_a_line_says_which_shard_it_is_of_and_what_that_run_did_itself(firing: Firing) -> None:
    firing.run()
    for number in range(4):
        firing.deliver(number)
    lines = [line for line in firing.environment.lines() if line["event"] == "finish"]
    assert [line.get("shard") for line in lines] == [None, 1, 2, 3, None]
    assert [line["severity"] for line in lines] == ["INFO"] * 5
    assert [line["own"]["updated_count"] for line in lines] == [1] * 5
    assert lines[-1]["updated_count"] == 5


def test_a_shard_that_is_delivered_in_report_mode_does_not_look(
    firing: Firing, make_environment: MakeEnvironment
) -> None:
    firing.run()
    did = len(firing.parts)
    firing.environment = make_environment({"MAINTENANCE_MODE": "report"})
    outcome = firing.deliver(0)
    assert (outcome.status, outcome.dry_run, len(firing.parts)) == (Status.COMPLETED, True, did)
    assert "report mode" in outcome.message.lower()


def test_without_a_queue_a_firing_is_done_as_a_whole(firing: Firing, make_environment: MakeEnvironment) -> None:
    firing.environment = make_environment()
    assert (firing.run().status, firing.parts) == (Status.COMPLETED, [(Part.WHOLE, 0)])


def test_a_dry_run_is_one_of_everything(firing: Firing) -> None:
    firing.orders = lambda _: JobResult("looked")
    firing.job = ordered("in_shards", lambda ctx: JobResult(ctx.share.part.name), shards=SHARDS)
    outcome = firing.run(dry_run=True, slot=None)
    assert (outcome.status, outcome.message, firing.queued) == (Status.COMPLETED, "WHOLE", [])


def test_after_the_last_step_somebody_is_told(firing: Firing) -> None:
    firing.run()
    firing.database.execute("UPDATE maintenance.runs SET step = :step", step=LARGEST_STEP)
    for number in range(SHARDS):
        outcome = firing.deliver(number)
    assert (outcome.details, len(firing.queued)) == ({"last_step": LARGEST_STEP}, SHARDS)
    assert [line["event"] for line in firing.environment.lines()].count("steps") == 1


# ---- what a task may name, and which keys are whose


@pytest.mark.parametrize("shard", [-1, 4, True, "1", 1.0, None])
def test_a_shard_that_is_none_of_the_jobs_is_refused(shard: object) -> None:
    body = f'{{"slot": "2026-05-15T00:30:00Z", "step": 1, "shard": {json.dumps(shard)}}}'.encode()
    with pytest.raises(BadRequest) as refused:
        parse_task(body, NOON, SHARDS)
    assert refused.value.field == "shard"


@given(st.integers(2, LARGEST_SHARDS))
def test_each_key_is_one_shards(of: int) -> None:
    ranges = [Share(Part.SHARD, number, of).keys for number in range(1, of + 1)]
    edges = [(each["lowest_hash"], each["highest_hash"]) for each in ranges]
    assert (edges[0][0], edges[-1][1]) == (-(2**31), 2**31 - 1)
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(edges))  # type: ignore[operator]
    sizes = [high - low for low, high in edges]  # type: ignore[operator]
    assert max(sizes) - min(sizes) <= 1


def test_what_is_no_shard_has_all_keys() -> None:
    for part in (Part.WHOLE, Part.OPENING, Part.CLOSING):
        assert set(Share(part, 0, SHARDS).keys.values()) == {None}


@pytest.mark.parametrize("name", ["stripe_reconcile", "artifact_cleanup", "abandoned_cleanup", "opt_out_cleanup"])
def test_a_job_that_waits_on_others_can_be_done_in_shards(name: str) -> None:
    module = JOBS[name].load_sharded()
    assert all(callable(each) for each in (module.open_slot, module.run_shard, module.close_slot))


def test_a_late_shard_is_refused_like_any_late_step(firing: Firing) -> None:
    firing.run()
    firing.clock.advance(hours=37)
    with pytest.raises(BadRequest, match="36 hours"):
        firing.deliver(0)
    assert firing.clock.now() == NOON + timedelta(hours=37)
