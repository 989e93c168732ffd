"""The audit finds what it looks for, says what it could not look at, and prints no secret."""

import random
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from audit import __main__ as command
from audit.looks import code, dependencies, history, judged
from devstack.serving import REPOSITORY

# What pip-audit says of a package.
NOTHING_KNOWN = '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}'
KNOWN = NOTHING_KNOWN.replace("[]", '[{"id": "X", "fix_versions": []}]')
TOOLS = REPOSITORY / ".venv-audit/bin"
with_tools = pytest.mark.skipif(not TOOLS.exists(), reason="the tools are not installed: run `make audit`.")


# The same each time, so that the scanner judges the same each time.
SOURCE = random.Random(7)  # noqa: S311  they open nothing


def random_text(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(SOURCE.choices(letters, k=length))


def git(folder: Path, *arguments: str) -> None:
    """Run git there, whatever the machine's own settings are."""
    settings = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "example").write_text("redis://:password@host:6379/0 postgresql://ann:s3cret@127.0.0.1:1/byte\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "begin")
    return folder


def planted() -> dict[str, str]:
    """Secrets of every kind that this product has to do with, none of which opens anything."""
    body = "\n".join(random_text(64) for _ in range(24))
    key = f"-----BEGIN {'PRIVATE'} KEY-----\n{body}\n-----END {'PRIVATE'} KEY-----\n"
    return {
        "stripe": f"STRIPE_SECRET_KEY=sk_live_{random_text(24)}\n",
        "restricted": f"STRIPE_SECRET_KEY=rk_live_{random_text(24)}\n",
        "webhook": f'"whsec_{random_text(32)}"\n',
        "google": f'key = "AIza{random_text(35)}"\n',
        "account.json": f'{{"type": "service_account", "private_key": "{key!r}"}}\n',
        "key.pem": key,
        "aws": f"aws_access_key_id = AKIA{random_text(16, string.ascii_uppercase + '234567')}\n"
        f"aws_secret_access_key = {random_text(40)}\n",
        "database": f"DATABASE_URL=postgresql://app:{random_text(24)}@10.20.30.40:5432/byte\n",
        "redis": f"REDIS_URL=redis://:{random_text(24)}@10.20.30.40:6379/0\n",
    }


@with_tools
def test_a_secret_that_was_taken_out_again_is_found_and_not_printed(clone: Path) -> None:
    files = planted()
    for name, text in files.items():
        (clone / name).write_text(text)
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "oops")
    git(clone, "rm", "--quiet", *files)
    git(clone, "commit", "--quiet", "--message", "nothing happened")
    look = history(TOOLS, clone)
    assert not look.passed
    said = "\n".join(look.said)
    assert [name for name in files if f" in {name}, line " not in said] == []
    # The last word of each file is its secret's end.
    assert [name for name, text in files.items() if text.strip(' \n"}')[-40:-24] in said] == []


@with_tools
def test_examples_are_no_secrets(clone: Path) -> None:
    look = history(TOOLS, clone)
    assert look.passed
    assert "in 1 commit(s)" in look.said[0]


@with_tools
def test_a_shallow_clone_says_so_and_passes(clone: Path, tmp_path: Path) -> None:
    (clone / "more").write_text("more\n")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "go on")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{clone}", "shallow")
    look = history(TOOLS, tmp_path / "shallow")
    assert look.passed
    assert "shallow" in look.said[0]


@pytest.mark.parametrize("inside", [False, True], ids=["nowhere", "in another clone"])
def test_what_is_no_clone_says_so_and_passes(clone: Path, tmp_path: Path, inside: bool) -> None:
    folder = (clone if inside else tmp_path) / "unpacked"
    folder.mkdir()
    look = history(TOOLS, folder)
    assert look.passed
    assert "no clone" in look.said[0]


@with_tools
def test_a_clone_that_cannot_be_read_is_no_clean_one(clone: Path) -> None:
    shutil.rmtree(clone / ".git" / "objects")
    (clone / ".git" / "objects").mkdir()
    assert not history(TOOLS, clone).passed


@with_tools
def test_unsafe_code_is_found(tmp_path: Path) -> None:
    for name in ("functions", "shared", "ops"):
        (tmp_path / name).mkdir()
    (tmp_path / "main.py").touch()
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    assert code(TOOLS, tmp_path).passed
    (tmp_path / "shared" / "bad.py").write_text("import subprocess\nsubprocess.run(input(), shell=True)\n")
    look = code(TOOLS, tmp_path)
    assert not look.passed
    assert "shared/bad.py:2" in look.said[0]


