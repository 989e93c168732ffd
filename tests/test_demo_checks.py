"""What the demo shows is checked: when something is not as it should be, it says what, and ends with 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from devstack import demo, demo_cleanups, demo_periods, demo_usage, stripe_account
from devstack.demo_cleanups_seed import Seeding
from devstack.demo_scene import Stage
from devstack.gcs_front import GcsFront
from devstack.prepared import Prepared
from devstack.serving import Answer
from devstack.stack import Stack
from devstack.stripe_routes import Params, Routes
from devstack.stripe_server import Recorded

Sabotage = Callable[[pytest.MonkeyPatch], None]


def slow(sabotage: Sabotage, told: str) -> object:
    return pytest.param(sabotage, told, marks=pytest.mark.slow)


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
    # The job's own audit may or may not have come to it by then: what is at Stripe is to tell.
    patch.setattr(demo_usage, "expected", lambda _what, answer, *_, **__: answer)


@pytest.mark.parametrize(
    ("sabotage", "told"),
    [
        (another_count_is_expected, "Its counters_created is 7700; expected was 7699."),
        slow(a_firing_is_run_again, "The second delivery was answered with 200 completed"),
        (a_dry_run_writes, "The data was changed by the dry run."),
        slow(a_dry_run_sends, "The dry run sent 1 requests that are no reads."),
        slow(stripe_forgets_identifiers, "pages of cus_"),
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
    fails(servers, capsys, told, "periods", "usage")


# --- the cleanups


def figures_are_believed(patch: pytest.MonkeyPatch) -> None:
    """Let a job's own figures be whatever they are, so that only what is there tells."""
    patch.setattr(demo_cleanups, "expected", lambda _what, answer, *_, **__: answer)


def with_other(change: Callable[[Prepared, GcsFront], Prepared], *, believed: bool = True) -> Sabotage:
    """Settings or a bucket other than the demo reckons with."""

    def sabotage(patch: pytest.MonkeyPatch) -> None:
        usual = demo_cleanups.with_front

        def with_front(prepared: Prepared, cleanup: ExitStack) -> tuple[Prepared, GcsFront]:
            prepared, front = usual(prepared, cleanup)
            return change(prepared, front), front

        patch.setattr(demo_cleanups, "with_front", with_front)
        if believed:
            figures_are_believed(patch)

    return sabotage


def with_setting(name: str, value: str, *, believed: bool = True) -> Sabotage:
    return with_other(
        lambda prepared, _: replace(prepared, settings={**prepared.settings, name: value}), believed=believed
    )


def with_bucket(happens: Callable[[GcsFront], object]) -> Sabotage:
    def change(prepared: Prepared, front: GcsFront) -> Prepared:
        happens(front)
        return prepared

    return with_other(change)


def during_a_dry_run(statement: str) -> Sabotage:
    def write(stage: Stage) -> None:
        with stage.scene.prepared.transaction() as connection:
            connection.execute(text(statement))

    return lambda patch: during_dry_runs(patch, write)


def a_change_is_not_expected(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seeding, "change", lambda *_: None)
    figures_are_believed(patch)


@pytest.mark.parametrize(
    ("sabotage", "told"),
    [
        (
            with_setting("USAGE_COUNTER_RETENTION_MONTHS", "12"),
            "'13 months ago or later' is gone, and should have stayed.",
        ),
        slow(with_setting("USAGE_COUNTER_RETENTION_MONTHS", "14"), "months ago' is still there, and should have gone"),
        slow(with_setting("ABANDONED_AFTER_DAYS", "46"), "of 'idle for 45 days' is still there"),
        (with_setting("OPT_OUT_GRACE_DAYS", "1"), "'completed yesterday' is gone, and should have stayed."),
        slow(with_setting("ARTIFACT_RETENTION_DAYS", "2"), "'conversion, 3 days' is gone, and should have stayed."),
        slow(with_setting("ORPHAN_AGE_DAYS", "9"), "'of a deleted job, 10 days' is gone, and should have stayed."),
        slow(with_setting("ORPHAN_MAX_FLOOR", "99", believed=False), "That firing was answered with 200 completed"),
        slow(with_setting("OPT_OUT_GRACE_DAYS", "11", believed=False), "Its jobs_cleaned is 0; expected was 16."),
        (with_bucket(lambda front: front.hold(None)), "is still there, and should have gone"),
        slow(with_bucket(lambda front: front.bucket_fields.clear()), "says that copies remain until None, not"),
        slow(a_change_is_not_expected, "of 'shared with an appended run' was changed, or not as it should have been"),
        (
            during_a_dry_run("UPDATE job_runs SET description = 'x'"),
            "was changed by the dry run: A row of job",
        ),
        slow(
            during_a_dry_run("UPDATE maintenance.object_deletions SET error = (SELECT string_agg(id, ' ') FROM users)"),
            "the records say who or what it was",
        ),
        slow(a_firing_is_run_again, "The second delivery was answered with 200 completed"),
    ],
)
def test_what_a_cleanup_did_wrong_is_told(
    servers: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sabotage: Sabotage,
    told: str,
) -> None:
    # Other users' accounts and counters are of no account here.
    monkeypatch.setattr(demo, "PER_KIND", 10)
    sabotage(monkeypatch)
    fails(servers, capsys, told, "cleanups")


def fails(servers: Stack, capsys: pytest.CaptureFixture[str], told: str, *parts: str) -> None:
    """The demo's parts end with 1, and say why."""
    given = {
        "DATABASE_URL": servers.database_url,
        "REDIS_URL": servers.redis_url,
        "STORAGE_EMULATOR_HOST": servers.gcs_url,
    }
    assert demo.main(given, *parts) == 1
    said = capsys.readouterr()
    assert said.err.startswith("Failed: ")
    assert told in " ".join(said.err.split())
    assert "All of it was as it should be" not in said.out
