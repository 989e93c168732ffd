"""Each function is given the settings that its job reads, and no others.

What a job reads is found in the code. A setting's name leads to the attributes of Settings that it changes, found by
changing it. A job reads an attribute where a module of its package, or one that such a module imports, takes it from
the settings; or where something that serves all jobs does. And one function answers for all when Cloud Scheduler asks
for their health: what that reads is seen by letting it look.
"""

import ast
import dataclasses
import functools
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import grimp
import pytest

from devstack.serving import REPOSITORY
from functions.registry import JOBS
from shared.errors import Misconfigured
from shared.settings import Settings, parse_settings
from tests.conftest import Environment
from tests.infra.conftest import Install

pytestmark = pytest.mark.timeout(600)

_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"
_BASE = {
    "CLOUD_SQL_INSTANCE": "p:r:i",
    "DB_NAME": "db",
    "DB_USER": "user",
    "K_SERVICE": "x",
    "REDIS_URL": "redis://h:1/0",
    "CONTINUATION_QUEUE": "projects/p/locations/l/queues/q",
}
# A value of each setting that is none of the defaults.
OTHER = {
    "DB_NAME": "other",
    "DB_USER": "other",
    "CLOUD_SQL_INSTANCE": "p:r:other",
    "CLOUD_SQL_IP_TYPE": "private",
    "REDIS_URL": "rediss://other:1/0",
    "REDIS_CA_CERT": _CERTIFICATE,
    "FREE_PLAN_CODES": "trial",
    "MAINTENANCE_MODE": "report",
    "MAX_CONCURRENT_JOBS": "4",
    "RESULT_TTL_HOURS": "23",
    "LOCK_TTL_SECONDS": "59",
    "JOB_TIMEOUT_SECONDS": "600",
    "STRIPE_SECRET_KEY": "sk_live_x",
    "STRIPE_METER_PAGES": "mtr_other",
    "STRIPE_METER_EVENT_NAME": "other",
    "STRIPE_TAKEOVER_AT": "2026-01-01T00:00:00Z",
    "STRIPE_MIN_AGE_MINUTES": "16",
    "STRIPE_INVOICE_GRACE_MINUTES": "61",
    "STRIPE_RATE": "5",
    "STRIPE_READ_RATE": "3",
    "GCS_BUCKET_NAME": "other",
    "CONTINUATION_QUEUE": "projects/p/locations/l/queues/other",
    "USAGE_COUNTER_RETENTION_MONTHS": "14",
    "ABANDONED_AFTER_DAYS": "31",
    "ARTIFACT_RETENTION_DAYS": "8",
    "ORPHAN_AGE_DAYS": "15",
    "OPT_OUT_GRACE_DAYS": "8",
    "MAX_DELETE_FRACTION": "0.4",
    "MAX_DELETE_FLOOR": "999",
    "ORPHAN_MAX_FRACTION": "0.04",
    "ORPHAN_MAX_FLOOR": "19",
}
# Read, and never set by Terraform.
NEVER = {
    "DATABASE_URL": "the function comes through the connector: CLOUD_SQL_INSTANCE",
    "DB_PASSWORD": "a function logs in as its account",
    "K_SERVICE": "Cloud Run sets it",
    "K_REVISION": "Cloud Run sets it",
    "STRIPE_API_BASE": "for tests",
    "STORAGE_EMULATOR_HOST": "for tests",
    "CLOUD_TASKS_EMULATOR_HOST": "for tests",
}
# Set only where an installation gives them: their defaults are "not yet", or follow from Stripe's key.
OPTIONAL = {"STRIPE_TAKEOVER_AT", "STRIPE_RATE", "STRIPE_READ_RATE", "STRIPE_METER_EVENT_NAME"}

# The objects that hold settings, and the names under which code has them.
_GROUPS = {"cleanup": "gcs", "stripe": "stripe"}
_NAMES = {"settings", *_GROUPS}
# `Settings.secrets` is for the log: what it must not print. Nobody acts on it.
_FOR_THE_LOG = "secrets"


