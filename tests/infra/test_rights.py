"""The plan against the jobs' needs: who may do what, and who has which secret."""

import json

import pytest

from functions.registry import JOBS
from tests.infra.conftest import Install
from tests.infra.installing import Installation
from tests.infra.names import BUILDER, INVOKER, PROJECT, account, slug

pytestmark = pytest.mark.timeout(600)

# Written out, and not read from jobs.json: these are what users were promised.
BUCKET_JOBS = {"abandoned_cleanup", "artifact_cleanup", "opt_out_cleanup"}


def grants(done: Installation) -> set[tuple[str, str, str]]:
    """Every right that is granted to anybody: on what, which role, to whom."""
    found = set()
    for address, values in done.applied.by_address.items():
        kind = address.split(".")[0]
        if "_iam_" in kind and kind != "google_project_iam_custom_role":
            # A binding or a policy would take others' rights away, and one of those here would go unseen.
            assert kind.endswith("_iam_member"), address
            what = {
                "google_project_iam_member": "project",
                "google_cloud_run_v2_service_iam_member": f"service {values.get('name')}",
                "google_secret_manager_secret_iam_member": f"secret {_last(values.get('secret_id'))}",
                "google_storage_bucket_iam_member": f"bucket {_last(values.get('bucket'))}",
                "google_artifact_registry_repository_iam_member": "images",
                "google_kms_crypto_key_iam_member": "key",
                "google_cloud_tasks_queue_iam_member": f"queue {values.get('name')}",
                "google_service_account_iam_member": f"account {_account_of(address)}",
            }[kind]
            found.add((what, values["role"], values["member"]))
    return found


def _account_of(address: str) -> str:
    """The job in an address such as google_service_account_iam_member.continuation["period_reset"]."""
    return address.partition('["')[2].rstrip('"]')


def _last(path: str | None) -> str:
    return (path or "").rsplit("/", 1)[-1]


def expected_grants(*, redis: bool) -> set[tuple[str, str, str]]:
    """Every right that a job's `needs` call for, and those of the build and of Cloud Scheduler."""
    expected = {
        ("project", "roles/logging.logWriter", BUILDER),
        ("project", "roles/storage.objectViewer", BUILDER),
        ("images", "roles/artifactregistry.writer", BUILDER),
    }
    accessor = "roles/secretmanager.secretAccessor"
    for name, job in JOBS.items():
        member = f"serviceAccount:{account(name)}"
        expected |= {
            ("project", "roles/cloudsql.client", member),
            ("project", "roles/cloudsql.instanceUser", member),
            (f"service {slug(name)}", "roles/run.invoker", f"serviceAccount:{INVOKER}"),
            # A step of a firing is queued by the function, and calls it as the function's own account.
            (f"service {slug(name)}", "roles/run.invoker", member),
            (f"account {name}", "roles/iam.serviceAccountUser", member),
            ("queue maintenance-continuation", "roles/cloudtasks.enqueuer", member),
        }
        if redis:
            expected.add(("secret maintenance-redis-url", accessor, member))
        if "stripe" in job.needs:
            expected.add(("secret maintenance-stripe-secret-key", accessor, member))
        if "gcs" in job.needs:
            expected.add((f"bucket {PROJECT}-files", f"projects/{PROJECT}/roles/maintenanceCleaner", member))
    return expected


@pytest.mark.parametrize(("variant", "redis"), [("default", True), ("minimal", False)])
def test_everybody_has_the_rights_that_they_need_and_no_others(installed: Install, variant: str, redis: bool) -> None:
    done = installed(variant)
    assert grants(done) == expected_grants(redis=redis)
    role = done.applied.of("google_project_iam_custom_role")["cleaner"]
    # List and delete; never read what users uploaded.
    assert sorted(role["permissions"]) == ["storage.buckets.get", "storage.objects.delete", "storage.objects.list"]
    assert {name for name, job in JOBS.items() if "gcs" in job.needs} == BUCKET_JOBS


