"""`make screenshots`: the pictures of the operators' page in docs/images, made anew from a month of made-up history."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from playwright.sync_api import Browser

from devstack.chromium import MISSING, chromium, chromium_path
from devstack.console_demo import serve
from devstack.guardian import free_port
from devstack.serving import REPOSITORY
from devstack.stack import terminated_cleanly
from devstack.telling import StepFailed, Teller, closed_calmly, exit_code

FOLDER = REPOSITORY / "docs" / "images"


@dataclass(frozen=True)
class Picture:
    """A picture: its file, the page that it shows, and how."""

    name: str
    path: str
    width: int = 1280
    height: int = 800
    scheme: Literal["light", "dark"] = "light"


PICTURES = (
    Picture("console-overview.png", "/", height=1000),
    Picture("console-plots.png", "/plots", height=980),
    Picture("console-dark.png", "/", height=1000, scheme="dark"),
    Picture("console-phone.png", "/", width=375, height=812),
)


def take(browser: Browser, url: str, folder: Path) -> None:
    """Take all pictures of the page at an address."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        context = browser.new_context(
            viewport={"width": picture.width, "height": picture.height},
            device_scale_factor=1,
            color_scheme=picture.scheme,
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.goto(url.rstrip("/") + picture.path)
        page.screenshot(path=folder / picture.name)
        context.close()


def main() -> int:
    """Make them; give the process's exit code."""

    def work() -> None:
        path = chromium_path()
        if path is None:
            raise StepFailed(MISSING)
        teller = Teller()
        with terminated_cleanly(), closed_calmly() as cleanup:
            page = serve(os.environ, teller, cleanup, free_port())
            told = f"{len(PICTURES)} pictures in {FOLDER.relative_to(REPOSITORY)}"
            with teller.step(f"Taking {told}", told), chromium(path) as browser:
                take(browser, page.url, FOLDER)
        click.echo("Stopped: nothing is left but the pictures.")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
