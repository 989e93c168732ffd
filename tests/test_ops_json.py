"""What `--json` prints is what ops/output.schema.json says, for each command; and an error prints nothing of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

from devstack import guardian
from devstack.serving import REPOSITORY
from devstack.stack import Stack
from functions.registry import JOBS
from ops.__main__ import cli
from ops.shell import DOWN, NO, WRONG
from tests.support.commands import run_command
from tests.support.ops_world import CASES, Case, World, commands, made_world

SCHEMA = json.loads((Path(REPOSITORY) / "ops" / "output.schema.json").read_text(encoding="utf-8"))
# Their answer is what came of a run, whatever that was.
_TELL_OUTCOMES = ("run", "upcoming", "erase")
_ON_A_DATABASE = [case for case in CASES if case.database == "needs" and not case.command.startswith("schedules ")]


def check(command: str, told: object) -> None:
    """Hold what a command printed against its part of the schema."""
    schema = {**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{command.replace(' ', '%20')}"}]}
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    error = best_match(validator.iter_errors(told))
    assert error is None, f"{command}: {error.message} at {error.json_path}"


def parts(schema: Any, path: str = "#") -> Iterator[tuple[str, Any]]:
    """A schema and everything below it that is one, with its place."""
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from parts(each, f"{path}/{name}")
    for number, each in enumerate(schema.get("anyOf", ())):
        yield from parts(each, f"{path}/{number}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from parts(schema[name], f"{path}/{name}")


# --- the schema itself


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_command_has_its_part_and_no_part_is_left_over() -> None:
    described = {name for name in SCHEMA["$defs"] if name[0].islower()}
    assert described == set(commands(cli))
    assert [each["$ref"] for each in SCHEMA["anyOf"]] == [
        f"#/$defs/{name.replace(' ', '%20')}" for name in SCHEMA["$defs"] if name in described
    ]


def test_each_thing_is_described_and_no_field_may_come_that_is_not() -> None:
    found = [each for name, schema in SCHEMA["$defs"].items() for each in parts(schema, name)]
    for path, schema in found:
        is_part_of_a_choice = path.rpartition("/")[2].isdigit() and schema.get("type") != "object"
        assert is_part_of_a_choice or "description" in schema or "$ref" in schema or "type" in schema, path
        if schema.get("type") == "object":
            assert "description" in schema, path
            # Where fields have no names of their own, they are figures or an action's arguments.
            is_open = "properties" not in schema
            assert is_open or schema["additionalProperties"] is False or "job's counts" in str(schema), path
        for name, each in schema.get("properties", {}).items():
            assert "description" in each or each == {"$ref": "#/$defs/Figures"}, f"{path}/{name}"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("pause", {"job": "x", "paused_until": "tomorrow", "by": "x", "why": "x"}),
        ("pause", {"job": "x", "paused_until": "2026-01-01T00:00:00+01:00", "by": "x", "why": "x"}),
        ("pause", {"job": "x", "paused_until": "2026-01-01T00:00:00Z", "by": "x"}),
        ("pause", {"job": "x", "paused_until": "2026-01-01T00:00:00Z", "by": "x", "why": "x", "more": 1}),
        ("hold list", [{"id": 1}]),
        ("run", {"success": True}),
    ],
)
def test_what_is_not_as_described_does_not_pass(command: str, told: object) -> None:
    with pytest.raises(AssertionError):
        check(command, told)


# --- what the commands print


@pytest.fixture(scope="module", params=["empty", "full"])
def world(request: pytest.FixtureRequest, stack: Stack, template: str) -> Iterator[World]:
    with made_world(stack, template, full=request.param == "full") as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_command_prints_is_as_the_schema_says(case: Case, world: World) -> None:
    done = run_command(*case.line(world), "--json", environ=world.environ)
    assert done.exit_code in (case.full if world.is_full else case.empty), done.stderr
    if done.exit_code in (0, NO):
        check(case.command, json.loads(done.stdout))
        assert done.stdout.count("\n") == 1
    else:
        assert done.stdout == ""
        assert done.stderr


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.cli)
def test_whatever_comes_of_a_run_is_as_the_schema_says(job: Any, world: World) -> None:
    for changes, wanted in (
        # Not complete where objects cannot be deleted yet.
        ({}, {"completed", "paused", "incomplete"}),
        ({"MAINTENANCE_MODE": "report"}, {"completed", "paused"}),
        ({"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}, {"unavailable"}),
        ({"MAX_CONCURRENT_JOBS": "none"}, {"misconfigured"}),
    ):
        done = run_command("run", job.cli, "--json", environ={**world.environ, **changes})
        told = json.loads(done.stdout)
        check("run", told)
        assert told["status"] in wanted


def test_what_was_bound_anew_is_as_the_schema_says(world: World) -> None:
    elsewhere = {**world.environ, "GCS_BUCKET_NAME": "another-bucket"}
    for environ, wanted in ((elsewhere, True), (world.environ, True), (world.environ, False)):
        done = run_command("adopt", "--reason", "x", "--yes", "--json", environ=environ)
        told = json.loads(done.stdout)
        check("adopt", told)
        assert told["changed"] is wanted


@pytest.mark.parametrize("case", _ON_A_DATABASE, ids=str)
def test_an_error_prints_nothing_to_standard_output(case: Case, world: World) -> None:
    for url, code in (("postgresql://ann:s3cret@127.0.0.1:1/byte", DOWN), ("nonsense", WRONG)):
        done = run_command(*case.line(world), "--json", environ={**world.environ, "DATABASE_URL": url})
        assert done.exit_code == code, done.stderr
        if case.command in _TELL_OUTCOMES and done.stdout:
            check(case.command, json.loads(done.stdout))
        else:
            assert done.stdout == ""
            assert done.stderr


def test_the_consoles_address_is_as_the_schema_says(world: World) -> None:
    """It serves on, so it has a process of its own."""
    port = str(guardian.free_port())
    console = subprocess.Popen(
        [sys.executable, "-m", "ops", "console", "--port", port, "--json"],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **world.environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert console.stdout is not None
        told = json.loads(console.stdout.readline())
        check("console", told)
        assert told["address"].endswith(f":{port}")
    finally:
        console.kill()
        console.communicate()