class Asked(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


def attributes(settings: Settings) -> dict[str, object]:
    """Every attribute that code can read, properties too: by its name, and its group's name before that."""
    found: dict[str, object] = {}
    for prefix, group in (("", settings), *((f"{name}.", getattr(settings, name)) for name in _GROUPS)):
        names = [field.name for field in dataclasses.fields(group)]
        names += [name for name in dir(type(group)) if isinstance(getattr(type(group), name), property)]
        found |= {prefix + name: getattr(group, name) for name in names if name not in _GROUPS}
    del found[_FOR_THE_LOG]
    return found


@functools.cache
def changed_by() -> Mapping[str, frozenset[str]]:
    """Which attributes each setting changes."""
    before = attributes(parse_settings(_BASE))
    result = {}
    for name, value in OTHER.items():
        after = attributes(parse_settings({**_BASE, name: value}))
        result[name] = frozenset(attribute for attribute in before if before[attribute] != after[attribute])
    return result


def test_every_setting_that_is_read_is_known_here_and_changes_something() -> None:
    asked = Asked(_BASE)
    parse_settings(asked)
    other_way = Asked({"DATABASE_URL": "postgresql://u:p@h/d"})
    parse_settings(other_way)
    assert asked.names | other_way.names == set(OTHER) | set(NEVER)
    assert [name for name, found in changed_by().items() if not found] == []


def taken(module: str) -> Iterator[str]:
    """The attributes that a module takes from settings, wherever it has them from."""
    path = REPOSITORY / (module.replace(".", "/") + ".py")
    file = path if path.exists() else REPOSITORY / module.replace(".", "/") / "__init__.py"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr not in _NAMES:
            holder = node.value
            name = (
                holder.attr if isinstance(holder, ast.Attribute) else holder.id if isinstance(holder, ast.Name) else ""
            )
            if name.lstrip("_") in _NAMES:
                yield node.attr


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("functions", "shared", cache_dir=None)


def read_by(job: str) -> set[str]:
    """The attributes that a job's run reads."""
    known = attributes(parse_settings(_BASE))
    start = JOBS[job].module
    own = {start} | {name for name in graph().find_upstream_modules(start) if name.startswith("functions.")}
    found = set()
    for module in own:
        for name in taken(module):
            found |= {attribute for attribute in known if attribute.split(".")[-1] == name}
    for module in graph().modules:
        # The readers of the environment make the settings; they do not act on them.
        if module.startswith("shared.") and not module.endswith("settings") and "migrations" not in module:
            for name in taken(module):
                found |= {
                    attribute for attribute in known
                    if attribute.split(".")[-1] == name and _serves(job, attribute)
                }  # fmt: skip
    return found


def _serves(job: str, attribute: str) -> bool:
    """Whether what all jobs share reads this for the job: of Stripe and of the bucket only where the job needs them."""
    group = attribute.split(".")[0]
    return "." not in attribute or _GROUPS[group] in JOBS[job].needs


class Watched:
    """Settings that remember what was read of them."""

    def __init__(self, value: object, read: set[str], prefix: str = "") -> None:
        self._value, self._read, self._prefix = value, read, prefix

    def __getattr__(self, name: str) -> object:
        value = getattr(self._value, name)
        if name in _GROUPS:
            return Watched(value, self._read, f"{name}.")
        self._read.add(self._prefix + name)
        return value


def read_for_health(environment: Environment) -> set[str]:
    """The attributes that looking at what waits reads, for all jobs."""
    read: set[str] = set()
    settings = cast(Settings, Watched(environment.services.settings, read))
    with environment.services.database.transaction(read_only=True) as transaction:
        for job in JOBS.values():
            job.load().waiting(transaction, environment.services.clock.now(), settings)
    # The health check takes the bucket that the database is bound to: the function that is asked may have none.
    return read - {"cleanup.bucket"}


@pytest.mark.parametrize("variant", ["default", "own key"])
def test_each_function_has_the_settings_that_it_reads_and_no_others(
    installed: Install, environment: Environment, variant: str
) -> None:
    done = installed(variant)
    asked = next(
        name for name, function in done.applied.of("google_cloudfunctions2_function").items()
        if function["service_config"][0]["uri"]
        == done.applied.of("google_cloud_scheduler_job", "health")["health"]["http_target"][0]["uri"]
    )  # fmt: skip
    for name, function in done.applied.of("google_cloudfunctions2_function").items():
        service = function["service_config"][0]
        secret = {each["key"] for each in service["secret_environment_variables"]}
        assert not secret & set(service["environment_variables"]), name
        given = {*service["environment_variables"], *secret}
        read = read_by(name) | (read_for_health(environment) if name == asked else set())
        expected = {setting for setting, found in changed_by().items() if found & read}
        if variant == "default":
            expected -= OPTIONAL
        assert given == expected, name


def test_the_values_are_those_that_the_code_itself_would_take(installed: Install) -> None:
    defaults = attributes(parse_settings(_BASE))
    for name, function in installed().planned.of("google_cloudfunctions2_function").items():
        given = function["service_config"][0]["environment_variables"]
        here = {key: value for key, value in given.items() if value is not None and key not in _BASE}
        after = attributes(parse_settings({**_BASE, **here}))
        # MAINTENANCE_MODE begins with report; the timeout and the bucket are this function's own.
        own = {"report_only", "job_timeout_seconds", "cleanup.bucket", "stripe.meter_id"}
        differs = {key for key, value in after.items() if value != defaults[key]}
        assert differs <= own, name


def test_an_installations_own_settings_reach_those_that_read_them(installed: Install) -> None:
    given = {
        name: function["service_config"][0]["environment_variables"]
        for name, function in installed("full").planned.of("google_cloudfunctions2_function").items()
    }
    assert {name for name, values in given.items() if values.get("ABANDONED_AFTER_DAYS") == "60"} == {
        "abandoned_cleanup", "opt_out_cleanup", "period_reset",
    }  # fmt: skip
    # The example promises nothing that would have pages billed twice.
    assert not any("STRIPE_TAKEOVER_AT" in values for values in given.values())
    assert {values["CLOUD_SQL_IP_TYPE"] for values in given.values()} == {"private"}


# ---- the values that Terraform takes are those that the code takes ----

_TEXTS = {
    "FREE_PLAN_CODES": ["free", "free, trial", " free ", "a b", "free,", ",free", "free,,trial", "free, ,trial", ","],
    "STRIPE_METER_EVENT_NAME": ["pages", "x" * 100, "é" * 100, "x" * 101],
    "STRIPE_TAKEOVER_AT": [
        "2026-01-01T00:00:00Z", "2026-01-01t00:00:00z", "2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00.123456789Z",
        "2028-02-29T23:59:59-23:59", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-00T00:00:00Z",
        "2026-01-01T25:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00.1234567890Z", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-01-01", "tomorrow",
    ],
}  # fmt: skip
_SHARES = [
    "0", "0.0", "0.5", "1", "1.0", "0.123456789", "1.000000001", "1.1", "2", "0.1234567890", "-0.1", ".5", "0.", "0,5",
    "50%", "00.5",
]  # fmt: skip
_NO_NUMBERS = ["-1", "+5", "5.0", "1e1", "0x5", "1000000000", "five", "5 5"]


def _refused_by_code(name: str, value: str) -> Misconfigured | None:
    try:
        parse_settings({**_BASE, name: value})
    except Misconfigured as error:
        return error
    return None


def _tried() -> Iterator[tuple[str, str]]:
    """Values on both sides of every limit, of every setting that an installation may give."""
    for name in sorted(_free_to_set()):
        limits = re.search(r"from (\d+) to (\d+)", str(_refused_by_code(name, "no such value")))
        if name in _TEXTS:
            values = _TEXTS[name]
        elif name.endswith("FRACTION"):
            values = _SHARES
        else:
            assert limits, name
            low, high = int(limits[1]), int(limits[2])
            values = [*map(str, (low - 1, low, high, high + 1)), f" {low} ", f"0{low}", *_NO_NUMBERS]
        yield from ((name, value) for value in [*values, "", " "])


def _free_to_set() -> set[str]:
    """What follows neither from another variable nor from what is made."""
    text = (REPOSITORY / "infra/terraform/settings.tf").read_text(encoding="utf-8")
    block = text[text.index("default_settings = {") : text.index("whole_numbers = {")]
    return set(re.findall(r"\b([A-Z_]{6,})\b", block))


def _refused_by_terraform(folder: Path, tried: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What the variable `settings` refuses, with what it says, of values of which each is tried by itself."""
    module = REPOSITORY / "infra/terraform"
    (variable,) = re.findall(r'^variable "settings" \{\n.*?^\}', (module / "variables.tf").read_text(), re.M | re.S)
    rules = re.search(r"^locals \{\n.*?^\}", (module / "settings.tf").read_text(), re.M | re.S)
    assert rules
    (folder / "one").mkdir()
    (folder / "one/main.tf").write_text(f"{variable}\n{rules[0]}\n")
    (folder / "tried.json").write_text(json.dumps({str(number): {n: v} for number, (n, v) in enumerate(tried)}))
    lines = ['source = "./one"', 'for_each = jsondecode(file("tried.json"))', "settings = each.value"]
    (folder / "main.tf").write_text('module "one" {\n' + "\n".join(lines) + "\n}\n")
    environ = {**os.environ, "CHECKPOINT_DISABLE": "1"}
    subprocess.run(["terraform", "init"], cwd=folder, env=environ, check=True, capture_output=True, timeout=60)
    planned = subprocess.run(
        ["terraform", "plan", "-json"],
        cwd=folder, env=environ, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    told = [json.loads(line) for line in planned.stdout.splitlines()]
    errors = [line["diagnostic"] for line in told if line["type"] == "diagnostic"]
    refused = {}
    for error in errors:
        assert error["summary"] == "Invalid value for variable", error
        (pair,) = (pair for pair in tried if f'{pair[0]} = "{pair[1]}", to be ' in error["detail"])
        refused[pair] = error["detail"]
    assert len(refused) == len(errors)
    return refused


def test_terraform_takes_the_values_that_the_code_takes(tmp_path: Path) -> None:
    tried = list(dict.fromkeys(_tried()))
    by_code = {pair: error for pair in tried if (error := _refused_by_code(*pair)) is not None}
    by_terraform = _refused_by_terraform(tmp_path, tried)
    assert set(by_terraform) == set(by_code)
    assert all(error.setting == name for (name, _), error in by_code.items())
    # Of each setting something is taken and something refused.
    assert {name for name, _ in by_code} == {name for name, _ in set(tried) - set(by_code)} == _free_to_set()
    assert len(_free_to_set()) == 19
    for pair, error in by_code.items():
        limits = re.search(r"from \d+ to \d+", str(error))
        if limits:
            assert limits[0] in by_terraform[pair]
