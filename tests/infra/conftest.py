"""Installations that all tests here share, also those of other processes."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.infra.installing import NEWEST, TFCHECK, Installation, install, once

Install = Callable[..., Installation]

# A property by which a test says something to whoever reads the end of the output: what a worker prints is lost.
TOLD_AT_THE_END = "the archive"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have to say."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == TOLD_AT_THE_END:
                terminalreporter.section(name)
                terminalreporter.line(text)


@pytest.fixture(scope="session", autouse=True)
def _offline_terraform() -> None:
    """Skip where there is no terraform, or no stand-in for the cloud."""
    if shutil.which("terraform") is None:
        pytest.skip("There is no terraform on the PATH.")
    if not TFCHECK.exists():
        pytest.skip("There is no ../shared/terraform-check: nothing plays the cloud here.")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def installed(shared_folder: Path) -> Install:
    """Gives an installation by its variant, made with the first call."""
    known: dict[tuple[str, str], Installation] = {}

    def give(variant: str = "default", google: str = NEWEST) -> Installation:
        if (variant, google) not in known:
            file = shared_folder / f"installed-{variant.replace(' ', '-')}-{google}.json"
            text = once(file, lambda: json.dumps(asdict(install(variant, google, shared_folder))))
            known[variant, google] = Installation(**json.loads(text))
        return known[variant, google]

    return give


@pytest.fixture
def default(installed: Install) -> Installation:
    return installed()