# ---- packages


@with_tools
def test_advisories_out_of_reach_fail_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    look = dependencies(TOOLS, [REPOSITORY / "requirements.txt", REPOSITORY / "requirements-dev.txt"])
    assert look.passed
    (line,) = look.said
    assert line.endswith("cannot be reached from here: requirements.txt, requirements-dev.txt.")


@with_tools
def test_a_lock_file_that_cannot_be_read_is_no_clean_one(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("this is : no lock file\n")
    assert not dependencies(TOOLS, [tmp_path / "requirements.txt"]).passed


def test_what_is_known_against_a_package_fails_and_says_where_it_is_mended() -> None:
    package = {"name": "jinja2", "version": "2.10"}
    known = {"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "…"}
    look = judged("requirements.txt", [{**package, "vulns": [known, {**known, "id": "X", "fix_versions": []}]}])
    assert (look.passed, look.said) == (
        False,
        [
            "requirements.txt: jinja2 2.10 has PYSEC-2019-217, mended in 2.10.1.",
            "requirements.txt: jinja2 2.10 has X, mended in no version yet.",
        ],
    )


def test_what_is_known_against_one_lock_file_fails_though_another_is_clean(tmp_path: Path) -> None:
    """The tool is one that knows an advisory of whatever is in the second file; the real one needs the network."""
    tool = tmp_path / "pip-audit"
    tool.write_text(
        f"#!/bin/sh\nfor last; do :; done\ncase $last in *dev*) echo '{KNOWN}';; *) echo '{NOTHING_KNOWN}';; esac\n"
    )
    tool.chmod(0o755)
    files = [tmp_path / name for name in ("requirements.txt", "requirements-dev.txt", "requirements-x.txt")]
    look = dependencies(tmp_path, files)
    assert not look.passed
    assert [line for line in look.said if "has X" in line] == [
        "requirements-dev.txt: a 1 has X, mended in no version yet."
    ]
    assert len(look.said) == 3


def test_a_package_that_nobody_knows_is_named() -> None:
    good = {"name": "redis", "version": "8.1.0", "vulns": []}
    look = judged("requirements.txt", [good, {"name": "ours", "skip_reason": "not found"}])
    assert (look.passed, look.said) == (
        True,
        ["requirements.txt: nothing is known against 1 packages.", "requirements.txt: not looked up: ours."],
    )


# ---- the command


def with_looks(monkeypatch: pytest.MonkeyPatch, folder: Path, *, packages: str, bandit: str) -> None:
    """Let the command look at a folder that is no clone, with tools that say this: shell commands."""
    tools = folder / ".venv-audit" / "bin"
    tools.mkdir(parents=True)
    for name, does in (("pip-audit", packages), ("bandit", bandit)):
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    for name in ("requirements-dev.txt", "requirements.txt"):
        (folder / name).touch()
    monkeypatch.setattr(command, "_REPOSITORY", folder)


@pytest.mark.parametrize(
    ("packages", "bandit", "status", "said"),
    [
        (f"echo '{NOTHING_KNOWN}'", "exit 0", 0, "bandit finds nothing"),
        (f"echo '{KNOWN}'", "exit 0", 1, "requirements.txt: a 1 has X"),
        (f"echo '{NOTHING_KNOWN}'", "echo shared/bad.py:2; exit 1", 1, "shared/bad.py:2"),
        # What is deployed is asked about first.
        ("echo ServiceError >&2", "exit 0", 0, "cannot be reached from here: requirements.txt, requirements-dev.txt."),
    ],
    ids=["nothing", "a vulnerability", "unsafe code", "advisories out of reach"],
)
def test_the_command_fails_where_one_look_found_something_and_says_what_each_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    packages: str,
    bandit: str,
    status: int,
    said: str,
) -> None:
    with_looks(monkeypatch, tmp_path, packages=packages, bandit=bandit)
    assert command.main() == status
    printed = capsys.readouterr().out
    assert said in printed
    assert "History: not looked at, this is no clone." in printed


def test_the_command_without_its_tools_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_REPOSITORY", tmp_path)
    assert command.main() == 2
    assert "Run `make audit`." in capsys.readouterr().err