def test_rights_in_the_project_reach_no_further_than_our_own(default: Installation) -> None:
    members = default.applied.of("google_project_iam_member")
    conditions = {
        index: (values["role"], [each["expression"] for each in values["condition"] or []])
        for index, values in members.items()
    }
    for role, expressions in conditions.values():
        if role.startswith("roles/cloudsql"):
            (expression,) = expressions
            assert expression == (
                "resource.service == 'sqladmin.googleapis.com' && "
                f"resource.name == 'projects/{PROJECT}/instances/bytereview'"
            )
        elif role == "roles/storage.objectViewer":
            (expression,) = expressions
            assert f"buckets/{PROJECT}-maintenance-source" in expression
            assert f"{PROJECT}-files" not in expression
        else:
            assert role == "roles/logging.logWriter"


@pytest.mark.parametrize("variant", ["default", "minimal", "full", "existing", "own key"])
def test_nothing_is_open_to_all_and_nobody_has_a_primitive_role(installed: Install, variant: str) -> None:
    done = installed(variant)
    assert grants(done)
    for _, role, member in grants(done):
        assert role not in {"roles/owner", "roles/editor", "roles/viewer"}
        assert member.startswith("serviceAccount:")
    for told in (done.plan, done.state):
        text = json.dumps(told)
        assert "allUsers" not in text
        assert "allAuthenticatedUsers" not in text


def secrets(done: Installation) -> dict[str, dict[str, tuple[str, str]]]:
    """The secret and version behind each secret variable, by job."""
    return {
        name: {
            each["key"]: (each["secret"], each["version"])
            for each in function["service_config"][0]["secret_environment_variables"]
        }
        for name, function in done.applied.of("google_cloudfunctions2_function").items()
    }


def test_secrets_go_to_who_needs_them_in_a_pinned_version(installed: Install) -> None:
    for name, given in secrets(installed()).items():
        expected = {"REDIS_URL": "maintenance-redis-url"}
        if "stripe" in JOBS[name].needs:
            expected["STRIPE_SECRET_KEY"] = "maintenance-stripe-secret-key"
        assert {key: secret for key, (secret, _) in given.items()} == expected
    # The versions are those that this installation itself made.
    made = {
        index_or_name: values["version"]
        for index_or_name, values in installed().applied.by_address.items()
        if index_or_name.startswith("google_secret_manager_secret_version.")
    }
    assert {version for given in secrets(installed()).values() for _, version in given.values()} == set(made.values())
    assert "latest" not in made.values()
    assert secrets(installed("existing"))["stripe_reconcile"]["STRIPE_SECRET_KEY"] == ("stripe", "7")


def test_without_redis_only_the_job_with_stripe_has_a_secret(installed: Install) -> None:
    done = installed("minimal")
    assert {name: sorted(given) for name, given in secrets(done).items() if given} == {
        "stripe_reconcile": ["STRIPE_SECRET_KEY"]
    }
    functions = done.applied.of("google_cloudfunctions2_function")
    bucket = {
        name for name, function in functions.items()
        if "GCS_BUCKET_NAME" in function["service_config"][0]["environment_variables"]
    }  # fmt: skip
    assert bucket == BUCKET_JOBS
    assert not done.applied.of("google_redis_instance")
    assert not done.applied.of("google_compute_network")
    assert not any(function["service_config"][0]["direct_vpc_network_interface"] for function in functions.values())


def test_each_account_logs_in_to_the_database_as_itself(default: Installation) -> None:
    users = default.applied.of("google_sql_user")
    logins = {name: f"fn-{slug(name)}@{PROJECT}.iam" for name in JOBS}
    assert {name: user["name"] for name, user in users.items()} == logins
    assert {user["type"] for user in users.values()} == {"CLOUD_IAM_SERVICE_ACCOUNT"}
    for name, function in default.applied.of("google_cloudfunctions2_function").items():
        assert function["service_config"][0]["environment_variables"]["DB_USER"] == logins[name]
