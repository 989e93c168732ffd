"""What the demo shows is checked: when something is not as it should be, it says what, and ends with 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from devstack import demo, demo_periods, stripe_account
from devstack.demo_scene import Stage
from devstack.serving import Answer
from devstack.stack import Stack
from devstack.stripe_routes import Params, Routes
from devstack.stripe_server import Recorded

Sabotage = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with Stack({}, postgres_settings={"fsync": "off"}) as stack:
        yield stack


def another_count_is_expected(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(demo_periods, "EARLY_COUNTERS", 301)


def during_dry_runs(patch: pytest.MonkeyPatch, happens: Callable[[Stage], object]) -> None:
    usual = Stage.dry_run

    def dry_run(stage: Stage, request: dict[str, object]) -> Answer:
        happens(stage)
        return usual(stage, request)

    patch.setattr(Stage, "dry_run", dry_run)


def a_dry_run_writes(patch: pytest.MonkeyPatch) -> None:
    def write(stage: Stage) -> None:
        with stage.scene.prepared.transaction() as connection:
            connection.execute(text("UPDATE usage_events SET notes = 'x'"))

    during_dry_runs(patch, write)


def a_dry_run_sends(patch: pytest.MonkeyPatch) -> None:
    post = Recorded("POST", "/v1/billing/meter_events", {}, b"", 200, datetime(2026, 1, 1, tzinfo=UTC))
    during_dry_runs(patch, lambda stage: stage.scene.prepared.stripe.requests.append(post))


def a_firing_is_run_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stage, "fire_again", lambda stage, slot: stage.fire(slot - timedelta(days=1)))


def stripe_forgets_identifiers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stripe_account, "IDENTIFIER_LIFETIME", timedelta(0))


def stripe_counts_in_the_wrong_period(patch: pytest.MonkeyPatch) -> None:
    usual = Routes.create_event

    def create_event(routes: Routes, params: Params) -> dict[str, object]:
        return usual(routes, {name: value for name, value in params.items() if name != "timestamp"})

    patch.setattr(Routes, "create_event", create_event)


@pytest.mark.parametrize(
    ("sabotage", "told"),
    [
        (another_count_is_expected, "Its counters_created is 7700; expected was 7699."),
        (a_firing_is_run_again, "The second delivery was answered with 200 completed"),
        (a_dry_run_writes, "The data was changed by the dry run."),
        (a_dry_run_sends, "The dry run sent 1 requests that are no reads."),
        (stripe_forgets_identifiers, "pages of cus_"),
        (stripe_counts_in_the_wrong_period, "370 pages are in a period too late."),
    ],
)
def test_what_is_not_as_it_should_be_is_told(
    servers: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sabotage: Sabotage,
    told: str,
) -> None:
    sabotage(monkeypatch)
    assert demo.main({"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}) == 1
    said = capsys.readouterr()
    assert said.err.startswith("Failed: ")
    assert told in " ".join(said.err.split())
    assert "All of it was as it should be" not in said.out
