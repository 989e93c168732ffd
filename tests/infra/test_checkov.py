"""checkov finds nothing in the Terraform but what is skipped there, and beside each skip stands why."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from devstack.serving import REPOSITORY
from tests.infra.conftest import Install
from tests.infra.installing import Json, arguments, json_lines, once, terraform, tree_copy

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (REPOSITORY / ".venv-checkov/installed").exists(), reason="checkov is not installed: run `make terraform`."
    ),
]

_CHECKOV = REPOSITORY / ".venv-checkov/bin/checkov"
_MODULE = REPOSITORY / "infra/terraform"
_REASON = re.compile(r"#checkov:skip=(\w+)(?::(.*))?")


def checkov(*arguments: str | Path) -> Json:
    """What checkov says, without asking anybody for more."""
    done = subprocess.run(
        [_CHECKOV, "--skip-download", "--output", "json", *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    told = json.loads(done.stdout)
    # Another kind of file that it knows, or none that it understands, would look like no finding.
    assert isinstance(told, dict), done.stdout[-2000:]
    assert told["summary"]["parsing_errors"] == 0
    return told["results"]


def found(results: Json, kind: str) -> set[tuple[str, str]]:
    """The findings of a kind: which check, on which resource."""
    return {(each["check_id"], re.sub(r"\[.*", "", each["resource"])) for each in results[f"{kind}_checks"]}


def skips(module: Path) -> list[tuple[str, str]]:
    """Every skip written in the files, and what stands beside it."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(module.glob("*.tf")))
    return [(check, (reason or "").strip()) for check, reason in _REASON.findall(text)]


def is_reason(reason: str, module: Path) -> bool:
    """Whether it says why: in words, or by the name of a skip that does."""
    other = re.fullmatch(r"See (\w+)", reason)
    if other:
        return any(len(words) > 20 for check, words in skips(module) if check == other[1])
    return len(reason) > 20


@pytest.fixture(scope="module")
def of_files(shared_folder: Path) -> Json:
    def look() -> str:
        return json.dumps(checkov("--directory", _MODULE, "--framework", "terraform"))

    return json.loads(once(shared_folder / "checkov-of-files.json", look))


def test_nothing_is_found_in_the_files_but_what_is_skipped(of_files: Json) -> None:
    assert found(of_files, "failed") == set()
    assert len(found(of_files, "passed")) > 10


def found_in(plan: Json, folder: Path, kind: str = "failed") -> set[tuple[str, str]]:
    """The findings in a plan, to which checkov does not know the skips."""
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    return found(checkov("--file", file, "--framework", "terraform_plan"), kind)


def test_what_is_found_in_a_plan_is_what_is_skipped(installed: Install, of_files: Json, tmp_path: Path) -> None:
    # A skip of what is not found would outlive its reason.
    assert found_in(installed().plan, tmp_path) == found(of_files, "skipped")
    assert found_in(installed("full").plan, tmp_path) <= found(of_files, "skipped")


def test_beside_each_skip_stands_why(of_files: Json) -> None:
    written = skips(_MODULE)
    assert written
    assert [skip for skip in written if not is_reason(skip[1], _MODULE)] == []
    # checkov has read each of them.
    assert sorted(check for check, _ in found(of_files, "skipped")) == sorted(check for check, _ in written)


def test_what_is_wrong_is_found(of_files: Json, tmp_path: Path) -> None:
    tree = tree_copy(tmp_path)
    bucket = tree / "infra/terraform/bucket.tf"
    text = bucket.read_text(encoding="utf-8")
    wrong = text.replace('public_access_prevention    = "enforced"', "").replace(
        "uniform_bucket_level_access = true", "uniform_bucket_level_access = false"
    )
    bucket.write_text(re.sub(r"(#checkov:skip=CKV_GCP_78).*", r"\1", wrong), encoding="utf-8")
    done = terraform("plan", "-out=p.plan", *arguments("default", tree), "then", "show", "-json", "p.plan", root=tree)
    (plan,) = json_lines(done.stdout)
    assert found_in(plan, tmp_path) - found(of_files, "skipped") == {
        ("CKV_GCP_29", "google_storage_bucket.files"), ("CKV_GCP_114", "google_storage_bucket.files"),
    }  # fmt: skip
    # checkov takes a skip without a reason; the test above does not.
    module = bucket.parent
    assert [check for check, reason in skips(module) if not is_reason(reason, module)] == ["CKV_GCP_78"]
