"""The handbook's commands are well-formed, also those that no test can run: each is looked at word by word."""

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence

import click
import pytest

from devstack.serving import REPOSITORY
from docs_build.commands import all_commands
from docs_build.made import made_pages
from functions.registry import JOBS
from ops.__main__ import cli
from ops.commands.moments import Moment
from tests.conftest import MakeDatabase
from tests.support.handbook import (
    DOCS,
    OPS,
    Block,
    blocks,
    inline_code,
    name_of,
    pages,
    prose,
    simple_commands,
    unfenced_commands,
)

_TERRAFORM = REPOSITORY / "infra" / "terraform"
_LANGUAGES = {"console", "sh", "sql", "json", "hcl", "python", "text"}
# What stands for something of the reader's own, and what a command line takes in its place.
_PLACEHOLDERS = {
    "JOB": "artifact",
    "RUN_ID": "4711",
    "N": "100",
    "ID": "0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61",
    "HOLD": "12",
    "T": "2099-01-31T06:00:00Z",
    "LOGINS": "~/logins.json",
    "USER": "8hVkQw2pXa",
    "RUN": "6f9619ff-8b86-4011-b42d-00c04fc964ff",
}
_GCLOUD = {
    "auth login", "config set", "services enable", "auth application-default", "storage buckets", "sql users",
    "scheduler jobs", "logging read", "secrets versions", "beta services", "storage service-agent", "iam roles",
    "sql instances", "redis instances", "functions describe", "run services", "projects get-iam-policy",
}  # fmt: skip
_BUILTINS = {"cd", "export", "unset", "read", "eval", "for", "do", "done", "git", "jq", "python3", "source", "psql"}
_EVENTS = {"start", "finish", "answer", "health", "attention", "error", "degraded", "refused", "steps"}


def test_every_block_says_what_it_is() -> None:
    for page in pages():
        assert not unfenced_commands(page), name_of(page)
        for block in blocks(page):
            assert block.language in _LANGUAGES, f"{block.where}: {block.language!r} is none of {sorted(_LANGUAGES)}"
            if block.language == "text":
                assert not re.search(r"^\s*(\$ |python -m ops|gcloud |terraform |make )", block.text, re.M), block.where


def test_commands_that_cannot_be_run_here_are_well_formed() -> None:
    looked_at = 0
    for page in pages():
        for block in blocks(page):
            if block.language != "sh":
                continue
            done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
            assert done.returncode == 0, f"{block.where}: {done.stderr}"
            for words in simple_commands(block):
                _check_command(block.where, words)
                looked_at += 1
    assert looked_at > 30


