"""Metrics, alerts and the dashboard against the lines that the code really logs."""

import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from functions.registry import JOBS
from shared.clock import SystemClock
from shared.health import health
from shared.logline import Log, Redactor
from shared.outcome import Outcome, Status
from tests.conftest import Environment, MakeEnvironment
from tests.infra.conftest import Install
from tests.infra.installing import Installation
from tests.support.clock import ManualClock

pytestmark = pytest.mark.timeout(600)

# Statuses that are no alert: the next attempt takes the work up, and if none succeeds the job is overdue.
QUIET = {"busy", "fenced", "unavailable", "incomplete"}


# How long each alert looks back, in seconds, and more than how many lines it takes.
WINDOWS = {
    "failed": (86400, 0),
    "overdue": (900, 0),
    "backlog": (900, 0),
    "degraded": (86400, 3),
    "steps": (86400, 0),
    "late": (86400, 0),
    "dead_letter": (86400, 0),
    "expired": (86400, 0),
    "drift": (86400, 0),
    "outbox": (900, 0),
}
# What tells of all jobs together: they share one outbox, and one Redis.
TOGETHER = {"outbox", "degraded"}
# What is no news where nothing may be sent or deleted.
ENFORCING = {"backlog", "outbox"}


@pytest.fixture
def enforcing(installed: Install) -> Installation:
    return installed("existing")


# Over how long each chart looks: two health checks, two runs, an hour's runs, a day.
CHARTS = {
    "since_success_minutes": "10m",
    "backlog_minutes": "10m",
    "drift_count": "2h",
    "duration_ms": "1h",
    "by (job, status)": "1h",
    "maintenance_runs": "1d",
    "maintenance_failed": "1d",
    "maintenance_items_": "1d",
}


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
    default: Installation, make_environment: MakeEnvironment, environment: Environment, clock: ManualClock
) -> None:
    environment.run()
    without_redis = make_environment({"REDIS_URL": "redis://127.0.0.1:1/0"})
    without_redis.run()
    clock.set(clock.now() + timedelta(minutes=5))
    health(environment.services, JOBS["period_reset"], JOBS)
    lines = [*environment.lines(), *without_redis.lines()]
    logged = {path for line in lines for path in paths(line)}
    # What a run of another job would log: its figures stand in its finish line by the names that it declares. That a
    # shard's line says so is held by tests/test_shards.py.
    logged |= {f"jsonPayload.{name}" for job in JOBS.values() for name in (*job.counts, *job.gauges)}
    logged |= {f"jsonPayload.own.{name}" for job in JOBS.values() for name in job.counts}
    logged.add("jsonPayload.shard")
    for name, metric in metrics(default).items():
        read = set(re.findall(r"jsonPayload(?:\.\w+)+", json.dumps(metric)))
        assert read, name
        assert read <= logged, name
    assert {"finish", "health"} <= {line["event"] for line in lines}
    assert [line["degraded"] for line in lines if line["event"] == "finish" and "degraded" in line] == [["redis"]]


def test_each_alert_counts_lines_of_a_metric_that_there_is(enforcing: Installation) -> None:
    watched = dict(conditions(enforcing))
    assert set(watched) == {f"maintenance/{name}" for name in WINDOWS}
    assert set(watched) <= set(metrics(enforcing))
    for metric, threshold in watched.items():
        name = metric.removeprefix("maintenance/")
        (aggregation,) = threshold["aggregations"]
        # Each job has an incident of its own.
        assert (aggregation["group_by_fields"] or []) == ([] if name in TOGETHER else ["metric.label.job"])
        assert (aggregation["per_series_aligner"], aggregation["cross_series_reducer"]) == ("ALIGN_SUM", "REDUCE_SUM")
        seconds, above = WINDOWS[name]
        assert aggregation["alignment_period"] == f"{seconds}s"
        assert (threshold["comparison"], threshold["threshold_value"]) == ("COMPARISON_GT", above)
        assert threshold["duration"] == "0s"
    assert len(enforcing.planned.of("google_monitoring_alert_policy")) == 5


