"""`python -m ops erase`: everything of a user, or one run, because somebody asked for it."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from ops.shell import DONE, DOWN, NO, USAGE, WRONG
from tests.support.cleanup import CleanupWorld
from tests.support.commands import run_command

Ops = Callable[..., Result]
FOR = ("--reason", "request 4711")
# Look first, and confirm what is shown.
SEEN = "seen"
KEPT = ("MAX_DELETE_FLOOR",)


@pytest.fixture
def ops(world: CleanupWorld, environ: dict[str, str]) -> Ops:
    """The command line, on the world's database and bucket."""
    settings = {**environ, "GCS_BUCKET_NAME": world.bucket, "STORAGE_EMULATOR_HOST": world.front.url}

    def run(*arguments: str, **changes: str) -> Result:
        given = list(arguments)
        if SEEN in given:
            place = given.index(SEEN)
            looked = run(
                *given[:place], *given[place + 1 :], **{name: v for name, v in changes.items() if name in KEPT}
            )
            shown = re.search(r"--confirm (\S+)|\"confirm\": \"(\S+?)\"", looked.stdout)
            given[place : place + 1] = ["--confirm", shown.expand(r"\1\2") if shown else "0-none"]
        return run_command("erase", *given, *FOR, environ={**settings, **changes})

    return run


def told(result: Result) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def young_run(world: CleanupWorld, user: str = "ann") -> tuple[str, str]:
    """A run that no cleanup would take yet, with a file, a result and a bill; give it and the object's name."""
    run = world.submitted(world.job(user, age=0), age=0)
    file = world.file(run)
    world.usage(world.task(run, file), user)
    world.export(run, "a sheet")
    return run, world.object_of(file)


def test_it_shows_first_and_erases_only_what_was_confirmed(world: CleanupWorld, ops: Ops) -> None:
    ann, theirs = young_run(world)
    _, of_bob = young_run(world, "bob")
    before = world.checksum()
    shown = ops("--user", "ann")
    assert (shown.exit_code, world.checksum()) == (DONE, before)
    assert "Of the user ann would go: runs 1, files 1 of 10 bytes, extraction jobs 1." in shown.stdout
    assert "Nothing was erased. To erase just that, add --confirm 1-" in shown.stdout
    other = ops("--user", "ann", "--confirm", "1-00000000")
    assert (other.exit_code, world.checksum()) == (WRONG, before)
    assert "1-00000000 was confirmed, and what would go now is 1-" in other.stderr
    done = told(ops("--user", "ann", SEEN, "--json"))
    assert (done["success"], done["jobs_cleaned"], done["parents_deleted"], done["objects_deleted"]) == (True, 1, 1, 1)
    assert not world.has("job_runs", ann)
    assert (world.objects(), theirs in world.objects()) == ({of_bob}, False)
    assert (world.count("users"), world.count("usage_events"), world.count("extraction_jobs")) == (2, 2, 1)


