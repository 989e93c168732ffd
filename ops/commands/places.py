"""Where Cloud Scheduler is looked at: the options that say so."""

import re
from collections.abc import Callable
from typing import TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., object])

_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]{1,2}")
_A_PROJECT = (
    "project id such as bytereview-prod: 6 to 30 small letters, digits and dashes, a letter first, no dash at the end."
)
_A_REGION = "region such as europe-west1. (With a letter at its end it would be a zone.)"


class _Matching(click.ParamType[str]):
    """A name that Google would take."""

    name = "name"

    def __init__(self, pattern: re.Pattern[str], what: str) -> None:
        self._pattern = pattern
        self._what = what

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not self._pattern.fullmatch(str(value)):
            self.fail(f"{value!r} is no {self._what}", param, ctx)
        return str(value)


def place_options(*, required: bool) -> Callable[[Function], Function]:
    """Give a command the options --project and --region, and the address of a stand-in, `emulator_host`."""

    def decorate(function: Function) -> Function:
        options = (
            click.option(
                "--project",
                type=_Matching(_PROJECT, _A_PROJECT),
                required=required,
                envvar="GOOGLE_CLOUD_PROJECT",
                show_envvar=True,
                help="The project's id.",
            ),
            click.option(
                "--region",
                type=_Matching(_REGION, _A_REGION),
                required=required,
                envvar="GOOGLE_CLOUD_REGION",
                show_envvar=True,
                help="The region of the schedules.",
            ),
            # The address of a stand-in, as host:port.
            click.option("--emulator-host", hidden=True, envvar="CLOUD_SCHEDULER_EMULATOR_HOST"),
        )
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