def test_in_report_mode_nothing_alerts_that_only_waits(default: Installation) -> None:
    assert {metric for metric, _ in conditions(default)} == {
        f"maintenance/{name}" for name in WINDOWS.keys() - ENFORCING
    }


def test_metrics_name_the_job_and_the_status_that_a_line_names(default: Installation) -> None:
    for index, metric in default.planned.of("google_logging_metric").items():
        counted = metric["metric_descriptor"][0]["value_type"] == "INT64"
        extractors = {"job": "EXTRACT(jsonPayload.job)"} | (
            {"status": "EXTRACT(jsonPayload.status)"} if counted else {}
        )
        assert metric["label_extractors"] == extractors, index
        assert {label["key"] for label in metric["metric_descriptor"][0]["labels"]} == set(extractors), index
        assert metric["metric_descriptor"][0]["metric_kind"] == "DELTA"
        assert counted or re.fullmatch(r"EXTRACT\(jsonPayload(\.\w+)+\)", metric["value_extractor"]), index


def test_what_the_next_attempt_takes_up_alerts_nobody(default: Installation) -> None:
    failed = metrics(default)["maintenance/failed"]["filter"]
    (named,) = re.findall(r"jsonPayload\.status=\(([^)]*)\)", failed)
    assert set(re.findall(r'"(\w+)"', named)) == {"failed", "refused", "misconfigured"}
    for metric, _ in conditions(default):
        told = metrics(default)[metric]["filter"]
        assert not QUIET & set(re.findall(r'"(\w+)"', told)), metric


def test_lateness_is_told_by_health_lines(installed: Install) -> None:
    told = metrics(installed())
    # Two intervals and a quarter of an hour: of two hours here, of half an hour there.
    backlog = 'jsonPayload.job="stripe_reconcile" AND jsonPayload.waiting.oldest_waiting_minutes>'
    assert f"{backlog}255)" in told["maintenance/backlog"]["filter"]
    assert f"{backlog}75)" in metrics(installed("full"))["maintenance/backlog"]["filter"]


def test_a_silent_health_check_is_told_after_half_an_hour(default: Installation) -> None:
    policy = default.planned.of("google_monitoring_alert_policy", "silent")["silent"]
    (condition,) = policy["conditions"]
    (missed,) = condition["condition_prometheus_query_language"]
    # Of all jobs together: as long as one line comes, the health check is there. Two checks are due in ten minutes; no
    # line at all, from the first day on, is none of them.
    counted = 'increase(logging_googleapis_com:user_maintenance_health{monitored_resource="cloud_run_revision"}[10m])'
    assert missed["query"] == f"(sum({counted}) or vector(0)) < 1"
    assert (missed["duration"], missed["evaluation_interval"]) == ("1800s", "300s")
    assert missed["disable_metric_validation"]


def test_who_is_told_is_told_once_a_day(installed: Install) -> None:
    done = installed("full")
    channels = done.applied.of("google_monitoring_notification_channel")
    assert {each["labels"]["email_address"] for each in channels.values()} == {"ops@example.com"}
    ids = {each["id"] for each in channels.values()}
    policies = done.applied.of("google_monitoring_alert_policy")
    for name, policy in policies.items():
        assert set(policy["notification_channels"]) == ids, name
        assert policy["documentation"][0]["content"], name
        assert int(policy["alert_strategy"][0]["auto_close"].removesuffix("s")) >= 1800, name
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
            selectors = re.findall(r"logging_googleapis_com:\w+(\S*?)\[(\w+)\]", query)
            assert len(selectors) == query.count("logging_googleapis_com")
            # A log-based metric may be of several kinds of resources; PromQL must be told of which.
            assert all(chosen.startswith('{monitored_resource="cloud_run_revision"') for chosen, _ in selectors), query
            (window,) = {window for _, window in selectors}
            assert window == next(window for part, window in CHARTS.items() if part in query), query
            used = set(re.findall(r"logging_googleapis_com:user_(\w+?)(?:_sum|_count)?[\[{]", query))
            # drift_count is a metric's own name; its sum and its count are told apart by their last word.
            assert {name for name in used if name in known or f"{name}_count" in known} == used, query
            shown |= used
    assert {f"maintenance_items_{name}" for name in JOBS} <= shown
    assert {"maintenance_since_success_minutes", "maintenance_duration_ms", "maintenance_backlog_minutes"} <= shown
    texts = json.dumps(tiles)
    assert "maintenance_drift_count_sum" in texts