def test_it_is_on_record_without_the_name_of_the_user(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    assert ops("--user", "ann", SEEN).exit_code == DONE
    (erased,) = world.erasures()
    assert (erased["job"], erased["completed_at"] is not None) == ("erasure_on_request", True)
    action = world.database.row("SELECT action, arguments, reason FROM maintenance.operator_actions")
    assert (action["action"], action["reason"], action["arguments"]["runs"]) == ("erase", "request 4711", 1)
    assert action["arguments"]["user_hash"] == bytes(erased["user_hash"]).hex()
    assert "ann" not in json.dumps(action["arguments"])
    # Two rows in the ledger: the look, and the deed.
    runs = world.database.rows("SELECT dry_run, status FROM maintenance.runs ORDER BY id")
    assert [(run["dry_run"], run["status"]) for run in runs][-1] == (False, "completed")


def test_one_run_goes_and_the_rest_of_its_user_stays(world: CleanupWorld, ops: Ops) -> None:
    job = world.job("ann", age=0)
    going, staying = world.submitted(job, age=1), world.submitted(job, age=0)
    world.file(going)
    kept = world.file(staying)
    assert ops("--run", going.upper(), SEEN).exit_code == DONE
    assert (world.has("job_runs", going), world.has("job_runs", staying)) == (False, True)
    assert world.objects() == {world.object_of(kept)}
    # Its last run takes the job with it only where everything of the user was asked for.
    assert ops("--run", staying, SEEN).exit_code == DONE
    assert (world.count("job_runs"), world.has("extraction_jobs", job)) == (0, True)
    assert ops("--user", "ann").exit_code == DONE


def test_jobs_that_are_empty_already_go_with_their_user_and_nobody_elses(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    mine, others = world.job("ann", age=0, name="salaries"), world.job("bob", age=0)
    assert told(ops("--user", "ann", "--json"))["parents_deleted"] == 2
    assert told(ops("--user", "ann", SEEN, "--json"))["parents_deleted"] == 2
    assert (world.has("extraction_jobs", mine), world.has("extraction_jobs", others)) == (False, True)


def test_what_is_held_or_worked_on_stays_and_is_told(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    busy = world.submitted(world.job("ann", age=0), age=0, status="in_progress")
    filling = world.draft(world.job("ann", age=0), age=0)
    world.automation_run(world.automation(world.job("ann", age=0)), filling, "running")
    held, _ = young_run(world)
    world.hold("run", held)
    done = ops("--user", "ann", SEEN)
    assert done.exit_code == NO
    assert "2 runs stay: still being worked on" in done.stdout
    assert f"1 run stays: held (run {held}, by hold 1). `python -m ops hold list` says" in done.stdout
    assert f"still being worked on (runs {busy}, {filling})" in done.stdout or (
        f"still being worked on (runs {filling}, {busy})" in done.stdout
    )
    assert {run for run in (busy, filling, held) if world.has("job_runs", run)} == {busy, filling, held}
    assert world.count("job_runs") == 3


def test_a_run_that_is_held_and_worked_on_is_told_once_as_held(world: CleanupWorld, ops: Ops) -> None:
    busy = world.submitted(world.job("ann", age=0), age=0, status="in_progress")
    world.hold("user", "ann")
    shown = ops("--user", "ann")
    assert shown.stdout.splitlines() == [
        "Of the user ann would go: nothing.",
        f"1 run stays: held (run {busy}, by hold 1). `python -m ops hold list` says by whom and why.",
    ]
    asked_for = told(ops("--user", "ann", "--json"))["asked_for"]
    assert (asked_for["unfinished"], asked_for["held"]) == (0, 1)
    done = ops("--user", "ann", "--confirm", "1-00000000")
    assert (done.exit_code, done.stdout) == (WRONG, "")
    assert "what would go now is nothing" in done.stderr


def test_of_many_that_stay_only_the_number_is_told(world: CleanupWorld, ops: Ops) -> None:
    for _ in range(6):
        world.submitted(world.job("ann", age=0), age=0, status="in_progress")
    said = ops("--user", "ann").stdout
    assert "6 runs stay: still being worked on. Ask again when that has ended.\n" in said


def test_of_the_run_that_an_automation_lives_on_only_the_content_goes(world: CleanupWorld, ops: Ops) -> None:
    job = world.job("ann", age=0)
    world.automation(job)
    run = world.draft(job, age=0)
    world.file(run)
    shown = ops("--user", "ann")
    assert "runs 1 (of 1 only the content: an automation lives on it), files 1" in shown.stdout
    done = ops("--user", "ann", SEEN)
    # Its fields are still there, and so is what the automation is called.
    assert (done.exit_code, "1 run stays: the one that an automation lives on" in done.stdout) == (NO, True)
    assert (world.count("job_fields"), world.count("automations"), world.count("source_files")) == (1, 1, 0)
    assert (world.erasures()[0]["extent"], world.objects()) == ("content", set())
    assert told(ops("--user", "ann", "--json"))["jobs_cleaned"] == 0


def test_a_file_that_another_run_needs_moves_to_it(world: CleanupWorld, ops: Ops) -> None:
    first = world.submitted(world.job("ann", age=0), age=1)
    file = world.file(first)
    world.task(first, file)
    second = world.appended(first, age=0)
    assert told(ops("--run", first, SEEN, "--json"))["files_rehomed"] == 1
    assert (world.owner(file), world.objects()) == (second, {world.object_of(file)})
    # Of a user, both go, and nothing is left.
    assert ops("--user", "ann", SEEN).exit_code == DONE
    assert (world.count("source_files"), world.objects()) == (0, set())


def test_no_share_of_a_table_bounds_what_somebody_asked_for(world: CleanupWorld, ops: Ops) -> None:
    for _ in range(3):
        young_run(world)
    assert ops("--user", "ann", SEEN, MAX_DELETE_FLOOR="0").exit_code == DONE
    assert world.count("job_runs") == 0


def test_in_report_mode_nothing_goes(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    done = ops("--user", "ann", SEEN, MAINTENANCE_MODE="report")
    assert (done.exit_code, world.count("job_runs")) == (NO, 1)
    assert "MAINTENANCE_MODE is report" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), USAGE, "--user or --run, and not both"),
        (("--user", "ann", "--run", "6f9619ff-8b86-4011-b42d-00c04fc964ff"), USAGE, "not both"),
        (("--run", "42"), USAGE, "is not a valid UUID"),
        (("--user", "x\x1b[31m' OR true --"), WRONG, "There is no user x\\x1b[31m' OR true --;"),
        (("--run", "6f9619ff-8b86-4011-b42d-00c04fc964ff"), WRONG, "There is no run 6f9619ff"),
    ],
)
def test_what_is_not_there_is_said(
    arguments: tuple[str, ...], code: int, sentence: str, ops: Ops, world: CleanupWorld
) -> None:
    young_run(world)
    done = ops(*arguments, SEEN)
    assert (done.exit_code, done.stdout, world.count("job_runs")) == (code, "", 1)
    assert sentence in " ".join(done.stderr.split())


