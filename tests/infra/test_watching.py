"""Metrics, alerts and the dashboard against the lines that the code really logs."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from functions.registry import JOBS
from shared.health import health
from tests.conftest import Environment
from tests.infra.conftest import Install
from tests.infra.installing import Installation
from tests.support.clock import ManualClock

pytestmark = pytest.mark.timeout(600)

# Statuses that are no alert: the next attempt takes the work up, and if none succeeds the job is overdue.
QUIET = {"busy", "fenced", "unavailable", "incomplete"}


@pytest.fixture
def default(installed: Install) -> Installation:
    return installed()


def metrics(done: Installation) -> dict[str, dict[str, Any]]:
    return {values["name"]: values for values in done.planned.of("google_logging_metric").values()}


def conditions(done: Installation) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each condition with a threshold, and the metric that it looks at."""
    for policy in done.planned.of("google_monitoring_alert_policy").values():
        for condition in policy["conditions"]:
            for threshold in condition["condition_threshold"]:
                (metric,) = re.findall(r'metric.type = "logging.googleapis.com/user/([^"]+)"', threshold["filter"])
                yield metric, threshold


def paths(value: object, above: str = "jsonPayload") -> Iterator[str]:
    """The path of each value in a log line."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from paths(item, f"{above}.{name}")
    else:
        yield above


def test_metrics_read_nothing_but_what_is_logged(
    default: Installation, environment: Environment, clock: ManualClock
) -> None:
    environment.run()
    clock.set(clock.now() + timedelta(minutes=5))
    health(environment.services, JOBS["period_reset"], JOBS)
    logged = {path for line in environment.lines() for path in paths(line)}
    # What a run of another job would log: its figures stand in its finish line by the names that it declares.
    logged |= {f"jsonPayload.{name}" for job in JOBS.values() for name in (*job.counts, *job.gauges)}
    for name, metric in metrics(default).items():
        read = set(re.findall(r"jsonPayload(?:\.\w+)+", json.dumps(metric)))
        assert read, name
        assert read <= logged, name
    events = {line["event"] for line in environment.lines()}
    assert {"finish", "health"} <= events


def test_each_alert_stands_on_a_metric_that_there_is(default: Installation) -> None:
    watched = dict(conditions(default))
    assert set(watched) == {
        f"maintenance/{name}"
        for name in ("failed", "overdue", "backlog", "late", "dead_letter", "expired", "drift", "outbox")
    }
    assert set(watched) <= set(metrics(default))
    for metric, threshold in watched.items():
        grouped = threshold["aggregations"][0]["group_by_fields"] or []
        # All jobs share the one outbox. For all else each job has an incident of its own.
        assert grouped == ([] if metric == "maintenance/outbox" else ["metric.label.job"])
        assert (threshold["comparison"], threshold["threshold_value"]) == ("COMPARISON_GT", 0)
    assert len(default.planned.of("google_monitoring_alert_policy")) == 5


def test_what_the_next_attempt_takes_up_alerts_nobody(default: Installation) -> None:
    failed = metrics(default)["maintenance/failed"]["filter"]
    (named,) = re.findall(r"jsonPayload\.status=\(([^)]*)\)", failed)
    assert set(re.findall(r'"(\w+)"', named)) == {"failed", "refused", "misconfigured"}
    for metric, _ in conditions(default):
        told = metrics(default)[metric]["filter"]
        assert not QUIET & set(re.findall(r'"(\w+)"', told)), metric


def test_lateness_is_told_by_health_lines(installed: Install) -> None:
    told = metrics(installed())
    assert 'jsonPayload.event="health" AND jsonPayload.overdue=true' in told["maintenance/overdue"]["filter"]
    # Two intervals and a quarter of an hour: of two hours here, of half an hour there.
    backlog = 'jsonPayload.job="stripe_reconcile" AND jsonPayload.waiting.oldest_waiting_minutes>'
    assert f"{backlog}255)" in told["maintenance/backlog"]["filter"]
    assert f"{backlog}75)" in metrics(installed("full"))["maintenance/backlog"]["filter"]
    assert "jsonPayload.waiting.oldest_open_minutes>2880" in told["maintenance/outbox"]["filter"]


def test_a_silent_health_check_is_told_after_half_an_hour(default: Installation) -> None:
    policy = default.planned.of("google_monitoring_alert_policy", "silent")["silent"]
    (condition,) = policy["conditions"]
    (absent,) = condition["condition_absent"]
    assert "maintenance/health" in absent["filter"]
    assert absent["duration"] == "1800s"
    # Of all jobs together: as long as one line comes, the health check is there.
    assert not absent["aggregations"][0]["group_by_fields"]


def test_who_is_told_is_told_once_a_day(installed: Install) -> None:
    done = installed("full")
    channels = done.applied.of("google_monitoring_notification_channel")
    assert {each["labels"]["email_address"] for each in channels.values()} == {"ops@example.com"}
    ids = {each["id"] for each in channels.values()}
    policies = done.applied.of("google_monitoring_alert_policy")
    for name, policy in policies.items():
        assert set(policy["notification_channels"]) == ids, name
        assert policy["documentation"][0]["content"], name
        if name != "silent":
            (strategy,) = policy["alert_strategy"][0]["notification_channel_strategy"]
            assert strategy["renotify_interval"] == "86400s"
            assert set(strategy["notification_channel_names"]) == ids


def test_the_dashboard_shows_what_there_is(default: Installation) -> None:
    (dashboard,) = default.planned.of("google_monitoring_dashboard").values()
    tiles = json.loads(dashboard["dashboard_json"])["mosaicLayout"]["tiles"]
    # No two tiles lie upon each other, and none reaches over the edge.
    taken = [
        (x, y)
        for tile in tiles
        for x in range(tile["xPos"], tile["xPos"] + tile["width"])
        for y in range(tile["yPos"], tile["yPos"] + tile["height"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 12
    known = {name.replace("/", "_") for name in metrics(default)}
    shown = set()
    for tile in tiles:
        for data in tile["widget"].get("xyChart", {}).get("dataSets", []):
            query = data["timeSeriesQuery"]["prometheusQuery"]
            used = set(re.findall(r"logging_googleapis_com:user_(\w+?)(?:_sum|_count)?[\[{]", query))
            # drift_count is a metric's own name; its sum and its count are told apart by their last word.
            assert {name for name in used if name in known or f"{name}_count" in known} == used, query
            shown |= used
    assert {f"maintenance_items_{name}" for name in JOBS} <= shown
    assert {"maintenance_since_success_minutes", "maintenance_duration_ms", "maintenance_backlog_minutes"} <= shown
    texts = json.dumps(tiles)
    assert "maintenance_drift_count_sum" in texts