# ---- what each filter takes of the lines that are logged ----

_TOKEN = re.compile(r'\s*("[^"]*"|[()]|>=|<=|[=><]|[\w./:-]+)')


class Filter:
    """The part of Cloud Logging's query language that our filters use. In it OR binds closer than AND."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        assert "".join(self._tokens) == re.sub(r"\s", "", text), text
        self._at = 0
        self.matches = self._all()
        assert self._at == len(self._tokens), text

    def _next(self) -> str:
        token: str = self._tokens[self._at]
        self._at += 1
        return token

    def _seen(self, token: str) -> bool:
        seen = self._tokens[self._at : self._at + 1] == [token]
        self._at += seen
        return seen

    def _all(self) -> Any:
        parts = [self._any()]
        while self._seen("AND"):
            parts.append(self._any())
        return lambda entry: all(part(entry) for part in parts)

    def _any(self) -> Any:
        parts = [self._one()]
        while self._seen("OR"):
            parts.append(self._one())
        return lambda entry: any(part(entry) for part in parts)

    def _one(self) -> Any:
        if self._seen("NOT"):
            negated = self._one()
            return lambda entry: not negated(entry)
        if self._seen("("):
            inner = self._all()
            assert self._next() == ")"
            return inner
        path, operator = self._next(), self._next()
        values = [self._next()]
        if values == ["("]:
            values = [self._next()]
            while self._seen("OR"):
                values.append(self._next())
            assert self._next() == ")"
        return lambda entry: any(_compare(_field(entry, path), operator, value) for value in values)


def _field(entry: Any, path: str) -> list[Any]:
    """The values of a field; a comparison with a list holds where it holds for one of its items."""
    for name in path.split("."):
        if not isinstance(entry, dict) or name not in entry:
            return []
        entry = entry[name]
    return entry if isinstance(entry, list) else [] if entry is None else [entry]


def _compare(found: list[Any], operator: str, literal: str) -> bool:
    value = json.loads(literal)
    for each in found:
        if isinstance(each, bool) is not isinstance(value, bool) or isinstance(each, str) is not isinstance(value, str):
            continue
        if {"=": each == value, ">": each > value, ">=": each >= value, "<": each < value, "<=": each <= value}[
            operator
        ]:
            return True
    return False


def _line(event: str, **fields: Any) -> dict[str, Any]:
    """A line as it is logged."""
    stream = io.StringIO()
    message = str(fields.pop("message", ""))
    Log(stream, SystemClock(), Redactor()).write("INFO", message, event=event, **fields)
    line: dict[str, Any] = json.loads(stream.getvalue())
    return line


def _run(
    status: str, job: str = "stripe_reconcile", event: str = "finish", *, success: bool | None = None,
    dry_run: bool = False, degraded: bool = False, **figures: int,
) -> dict[str, Any]:  # fmt: skip
    """The last line of an invocation, as the runner writes it."""
    counts = dict.fromkeys((*JOBS[job].counts, *JOBS[job].gauges, "failed_count"), 0) if event == "finish" else {}
    details = {"degraded": ["redis"]} if degraded else {}
    outcome = Outcome(
        Status(status), status == "completed" if success is None else success, "What came of it.", job,
        dry_run=dry_run, duration_ms=5, counts={**counts, **figures}, details=details,
    )  # fmt: skip
    own = {"own": dict.fromkeys(JOBS[job].counts, 1)} if event == "finish" else {}
    return _line(event, trigger="schedule", **outcome.as_json(), **own)


def _health(
    job: str = "stripe_reconcile", *, overdue: bool = False, since: int | None = 5, **waiting: int
) -> dict[str, Any]:
    """The health line of a job; without `waiting` where the login may not look."""
    return _line(
        "health", job=job, since_success_minutes=since, next_firing="2026-01-01T00:00:00Z", overdue=overdue,
        waiting=waiting or None,
    )  # fmt: skip


_STRIPE = {"runs", "duration_ms", "drift_count", "items/stripe_reconcile"}
_HEALTH = {"health", "since_success_minutes"}
LINES: list[tuple[dict[str, Any], set[str]]] = [
    (_run("completed"), _STRIPE),
    (_run("completed", "period_reset", updated_count=7), {"runs", "duration_ms", "items/period_reset"}),
    # Without Redis a firing in shards is one run in which it was missed, and not as many as it has shards.
    (_run("completed", degraded=True, shard=2), _STRIPE),
    (_run("completed", success=False), _STRIPE | {"failed"}),
    (_run("failed"), _STRIPE | {"failed"}),
    (_run("refused", "opt_out_cleanup"), {"runs", "duration_ms", "items/opt_out_cleanup", "failed"}),
    (_run("misconfigured", event="answer"), {"failed"}),
    (_run("failed", event="answer"), {"failed"}),
    (_run("unavailable"), _STRIPE),
    (_run("incomplete"), _STRIPE),
    (_run("fenced"), _STRIPE),
    (_run("incomplete", event="steps"), {"steps"}),
    (_run("busy", event="answer"), set()),
    (_run("unavailable", event="answer"), set()),
    (_run("replayed", event="answer", success=True), set()),
    (_run("completed", degraded=True), _STRIPE | {"degraded"}),
    (_run("completed", late_count=1), _STRIPE | {"late"}),
    (_run("completed", late_count=1, dry_run=True), _STRIPE),
    (_run("completed", expired_count=1), _STRIPE | {"expired"}),
    (_run("completed", expired_count=1, dry_run=True), _STRIPE),
    (_run("completed", dead_letter_count=1), _STRIPE | {"dead_letter"}),
    (_run("completed", unresolved_drift_count=1), _STRIPE | {"drift"}),
    (_health(), _HEALTH),
    (_health(since=None), {"health"}),
    (_health(overdue=True), _HEALTH | {"overdue"}),
    (_health(oldest_waiting_minutes=0, dead_letter_count=0, unresolved_drift_count=0), _HEALTH | {"backlog_minutes"}),
    (_health(oldest_waiting_minutes=255), _HEALTH | {"backlog_minutes"}),
    (_health(oldest_waiting_minutes=256), _HEALTH | {"backlog_minutes", "backlog"}),
    (_health(dead_letter_count=1), _HEALTH | {"dead_letter"}),
    (_health(unresolved_drift_count=1), _HEALTH | {"drift"}),
    (_health("artifact_cleanup", oldest_open_minutes=2880), _HEALTH),
    (_health("artifact_cleanup", oldest_open_minutes=2881), _HEALTH | {"outbox"}),
    (_line("attention", job="stripe_reconcile", late_count=1), set()),
    (_line("error", job="stripe_reconcile", error_type="ValueError"), set()),
]


def _counting(default: Installation, line: dict[str, Any], service: str) -> set[str]:
    """The metrics that take a line of a service."""
    resource = {"type": "cloud_run_revision", "labels": {"service_name": service}}
    return {
        name.removeprefix("maintenance/") for name, metric in metrics(default).items()
        if Filter(metric["filter"]).matches({"resource": resource, "jsonPayload": line})
    }  # fmt: skip


def test_each_line_is_counted_by_the_metrics_that_mean_it(default: Installation) -> None:
    for line, expected in LINES:
        service = str(line["job"]).replace("_", "-")
        assert _counting(default, line, service) == expected, line
        # A line of the same form from something else in the project is none of ours.
        assert _counting(default, line, "something-else") == set()
    counted = {name for _, expected in LINES for name in expected}
    known = {name.removeprefix("maintenance/") for name in metrics(default)}
    assert {name for name in known if not name.startswith("items/")} <= counted
