"""The plan of an installation as JSON, made by the real terraform on a provider that has schemas and no cloud.

Both come with the checks that stand beside the repository, in `../shared/terraform-check`. Where those or terraform are
absent, `why_absent` says so, and tests skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_REPOSITORY: Final = Path(__file__).resolve().parent.parent
_CHECK: Final = _REPOSITORY.parent / "shared" / "terraform-check" / "tfcheck.py"
_MODULE: Final = _REPOSITORY / "infra" / "terraform"

# The least that an installation says of itself; Stripe's key is there because the jobs read it.
MINIMAL: Final[Mapping[str, Any]] = {
    "project_id": "bytereview-test",
    "region": "europe-west1",
    "stripe_meter_id": "mtr_61abc",
    "stripe_secret_key": "sk_test_1",
    "redis": None,
    "database": {"tier": "db-g1-small"},
    "alert_emails": ["ops@example.com"],
}


class NoPlanError(RuntimeError):
    """No plan can be made. The message says what is missing, or what terraform said."""


def why_absent() -> str | None:
    """What is missing to make a plan here, as a sentence; None: nothing."""
    if shutil.which("terraform") is None:
        return "terraform is not installed."
    if not _CHECK.is_file():
        return "The offline provider, ../shared/terraform-check, is not there."
    return None


def installation_plan(variables: Mapping[str, Any] = MINIMAL) -> dict[str, Any]:
    """The plan that follows an apply with these variables: it has nothing to do, and all addresses are known in it.

    Takes about half a minute. Raises NoPlanError.
    """
    missing = why_absent()
    if missing is not None:
        raise NoPlanError(missing)
    given = [f"-var={name}={json.dumps(value)}" for name, value in variables.items() if not isinstance(value, str)]
    given += [f"-var={name}={value}" for name, value in variables.items() if isinstance(value, str)]
    steps = ["apply", "-auto-approve", *given, "then", "plan", "-out=p.plan", *given, "then", "show", "-json", "p.plan"]
    done = subprocess.run(  # noqa: S603 - our own command, no shell
        [sys.executable, os.fspath(_CHECK), os.fspath(_MODULE), *steps],
        capture_output=True,
        text=True,
        cwd=_REPOSITORY,
        check=False,
    )
    if done.returncode:
        raise NoPlanError(f"terraform failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    plan = json.loads(done.stdout.splitlines()[-1])
    if not isinstance(plan, dict):
        raise NoPlanError("terraform wrote something else than a plan.")
    return plan
