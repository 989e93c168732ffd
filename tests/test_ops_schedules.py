"""Cloud Scheduler from the command line: what is deployed and how that differs, and firing, pausing, resuming it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from devstack.scheduler_api import SchedulerApi
from devstack.serving import REPOSITORY
from devstack.threaded_server import ThreadedServer
from ops.shell import DOWN, USAGE, WRONG
from shared.postgres import SESSION_LIMITS
from tests.support.cloud_scheduler import LOCATION, PLACE, SCHEDULES, Cloud, address_of, cloud_of, declared
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.wait import until


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with cloud_of(declared()) as running:
        yield running


def actions(database: TestDatabase) -> list[tuple[str, object]]:
    rows = database.rows("SELECT action, arguments, by FROM maintenance.operator_actions ORDER BY id")
    assert all(row["by"] for row in rows)
    return [(row["action"], row["arguments"]) for row in rows]


# --- list


def test_all_schedules_are_listed_with_their_next_and_last_firing(cloud: Cloud) -> None:
    cloud.function.answers.append(503)
    cloud.scheduler.run("period-reset")
    cloud.scheduler.pause("artifact-cleanup")
    told = json.loads(cloud.run("list", "--json").stdout)
    assert [row["schedule"] for row in told] == SCHEDULES
    rows = {row["schedule"]: row for row in told}
    period = rows["period-reset"]
    assert (period["cron"], period["time_zone"], period["state"]) == ("30 0 * * *", "Etc/UTC", "ENABLED")
    assert (period["method"], period["uri"]) == ("POST", address_of("period-reset"))
    assert (period["last_attempt"], period["result"]) == ("2026-05-15T12:00:00Z", "UNAVAILABLE")
    optout = rows["opt-out-cleanup"]
    assert (optout["next_firing"], optout["last_attempt"], optout["result"]) == ("2026-05-16T04:00:00Z", None, None)
    assert (rows["artifact-cleanup"]["state"], rows["artifact-cleanup"]["next_firing"]) == ("PAUSED", None)
    table = cloud.run("list")
    assert (table.exit_code, len(table.stdout.splitlines()) > len(SCHEDULES)) == (0, True)
    assert "LAST ATTEMPT" in table.stdout


def test_names_are_whole_and_what_was_never_fired_has_no_columns_for_it(cloud: Cloud) -> None:
    heading, *lines = run_command("schedules", "list", environ={**cloud.environ, "COLUMNS": "80"}).stdout.splitlines()
    assert heading.split() == ["SCHEDULE", "STATE", "CRON", "(UTC)", "NEXT", "FIRING"]
    assert [line.split()[0] for line in lines] == SCHEDULES
    cloud.scheduler.run("period-reset")
    for columns in ("80", "90", "100"):
        said = run_command("schedules", "list", environ={**cloud.environ, "COLUMNS": columns}).stdout
        assert all(name in said for name in SCHEDULES)
        assert "RESULT" in said


def test_a_health_check_is_no_run_to_be_looked_for(cloud: Cloud) -> None:
    for job, shown in (("period", "history` shows the run"), ("health", "schedules list health` shows how it went")):
        said = cloud.run("run", job).stdout.splitlines()[0]
        assert said.endswith(f" now. `python -m ops {shown}.")
    cloud.scheduler.settle()


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        *[(spelt, "stripe-reconcile") for spelt in ("stripe", "stripe_reconcile", "stripe-reconcile")],
        *[(spelt, "maintenance-health") for spelt in ("health", "maintenance-health")],
    ],
)
def test_a_schedule_is_found_by_each_of_its_names(cloud: Cloud, spelt: str, name: str) -> None:
    (row,) = json.loads(cloud.run("list", spelt, "--json").stdout)
    assert row["schedule"] == name
    assert json.loads(cloud.run("pause", spelt, "--json").stdout)["state"] == "PAUSED"
    assert [each for each, paused in cloud.states().items() if paused] == [name]
    assert json.loads(cloud.run("resume", spelt, "--json").stdout)["schedule"] == name
    assert not any(cloud.states().values())
    assert json.loads(cloud.run("run", spelt, "--json").stdout)["schedule"] == name
    until(lambda: len(cloud.function.arrived) == 1, "it was fired")
    assert cloud.function.arrived[0].job == name
    cloud.scheduler.settle()


def test_a_region_without_schedules_has_none(cloud: Cloud) -> None:
    done = cloud.run("list", "--region", "europe-west2")
    assert (done.exit_code, done.stdout) == (
        0,
        "There are no schedules in projects/bytereview-test/locations/europe-west2.\n",
    )


# --- run, pause, resume


def test_what_is_done_is_recorded(cloud: Cloud, database: TestDatabase) -> None:
    paused = cloud.run("pause", "artifact", database=database)
    assert (paused.exit_code, paused.stderr) == (0, "")
    assert paused.stdout == "Cloud Scheduler fires artifact-cleanup no more until it is resumed.\n"
    resumed = cloud.run("resume", "artifact", database=database)
    assert resumed.stdout == "Cloud Scheduler fires artifact-cleanup again. Next at 2026-05-16T03:00:00Z.\n"
    fired = json.loads(cloud.run("run", "artifact", "--json", database=database).stdout)
    assert fired == {"schedule": "artifact-cleanup", "recorded": True}
    until(lambda: len(cloud.function.arrived) == 1, "it was fired")
    cloud.scheduler.settle()
    about = {"schedule": "artifact-cleanup"}
    assert actions(database) == [(f"schedules {verb}", about) for verb in ("pause", "resume", "run")]


def test_it_is_said_where_nothing_is_recorded(cloud: Cloud) -> None:
    assert "It is not recorded who did it: DATABASE_URL is not set.\n" in cloud.run("pause", "artifact").stdout
    assert json.loads(cloud.run("resume", "artifact", "--json").stdout)["recorded"] is False


def test_twice_is_refused_and_recorded_once(cloud: Cloud, database: TestDatabase) -> None:
    early = cloud.run("resume", "artifact", database=database)
    assert early.exit_code == WRONG
    assert early.stderr.startswith("artifact-cleanup is not paused: it is ENABLED. A pause by `python -m ops pause` ")
    assert cloud.run("pause", "artifact", database=database).exit_code == 0
    twice = cloud.run("pause", "artifact", database=database)
    assert (twice.exit_code, twice.stdout) == (WRONG, "")
    assert twice.stderr == "artifact-cleanup is paused already. `python -m ops schedules resume artifact` ends that.\n"
    assert [action for action, _ in actions(database)] == ["schedules pause"]


@pytest.mark.parametrize("verb", ["run", "pause", "resume"])
def test_nothing_is_done_where_it_could_not_be_recorded(cloud: Cloud, database: TestDatabase, verb: str) -> None:
    if verb == "resume":
        cloud.scheduler.pause("period-reset")
    before = cloud.states()
    down = run_command(
        "schedules",
        *(verb, "period"),
        environ={**cloud.environ, "DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"},
    )
    assert (down.exit_code, down.stdout) == (DOWN, "")
    assert "accepts no connection" in down.stderr
    assert "Nothing was done, because it could not be recorded." in down.stderr
    assert "unset DATABASE_URL, and type it again.\n" in down.stderr
    database.execute("UPDATE maintenance.identity SET instance = 'production:5432'")
    copy = cloud.run(verb, "period", database=database)
    assert (copy.exit_code, "belongs to another environment" in copy.stderr) == (WRONG, True)
    database.script("DROP SCHEMA maintenance CASCADE")
    bare = cloud.run(verb, "period", database=database)
    assert (bare.exit_code, "python -m ops migrate" in bare.stderr) == (WRONG, True)
    cloud.scheduler.settle()
    assert (cloud.states(), cloud.function.arrived) == (before, [])


class Refusing(SchedulerApi):
    """Lets jobs be looked at, and does nothing to them."""

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return await super()._handle(request)
        error = {"code": 403, "message": 'lacks "cloudscheduler.jobs.pause".\x1b[2J', "status": "PERMISSION_DENIED"}
        return web.json_response({"error": error}, status=403)


def test_what_google_refuses_is_not_recorded(database: TestDatabase) -> None:
    with cloud_of(declared(), Refusing) as cloud:
        done = cloud.run("pause", "period", database=database)
    assert (done.exit_code, done.stdout, actions(database)) == (WRONG, "", [])
    assert f"This account may not pause {LOCATION}/jobs/period-reset, or the API is not enabled." in done.stderr
    assert r'Google says: lacks "cloudscheduler.jobs.pause".\x1b[2J. The role roles/cloudscheduler.admin' in done.stderr


def test_the_record_waits_for_google_longer_than_a_batch_may_be_idle(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SESSION_LIMITS, "idle_in_transaction_session_timeout", "100")
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' "
        "AND application_name <> 'a test' AND state_change < clock_timestamp() - interval '0.4 seconds'"
    )

    class Slow(SchedulerApi):
        """Answers what changes something only after some time."""

        async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
            if request.method != "GET":
                until(lambda: database.value(idle) == 1, "the record waits")
            return await super()._handle(request)

    with cloud_of(declared(), Slow) as cloud:
        assert cloud.run("pause", "period", database=database).exit_code == 0
    assert [action for action, _ in actions(database)] == ["schedules pause"]


def test_it_is_said_if_the_record_is_lost_after_it_was_done(database: TestDatabase) -> None:
    class Killing(SchedulerApi):
        """Ends the sessions of the database before it answers what changes something."""

        async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
            answer = await super()._handle(request)
            if request.method != "GET":
                database.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND application_name <> 'a test'"
                )
            return answer

    with cloud_of(declared(), Killing) as cloud:
        done = cloud.run("pause", "period", database=database)
        assert cloud.states()["period-reset"]
    assert (done.exit_code, done.stdout, actions(database)) == (DOWN, "", [])
    assert done.stderr.startswith(
        "Cloud Scheduler fires period-reset no more until it is resumed. But it could not be "
    )


# --- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["run", "nothing"],
            WRONG,
            "There is no job 'nothing'. The jobs are period, stripe, usage, abandoned, artifact, ",
        ),
        (["list", "nothing"], WRONG, "optout, and health for the health check."),
        (
            ["list", "--project", "My Project"],
            USAGE,
            "'My Project' is no project id such as bytereview-prod: 6 to 30 small letters,",
        ),
        (["check", "--region", "europe-west1-b"], USAGE, "'europe-west1-b' is no region such as europe-west1."),
        (["pause"], USAGE, "Missing argument 'JOB'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    cloud: Cloud, arguments: list[str], code: int, sentence: str
) -> None:
    done = cloud.run(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr


@pytest.mark.parametrize("verb", ["list", "run", "pause", "resume"])
def test_a_schedule_that_is_not_deployed_is_told(verb: str, database: TestDatabase) -> None:
    with cloud_of([job for job in declared() if job.id != "period-reset"]) as cloud:
        done = cloud.run(verb, "period", database=database)
    assert (done.exit_code, done.stdout, actions(database)) == (WRONG, "", [])
    assert done.stderr.startswith(f"Cloud Scheduler has no {LOCATION}/jobs/period-reset. ")


def test_without_a_project_or_region_both_ways_to_name_them_are_told() -> None:
    for missing, option in (("GOOGLE_CLOUD_PROJECT", "--project"), ("GOOGLE_CLOUD_REGION", "--region")):
        done = run_command("schedules", "list", environ={**PLACE, missing: ""})
        assert (done.exit_code, option in done.stderr, missing in done.stderr) == (USAGE, True, True)


class Answering(ThreadedServer):
    """Answers everything in one way, as Google's APIs do."""

    status, code, message = 500, "INTERNAL", "Internal error encountered."

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        error = {"code": self.status, "message": self.message, "status": self.code}
        return web.json_response({"error": error}, status=self.status)


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "sentence"),
    [
        (
            403,
            "PERMISSION_DENIED",
            WRONG,
            "This account may not list projects/bytereview-test/locations/europe-west1, or",
        ),
        (404, "NOT_FOUND", WRONG, "Cloud Scheduler has no projects/bytereview-test/locations/europe-west1. Check"),
        (
            400,
            "INVALID_ARGUMENT",
            WRONG,
            "Cloud Scheduler refuses to list projects/bytereview-test/locations/europe-west1",
        ),
        (429, "RESOURCE_EXHAUSTED", DOWN, "Cloud Scheduler does not serve now. Google says: So it is. Try again."),
        (500, "INTERNAL", DOWN, "Cloud Scheduler does not serve now."),
        (503, "UNAVAILABLE", DOWN, "Cloud Scheduler does not serve now."),
        (504, "DEADLINE_EXCEEDED", DOWN, "Cloud Scheduler does not serve now."),
    ],
)
def test_googles_errors_are_sentences(status: int, code: str, exit_code: int, sentence: str) -> None:
    server = Answering()
    server.status, server.code, server.message = status, code, "So it is."
    with server:
        environ = {**PLACE, "CLOUD_SCHEDULER_EMULATOR_HOST": server.url.removeprefix("http://")}
        done = run_command("schedules", "check", environ=environ)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(sentence)