def test_commands_in_sentences_are_well_formed() -> None:
    files = [*pages(), REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    texts = {str(page): prose(page) for page in files}
    looked_at = 0
    for where, text in texts.items():
        for code in inline_code(text):
            if code.startswith(("python -m ops ", "make ", "gcloud scheduler jobs ", "terraform output ")):
                _check_command(where, shlex.split(code.replace("…", "")))
                looked_at += 1
    assert looked_at > 30


def test_examples_of_the_commands_are_well_formed() -> None:
    examples = re.findall(r"For example:\n\n```sh\n(.+)\n```", made_pages()["commands.md"])
    leaves = [name for name, command in all_commands() if not isinstance(command, click.Group)]
    assert len(examples) == len(leaves)
    for name, example in zip(leaves, examples, strict=True):
        words = shlex.split(example.replace("…", "x"))
        while "=" in words[0]:
            words.pop(0)
        assert words[3 : 3 + len(name.split())] == name.split()
        _check_command(f"commands.md, {name}", words)


def test_times_of_a_pause_in_examples_are_to_come() -> None:
    """Typed as they stand, they must not be refused as over."""
    told = cli.commands["pause"].get_help(click.Context(cli))
    assert re.findall(r"(\d{4})-\d\d-\d\dT", told) == ["2099", "2099"]
    with pytest.raises(click.BadParameter, match="no time such as 2099-"):
        Moment().convert("tomorrow", None, None)


def test_events_of_the_log_that_pages_ask_for_are_logged() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for events in re.findall(r'jsonPayload\.event=\(?((?:"\w+"(?: OR )?)+)', text):
            assert set(re.findall(r'"(\w+)"', events)) <= _EVENTS, name_of(page)
    code = " ".join(
        path.read_text() for folder in ("shared", "functions") for path in (REPOSITORY / folder).rglob("*.py")
    )
    for event in _EVENTS - {"finish", "answer"}:
        assert f'event="{event}"' in code, event
    assert '"finish" if execution.began else "answer"' in code


def test_sql_works(make_database: MakeDatabase, template: str) -> None:
    database = make_database(template)
    ran = 0
    for page in pages():
        for block in blocks(page):
            if block.language != "sql":
                continue
            with database.engine.connect() as connection:
                transaction = connection.begin()
                for login in sorted(set(re.findall(r'"([^"]+\.iam)"', block.text))):
                    connection.exec_driver_sql(f'CREATE ROLE "{login}"')
                for statement in filter(None, (each.strip() for each in block.text.split(";"))):
                    connection.exec_driver_sql(statement)
                    ran += 1
                transaction.rollback()
    assert ran >= 2


@pytest.mark.parametrize(
    ("language", "check"),
    [
        ("json", lambda block: json.loads(block.text)),
        ("python", lambda block: ast.parse(block.text)),
        ("hcl", lambda block: _check_variables(block)),
    ],
    ids=["json", "python", "hcl"],
)
def test_other_languages_are_well_formed(language: str, check: Callable[[Block], object]) -> None:
    found = [block for page in pages() for block in blocks(page) if block.language == language]
    assert found, f"There is no {language} any more: take it out of the known languages."
    for block in found:
        check(block)


def _check_command(where: str, words: Sequence[str]) -> None:
    words = list(words)
    while words and re.fullmatch(r"[A-Za-z_]+=.*", words[0]):
        words.pop(0)
    if not words:
        return
    head = words[0]
    if tuple(words[:3]) == OPS:
        _check_ops(where, words[3:])
    elif head == "make":
        _check_make(where, words[1:])
    elif head == "terraform":
        _check_terraform(where, words[1:])
    elif head == "gcloud":
        _check_gcloud(where, words[1:])
    elif head == "curl":
        assert any(word.startswith(("localhost:8080", "http://localhost:8080")) for word in words), where
    elif head == "functions-framework":
        assert words[1].removeprefix("--target=") in JOBS, where
    else:
        assert head in _BUILTINS or head.endswith(".sh"), f"{where}: {head!r} is no command that is known here"


def _check_ops(where: str, words: Sequence[str]) -> None:
    said = f"{where}: python -m ops {' '.join(words)}"
    words = [_PLACEHOLDERS.get(word.rstrip(".…"), word) for word in words if word not in (">", "register.csv")]
    words = [word.replace("$PROJECT", "bytereview-prod").replace("$REGION", "europe-west1") for word in words]
    if words in ([], ["COMMAND"]) or "COMMAND" in words:
        return
    command: click.Command = cli
    rest = list(words)
    while isinstance(command, click.Group):
        if not rest or rest[0] == "--help":
            return
        found = command.commands.get(rest[0])
        assert found is not None, f"{said}: there is no command {rest[0]!r}"
        command = found
        rest.pop(0)
    if "--help" in rest:
        return
    # A file of the reader's is not here.
    rest = [str(REPOSITORY / "pyproject.toml") if word.startswith("~/") else word for word in rest]
    needed = {
        parameter.opts[0]: example
        for parameter, example in ((each, _example(each)) for each in command.params)
        if parameter.required and isinstance(parameter, click.Option) and parameter.opts[0] not in rest and example
    }
    arguments = [*rest]
    if not rest:
        # Named in a sentence, without what it needs.
        arguments += [word for pair in needed.items() for word in pair]
        arguments += [_example(each) for each in command.params if isinstance(each, click.Argument) and each.required]
    elif "schedules" in words:
        arguments += [word for pair in needed.items() for word in pair]
    try:
        command.make_context(f"python -m ops {words[0]}", arguments).close()
    except click.ClickException as error:
        pytest.fail(f"{said}: {error.format_message()}")


def _example(parameter: click.Parameter) -> str:
    """A value that a required parameter takes."""
    values = {
        "project": "bytereview-prod",
        "region": "europe-west1",
        "until": "2099-01-31T06:00:00Z",
        "run_id": "4711",
        "events": _PLACEHOLDERS["ID"],
        "scope": "user",
        "hold_id": "12",
    }
    return values.get(parameter.name or "", "artifact")


def _check_make(where: str, words: Sequence[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    rest = list(words)
    if rest[:1] == ["-C"]:
        rest = rest[2:]
    if not rest:
        return
    assert rest[0] in targets, f"{where}: make has no target {rest[0]!r}"
    for word in rest[1:]:
        if word.startswith("ARGS="):
            _check_ops(where, shlex.split(word.removeprefix("ARGS=").replace("…", "")))


def _check_terraform(where: str, words: Sequence[str]) -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in _TERRAFORM.glob("*.tf"))
    verbs = {"init", "apply", "plan", "output", "destroy", "import"}
    if not words or words[0] not in verbs:
        raise AssertionError(f"{where}: terraform {' '.join(words)}")
    for word in words[1:]:
        address = re.fullmatch(r"-(?:replace|target)=(\w+)\.(\w+)(?:\[\"(\w+)\"\])?", word)
        if address:
            assert f'resource "{address[1]}" "{address[2]}"' in code, f"{where}: {word}"
            assert address[3] is None or address[3] in JOBS, f"{where}: {word}"
        elif word.startswith(("-replace", "-target")):
            assert word == "-replace=", f"{where}: {word}"
    if words[0] == "output":
        names = [word for word in words[1:] if not word.startswith(("-", ">", "~"))]
        outputs = set(re.findall(r'^output "(\w+)"', (_TERRAFORM / "outputs.tf").read_text(), re.M))
        assert len(names) == 1, where
        assert set(names) <= outputs, f"{where}: terraform has no output {names}"


def _check_gcloud(where: str, words: Sequence[str]) -> None:
    assert " ".join(words[:2]) in _GCLOUD, f"{where}: gcloud {' '.join(words)}"
    if list(words[:2]) == ["scheduler", "jobs"] and words[2] in ("run", "pause", "resume", "describe") and words[3:]:
        known = {name.replace("_", "-") for name in JOBS} | {"maintenance-health"}
        assert words[3] in known, f"{where}: Terraform makes no schedule {words[3]!r}"


def _check_variables(block: Block) -> None:
    known = set(re.findall(r'^variable "(\w+)"', (_TERRAFORM / "variables.tf").read_text(encoding="utf-8"), re.M))
    for name in re.findall(r"^(\w+)\s*=", block.text, re.M):
        assert name in known, f"{block.where}: Terraform has no variable {name!r}"


def test_the_pages_that_people_write_are_found() -> None:
    assert DOCS / "index.md" in pages()
