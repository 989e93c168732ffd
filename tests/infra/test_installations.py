"""Each installation applies, on both versions of the provider, and a second plan has nothing to do."""

import re
from pathlib import Path

import pytest

from devstack.serving import REPOSITORY
from tests.infra.conftest import Install
from tests.infra.installing import GOOGLE, STRIPE_KEY, VARIANTS, arguments, json_lines, planned_resources, terraform

pytestmark = pytest.mark.timeout(600)

_GUIDE = REPOSITORY / "docs/deploy.md"


@pytest.mark.parametrize("google", GOOGLE)
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "default"])
def test_an_installation_applies_and_a_second_plan_is_empty(installed: Install, variant: str, google: str) -> None:
    done = installed(variant, google)
    assert done.second_plan_is_empty, done.text[-3000:]
    # Everything that was planned is there: nothing was left for a second apply.
    assert set(done.applied.by_address) == set(done.planned.by_address)
    assert len(done.applied.of("google_cloudfunctions2_function")) == 6


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stripe_key_is_in_no_plan_and_no_state(installed: Install, variant: str) -> None:
    done = installed(variant)
    # All that was printed: both plans, the one for people and the one in JSON, and the state.
    assert '"format_version"' in done.text
    assert STRIPE_KEY not in done.text
    made = done.applied.of("google_secret_manager_secret_version", "stripe")
    assert len(made) == (0 if variant == "existing" else 1)


def test_what_exists_is_not_made(installed: Install) -> None:
    done = installed("existing")
    kinds = {address.split(".")[0] for address in done.applied.by_address}
    assert not kinds & {
        "google_sql_database_instance", "google_sql_database", "google_redis_instance", "google_compute_network",
        "google_compute_subnetwork",
    }  # fmt: skip
    assert list(done.applied.of("google_storage_bucket")) == ["source"]
    assert list(done.applied.of("google_secret_manager_secret")) == ["0"]
    (secret,) = done.applied.of("google_secret_manager_secret").values()
    assert secret["secret_id"] == "maintenance-redis-url"


def test_with_a_key_of_ones_own_everything_that_can_be_is_encrypted_with_it(installed: Install) -> None:
    done = installed("own key")
    key = VARIANTS["own key"]["kms_key"]
    for address, values in done.applied.by_address.items():
        match address.split(".")[0]:
            case "google_storage_bucket":
                found = values["encryption"][0]["default_kms_key_name"]
            case "google_cloudfunctions2_function" | "google_artifact_registry_repository":
                found = values["kms_key_name"]
            case "google_sql_database_instance":
                found = values["encryption_key_name"]
            case "google_redis_instance":
                found = values["customer_managed_key"]
            case "google_secret_manager_secret":
                replica = values["replication"][0]["user_managed"][0]["replicas"][0]
                found = replica["customer_managed_encryption"][0]["kms_key_name"]
            case _:
                continue
        assert found == key, address
    without = installed("default").applied.by_address
    assert not [address for address in without if address.startswith("google_kms")]


def test_a_function_that_is_made_anew_may_be_called_again(tmp_path: Path) -> None:
    given = arguments("minimal", tmp_path)
    done = terraform(
        "apply", "-auto-approve", *given,
        "then", "plan", '-replace=google_cloudfunctions2_function.job["period_reset"]', "-out=p.plan", *given,
        "then", "show", "-json", "p.plan",
    )  # fmt: skip
    (plan,) = json_lines(done.stdout)
    actions = {each["address"]: each["change"]["actions"] for each in plan["resource_changes"]}
    anew = {address for address, taken in actions.items() if set(taken) == {"create", "delete"}}
    assert anew == {
        'google_cloudfunctions2_function.job["period_reset"]',
        'google_cloud_run_v2_service_iam_member.invoker["period_reset"]',
        'google_cloud_run_v2_service_iam_member.continuation["period_reset"]',
    }


def test_the_guides_own_example_is_short_and_plans(tmp_path: Path) -> None:
    guide = _GUIDE.read_text(encoding="utf-8")
    (example,) = re.findall(r"```hcl\n((?: +\w+ += .+\n)+) +```", guide)
    lines = [line.strip() for line in example.splitlines()]
    assert len(lines) < 10
    file = tmp_path / "terraform.tfvars"
    file.write_text("\n".join(lines) + "\n")
    done = terraform("plan", "-out=p.plan", f"-var-file={file}", "then", "show", "-json", "p.plan")
    assert done.returncode == 0, done.stderr[-3000:]
    (plan,) = json_lines(done.stdout)
    resources = planned_resources(plan)
    assert len(resources.of("google_cloudfunctions2_function")) == 6
    assert not resources.of("google_redis_instance")
    assert not resources.of("google_compute_network")
    # The comment at the head of example.tfvars shows the same.
    comment = (REPOSITORY / "infra/terraform/example.tfvars").read_text(encoding="utf-8")
    assert all(f"#   {line}\n" in comment for line in lines)


def test_the_guide_names_outputs_and_files_that_there_are(installed: Install) -> None:
    guide = _GUIDE.read_text(encoding="utf-8")
    outputs = set(installed().state["values"]["outputs"])
    asked = set(re.findall(r"terraform output (?:-\w+ )?(\w+)", guide))
    assert asked
    assert asked <= outputs
    named = set(re.findall(r"`(\w+\.tf)`", guide))
    assert named <= {file.name for file in (REPOSITORY / "infra/terraform").glob("*.tf")}
    # The table says what is where, so it names each file but those that say it themselves.
    assert {file.name for file in (REPOSITORY / "infra/terraform").glob("*.tf")} - named == {"outputs.tf"}


def test_every_variable_is_described_and_shown() -> None:
    folder = REPOSITORY / "infra/terraform"
    text = (folder / "variables.tf").read_text(encoding="utf-8")
    blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 20
    example = (folder / "example.tfvars").read_text(encoding="utf-8")
    for name, block in blocks:
        assert re.search(r"^  description = \".{20,}\"$", block, re.MULTILINE), name
        assert re.search(rf"^(?:# )?{name}\b", example, re.MULTILINE), name
    outputs = (folder / "outputs.tf").read_text(encoding="utf-8")
    assert len(re.findall(r"^output ", outputs, re.MULTILINE)) == len(
        re.findall(r"^  description", outputs, re.MULTILINE)
    )
