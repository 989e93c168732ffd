"""The handbook's sources as tests read them: its blocks of code, its commands, and what stands in backticks.

Two languages hold commands. `console` is run by a test: `$ ` begins a command, `# exit code 1` after it names its end,
and what follows is what it prints, with `…` for anything. `sh` cannot be run here (it needs Google, or a person) and is
looked at word by word. All else holds no commands.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.serving import REPOSITORY

DOCS = REPOSITORY / "docs"
OPS = ("python", "-m", "ops")
_FENCE = re.compile(r"^( *)```(.*)$")
_EXIT = re.compile(r"\s+# exit code (\d)$")
# A line that stands in no fence and is indented as code is: markdown shows it as code, and no test would see it.
_COMMAND_LIKE = re.compile(r"^ *(\$ |python -m ops\b|make [a-z]|gcloud |terraform |curl )")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, and its lines without their indentation."""

    page: str
    line: int
    language: str
    lines: Sequence[str]

    @property
    def where(self) -> str:
        """For a message."""
        return f"{self.page}:{self.line}"

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Command:
    """A command that is run, the exit code that it must have, and what it must print."""

    where: str
    text: str
    code: int
    expected: Sequence[str]


def pages() -> list[Path]:
    """All pages that people write."""
    return sorted(DOCS.rglob("*.md"))


def name_of(page: Path) -> str:
    """A page's name, such as `runbook/failed.md`."""
    return page.relative_to(DOCS).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, opened, indent = list[Block](), None, ""
    lines = list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                indent, lines = fence[1], []
                opened = (number, fence[2].strip())
        elif fence and not fence[2]:
            found.append(Block(name_of(page), opened[0], opened[1], lines))
            opened = None
        else:
            lines.append(line.removeprefix(indent))
    assert opened is None, f"{page.name}: the block that begins in line {opened} does not end"
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def unfenced_commands(page: Path) -> list[str]:
    """Lines of a page that look like commands and stand in no block."""
    return [line for line in prose(page).splitlines() if _COMMAND_LIKE.match(line)]


def inline_code(text: str) -> list[str]:
    """What stands in backticks."""
    return [" ".join(each.split()) for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def commands_to_run(block: Block) -> list[Command]:
    """The commands of a `console` block."""
    found, text, expected = list[Command](), "", list[str]()
    begun = False

    def end() -> None:
        exits = _EXIT.search(text)
        code = int(exits[1]) if exits else 0
        found.append(Command(block.where, _EXIT.sub("", text), code, tuple(expected)))

    for line in block.lines:
        if line.startswith("$ "):
            if begun:
                end()
            text, expected, begun = line[2:], [], True
        elif begun and text.endswith("\\"):
            text = f"{text[:-1]} {line.strip()}"
        else:
            assert begun, f"{block.where}: a console block begins with a command, `$ …`"
            expected.append(line)
    assert begun, f"{block.where}: a console block without a command"
    end()
    return found


def simple_commands(block: Block) -> Iterator[list[str]]:
    """The words of each simple command of an `sh` block; what is quoted is one word."""
    joined = re.sub(r" *\\\n\s*", " ", block.text)
    for line in joined.splitlines():
        yield from _simple_commands(line)


def _simple_commands(line: str) -> Iterator[list[str]]:
    start = line.find("$(")
    if start >= 0:
        end = _end_of_substitution(line, start + 2)
        yield from _simple_commands(line[start + 2 : end])
        yield from _simple_commands(f"{line[:start]}VALUE{line[end + 1 :]}")
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for token in lexer:
        if set(token) <= set("|&;()"):
            if words:
                yield words
            words = []
        else:
            words.append(token)
    if words:
        yield words


def _end_of_substitution(line: str, start: int) -> int:
    """Where the `)` is that ends what began before `start`; brackets in single quotes do not count."""
    depth, quoted = 1, False
    for place in range(start, len(line)):
        if line[place] == "'":
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, ")": -1}.get(line[place], 0)
            if depth == 0:
                return place
    raise AssertionError(f"{line!r}: $( without its )")


def is_as_expected(printed: str, expected: Sequence[str]) -> bool:
    """Whether a text has these lines one after the other, `…` standing for anything; how wide blanks are is all one."""
    text, place = " ".join(printed.split()), 0
    for piece in " ".join(expected).split("…"):
        wanted = " ".join(piece.split())
        place = text.find(wanted, place)
        if place < 0:
            return False
        place += len(wanted)
    return True
