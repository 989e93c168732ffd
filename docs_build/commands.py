"""The page of the command line, made of the commands themselves."""

import inspect
from collections.abc import Iterator

import click

from ops.__main__ import cli

PROGRAM = "python -m ops"
_INTRODUCTION = """# Command line

This page is made of the commands themselves. `python -m ops COMMAND --help` says the same.

The settings come from the environment, as for the functions: [settings](settings.md). Where a command changes
something, it is recorded, and so is each run that is no dry run; only `migrate` is not. `python -m ops actions` shows
who did what.

Every command takes `--json` (for scripts; its form is [published](json-output.md)) and `--debug` (a stack trace if
something fails).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | it was done, and the answer is no: a job did not succeed, or something is not as it should be |
| 2 | the command line is wrong |
| 3 | a setting, a right or the schema is wrong, or what was named is not there: only a person can mend it |
| 4 | something does not answer: a later try may succeed |
| 5 | a bug of ours: run it again with `--debug`, and report what it prints |
"""
# Of every command, so said once at the top.
_COMMON = ("as_json", "debug", "help")


def commands_page() -> str:
    """The page."""
    return "\n".join([_INTRODUCTION, *(_section(name, command) for name, command in all_commands())])


def all_commands(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands with their full names, such as `stripe retry`; groups before their commands."""
    for name, command in sorted(group.commands.items()):
        full = f"{prefix} {name}".strip()
        if not command.hidden:
            yield full, command
        if isinstance(command, click.Group):
            yield from all_commands(command, full)


def _section(name: str, command: click.Command) -> str:
    level = "##" if " " not in name else "###"
    lines = [f"{level} {name}", ""]
    lines += [inspect.cleandoc(command.help or ""), ""]
    if isinstance(command, click.Group):
        return "\n".join(lines)
    text, _, example = "\n".join(lines).partition("\nExample: ")
    usage = " ".join(
        piece for piece in (PROGRAM, name, *command.collect_usage_pieces(_context(name, command))) if piece
    )
    parts = [text, "```text", usage, "```", ""]
    options = [row for parameter in command.params if (row := _option(parameter, command, name))]
    if options:
        parts += ["| option | meaning |", "|---|---|", *options, ""]
    if example:
        parts += ["For example:", "", "```sh", " ".join(example.split()), "```", ""]
    return "\n".join(parts)


def _context(name: str, command: click.Command) -> click.Context:
    return click.Context(command, info_name=f"{PROGRAM} {name}")


def _option(parameter: click.Parameter, command: click.Command, name: str) -> str | None:
    if not isinstance(parameter, click.Option) or parameter.hidden or parameter.name in _COMMON:
        return None
    record = parameter.get_help_record(_context(name, command))
    if record is None:
        return None
    written, meaning = (part.replace("|", "\\|").replace("\n", " ") for part in record)
    return f"| `{written}` | {meaning} |"