@pytest.mark.slow
def test_without_the_bucket_nothing_is_erased(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    assert ops("--user", "ann", SEEN, GCS_BUCKET_NAME="another-one").exit_code == WRONG
    assert ops("--user", "ann", SEEN, STORAGE_EMULATOR_HOST="http://127.0.0.1:1").exit_code == DOWN
    assert (world.count("job_runs"), world.count("extraction_jobs")) == (1, 1)
    assert world.database.value("SELECT count(*) FROM maintenance.operator_actions") == 0


def test_what_was_erased_on_request_is_in_the_history(world: CleanupWorld, ops: Ops, environ: dict[str, str]) -> None:
    young_run(world)
    assert ops("--user", "ann", SEEN).exit_code == DONE
    for name in ("erase", "erasure_on_request"):
        rows = json.loads(run_command("history", name, "--json", environ=environ).stdout)
        assert [(row["job"], row["dry_run"]) for row in rows] == [
            ("erasure_on_request", False),
            ("erasure_on_request", True),
            ("erasure_on_request", True),
        ]


# ---- nothing goes that was not shown


def test_what_comes_between_the_look_and_the_deed_stays_and_is_told(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    job = world.job("ann", age=0)
    token = told(ops("--user", "ann", "--json"))["confirm"]
    # As soon as the dry run is on record, the user begins another run.
    world.database.script(
        f"""
        CREATE FUNCTION begin_another() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO job_runs (job_id, config_step, status, last_active_at)
            VALUES ('{job}', 'fields', 'pending', now());
            RETURN NULL;
        END $$;
        CREATE TRIGGER begin_another AFTER INSERT ON maintenance.runs
            FOR EACH ROW WHEN (NEW.dry_run) EXECUTE FUNCTION begin_another();
        """
    )
    done = ops("--user", "ann", "--confirm", token)
    assert (done.exit_code, world.count("job_runs"), world.has("extraction_jobs", job)) == (NO, 1, True)
    assert "1 run stays: not gone." in done.stdout


def test_as_many_of_something_else_is_not_what_was_confirmed(world: CleanupWorld, ops: Ops) -> None:
    shown, _ = young_run(world)
    token = told(ops("--user", "ann", "--json"))["confirm"]
    world.hold("run", shown)
    other, _ = young_run(world)
    done = ops("--user", "ann", "--confirm", token)
    assert (done.exit_code, f"{token} was confirmed" in done.stderr) == (WRONG, True)
    assert world.has("job_runs", other)


# ---- what is left can be seen, and finished


def test_a_run_that_the_database_refuses_to_delete_is_told(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    refused, _ = young_run(world)
    world.database.script(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'not this one' USING ERRCODE = 'integrity_constraint_violation';
        END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON job_runs
            FOR EACH ROW WHEN (OLD.id = '{refused}') EXECUTE FUNCTION refuse();
        """
    )
    done = ops("--user", "ann", SEEN)
    assert (done.exit_code, "1 run stays: not gone." in done.stdout) == (NO, True)
    assert (world.count("job_runs"), world.has("job_runs", refused)) == (1, True)


def test_an_object_that_stays_is_told_and_goes_with_the_next_request(world: CleanupWorld, ops: Ops) -> None:
    _, name = young_run(world)
    _, of_bob = young_run(world, "bob")
    world.front.fail(400, method="DELETE", reason="invalid", message="no")
    done = ops("--user", "ann", SEEN)
    assert (done.exit_code, "Objects still in the bucket: 1." in done.stdout) == (NO, True)
    world.front.clear()
    looked = ops("--user", "ann")
    assert "runs 0, files 0 of 0 bytes, extraction jobs 0, objects of earlier erasures 1." in looked.stdout
    assert ops("--user", "ann", SEEN).exit_code == DONE
    assert (world.objects(), name in world.objects()) == ({of_bob}, False)
    assert [row["completed_at"] is not None for row in world.erasures()] == [True]


def test_a_user_with_nothing_but_an_empty_job_can_be_erased(world: CleanupWorld, ops: Ops) -> None:
    job = world.job("ann", age=0, name="salaries")
    assert ops("--user", "ann", SEEN).exit_code == DONE
    assert not world.has("extraction_jobs", job)


def test_what_others_have_left_in_the_bucket_is_not_anns(world: CleanupWorld, ops: Ops) -> None:
    young_run(world)
    _, of_bob = young_run(world, "bob")
    world.add_maintenance(
        "object_deletions",
        bucket=world.bucket,
        object_name=of_bob,
        kind="orphan",
        run_id=0,
        next_attempt_at=world.clock.now(),
        requested_at=world.clock.now(),
    )
    done = ops("--user", "ann", SEEN)
    assert (done.exit_code, world.objects()) == (DONE, {of_bob})