def test_a_cloud_that_is_not_reached_is_told() -> None:
    environ = {**PLACE, "CLOUD_SCHEDULER_EMULATOR_HOST": "127.0.0.1:1"}
    done = run_command("schedules", "list", environ=environ)
    assert (done.exit_code, done.stderr) == (DOWN, "Cloud Scheduler cannot be reached. Try again.\n")


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_missing_credentials_are_told(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "credentials.json"
    if content is not None:
        file.write_text(content)
    done = run_command("schedules", "list", environ={**PLACE, "GOOGLE_APPLICATION_CREDENTIALS": str(file)})
    assert (done.exit_code, done.stdout) == (WRONG, "")
    assert done.stderr.startswith("There are no credentials for Google, or not such as can be read.")


def federated(folder: Path, token_url: str) -> dict[str, str]:
    """Settings with credentials of another identity provider, for which a token must be fetched first."""
    (folder / "subject").write_text("a token")
    (folder / "credentials.json").write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": token_url,
                "credential_source": {"file": str(folder / "subject")},
            }
        )
    )
    return {**PLACE, "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "credentials.json")}


def test_credentials_that_are_not_taken_any_more_are_told(tmp_path: Path) -> None:
    server = Answering()
    server.status, server.code, server.message = 400, "invalid_grant", "ann@example.com has left."
    with server:
        done = run_command("schedules", "list", environ=federated(tmp_path, server.url))
    assert (done.exit_code, done.stdout) == (WRONG, "")
    assert done.stderr.startswith("Google does not take the credentials any more. `gcloud auth application-default")
    assert "ann@example.com" not in done.stderr


def test_a_login_that_is_not_reached_is_told(tmp_path: Path) -> None:
    done = run_command("schedules", "list", environ=federated(tmp_path, "http://127.0.0.1:1"))
    assert (done.exit_code, done.stderr) == (DOWN, "Cloud Scheduler cannot be reached. Try again.\n")


@pytest.mark.parametrize("verb", ["list", "run", "pause", "resume", "check"])
def test_help_ends_with_an_example(verb: str) -> None:
    done = run_command("schedules", verb, "--help", environ={})
    assert f"Example: python -m ops schedules {verb}" in " ".join(done.stdout.split())
    assert "emulator" not in done.stdout


def test_other_commands_do_not_pay_for_googles_client() -> None:
    code = "import ops.__main__, sys; sys.exit('google.cloud.scheduler_v1' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
