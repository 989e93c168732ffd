"""`python -m ops`: the command line of the people who run this."""

import click

from ops.commands import (
    console,
    erasing,
    erasures,
    examining,
    holds,
    looking,
    migrating,
    outbox,
    pausing,
    running,
    schedules,
    stripe,
)


@click.group(help="Operate the maintenance jobs. Settings come from the environment, as for the functions.")
def cli() -> None:
    """Group the commands."""


for part in (
    looking,
    running,
    pausing,
    stripe,
    outbox,
    holds,
    erasing,
    erasures,
    schedules,
    examining,
    migrating,
    console,
):
    part.add_to(cli)

if __name__ == "__main__":
    cli(prog_name="python -m ops")
