"""Installations of infra/terraform, offline: the real terraform on the schemas of the real providers, and no cloud.

An installation is planned, applied and planned again. That takes seconds, so tests share what came of it: the plan and
the state, as terraform tells them in JSON.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack.serving import REPOSITORY

TFCHECK = REPOSITORY.parent / "shared/terraform-check/tfcheck.py"
GOOGLE = ("7.46.1", "8.7.0")
NEWEST = GOOGLE[-1]

# Stands nowhere else, so that it is found wherever it got to.
STRIPE_KEY = "sk_test_4711NeverInAPlanOrState"

_LEAST = {"project_id": "demo-project", "region": "europe-west1", "stripe_meter_id": "mtr_1"}
_NETWORK = {
    "network": "projects/demo-project/global/networks/main",
    "subnetwork": "projects/demo-project/regions/europe-west1/subnetworks/main",
}
# What an installation sets, beside the file example.tfvars of the one that is called full.
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "default": _LEAST,
    "minimal": {**_LEAST, "redis": None, "database": {"tier": "db-g1-small"}},
    "full": {},
    "existing": {
        **_LEAST,
        "mode": "enforce",
        "existing_database": "main",
        "existing_redis": "main",
        "existing_bucket": "files-prod",
        "existing_network": _NETWORK,
        "existing_stripe_secret": {"secret_id": "stripe", "version": "7"},
    },
    "own key": {
        **_LEAST,
        "kms_key": "projects/demo-project/locations/europe-west1/keyRings/ring/cryptoKeys/key",
        # And every setting that is left out elsewhere.
        "settings": {
            "STRIPE_TAKEOVER_AT": "2026-12-01T00:00:00Z",
            "STRIPE_RATE": "100",
            "STRIPE_READ_RATE": "10",
            "STRIPE_METER_EVENT_NAME": "pages",
        },
    },
}
# A JSON document, or any part of one.
Json = Any


def terraform(
    *command: str, root: Path = REPOSITORY, google: str = NEWEST, key: str | None = STRIPE_KEY, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run terraform in a copy of a tree, in a scratch folder; commands may follow each other with "then" between."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    if key is not None:
        environ["TF_VAR_stripe_secret_key"] = key
    return subprocess.run(
        [
            sys.executable, TFCHECK, "--google", google, "--root", root, root / "infra/terraform", *command,
        ],
        env=environ, input=typed, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


class Resources:
    """The resources of a plan or a state, by type and index. What is known only after an apply is None."""

    def __init__(self, values: Mapping[str, Mapping[str, Json]]) -> None:
        self.by_address = values

    def of(self, kind: str, name: str | None = None) -> dict[str, Json]:
        """Those of a type, and of a name if it is given: by their index, or their name where there is one only."""
        found = {}
        for address, values in self.by_address.items():
            type_name, _, index = address.partition("[")
            here, _, its_name = type_name.partition(".")
            if here == kind and name in (None, its_name):
                found[index.rstrip("]").strip('"') or its_name] = values
        return found


@dataclass(frozen=True)
class Installation:
    """What came of one: the plan, the state after it was applied, and whether a second plan was empty."""

    text: str
    plan: Json
    state: Json
    second_plan_is_empty: bool

    @property
    def planned(self) -> Resources:
        """The resources as planned."""
        return planned_resources(self.plan)

    @property
    def applied(self) -> Resources:
        """The resources as they are in the state."""
        found = self.state["values"]["root_module"]["resources"]
        return Resources({each["address"]: each["values"] for each in found if each["mode"] == "managed"})


def planned_resources(plan: Json) -> Resources:
    """The resources of a plan."""
    return Resources(
        {
            each["address"]: _with_unknown(each["change"]["after"], each["change"]["after_unknown"])
            for each in plan["resource_changes"]
            if each["mode"] == "managed" and each["change"]["after"] is not None
        }
    )


def _with_unknown(value: Json, unknown: Json) -> Json:
    """Put None where a value is known only after an apply: terraform leaves such keys out."""
    if isinstance(value, dict) and isinstance(unknown, dict):
        return {name: _with_unknown(value.get(name), unknown.get(name)) for name in {*value, *unknown}}
    if isinstance(value, list) and isinstance(unknown, list):
        return [
            _with_unknown(each, unknown[number] if number < len(unknown) else False)
            for number, each in enumerate(value)
        ]
    return value


def arguments(variant: str, folder: Path) -> list[str]:
    """The arguments that give terraform a variant's variables."""
    if variant == "full":
        return ["-var-file=example.tfvars"]
    file = folder / f"{variant.replace(' ', '-')}.tfvars.json"
    file.write_text(json.dumps(VARIANTS[variant]))
    return [f"-var-file={file}"]


def install(variant: str, google: str, folder: Path) -> Installation:
    """Plan, apply and plan again. Fails with what terraform said."""
    given = arguments(variant, folder)
    done = terraform(
        "plan", "-out=p.plan", *given, "then", "show", "-json", "p.plan", "then", "apply", "p.plan",
        "then", "show", "-json", "then", "plan", "-detailed-exitcode", *given,
        google=google, key=None if variant == "existing" else STRIPE_KEY,
    )  # fmt: skip
    told = json_lines(done.stdout)
    # Of all the commands, only a plan with -detailed-exitcode ends with 2: "there are changes".
    assert done.returncode in (0, 2), f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert len(told) == 2, done.stdout[-3000:]
    plan, state = told
    return Installation(done.stdout, plan, state, second_plan_is_empty=done.returncode == 0)


def json_lines(output: str) -> list[Json]:
    """The plans and states among what terraform printed."""
    return [json.loads(line) for line in output.splitlines() if line.startswith('{"format_version"')]


def archive(folder: Path) -> str:
    """The archive that a plan builds, in base64."""
    given = arguments("default", folder)
    question = 'filebase64("${path.module}/build/source.zip")\n'
    done = terraform("plan", *given, "then", "console", *given, typed=question)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.splitlines()[-1].strip('"')


def once(file: Path, make: Callable[[], str]) -> str:
    """Make a text once for all processes of a test run: the first one makes it, the others wait for it."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            file.write_text(make())
        return file.read_text()


def tree_copy(
    folder: Path, parts: Sequence[str] = ("infra", "functions", "shared", "main.py", "requirements.txt")
) -> Path:
    """A copy of what terraform reads, to change."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard", *parts], cwd=REPOSITORY, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    return folder
