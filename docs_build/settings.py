"""The page of the settings: names, defaults and ranges from the code, what they mean from settings.toml."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from docs_build.commands import all_commands
from docs_build.reading import Asked, settings_asked_for

_INTRODUCTION = """# Settings

Environment variables, read with the first request. An empty value counts as not set, and blanks around a value do not
count. Defaults and ranges on this page are read off the code.

A value that cannot be is `misconfigured`: the answer, the log and `python -m ops doctor` name the variable and say
what it should look like. In an installation by Terraform, `terraform output -json function_settings` prints what each
function has: [deploying](deploy.md#every-day).
"""


@dataclass(frozen=True)
class Words:
    """What settings.toml says of one setting."""

    means: str
    default: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of the page. `of_functions` is false for what only the command line reads."""

    title: str
    about: str
    of_functions: bool
    settings: Mapping[str, Words]


def parts() -> Sequence[Part]:
    """The parts of the page, in their order."""
    content = tomllib.loads(Path(__file__).with_name("settings.toml").read_text())
    return [
        Part(
            part["title"],
            part.get("about", ""),
            part.get("of") != "ops",
            {name: Words(**words) for name, words in part["settings"].items()},
        )
        for part in content["part"]
    ]


def options_settings() -> set[str]:
    """The variables that options of the command line read."""
    return {
        str(parameter.envvar)
        for _, command in all_commands()
        for parameter in command.params
        if parameter.envvar is not None
    }


def settings_page() -> str:
    """The page. Raises KeyError for a setting that nothing reads."""
    asked = settings_asked_for()
    return "\n".join([_INTRODUCTION, *(line for part in parts() for line in _lines(part, asked))])


def _lines(part: Part, asked: Mapping[str, Asked]) -> Iterator[str]:
    yield f"## {part.title}\n"
    if part.about:
        yield f"{part.about}\n"
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for name, words in part.settings.items():
        how = asked[name] if part.of_functions else Asked("text", (), "")
        allowed = f" ({how.allowed})" if how.allowed else ""
        yield f"| `{name}` | {default_of(words, how)} | {words.means}{allowed} |"
    yield ""


def default_of(words: Words, asked: Asked) -> str:
    """What stands for the default: the words that somebody wrote, or else what the code took."""
    if words.default is not None:
        return words.default
    return ", ".join(f"`{default}`" for default in asked.defaults) or "none"
