"""Three looks at what the repository brings with it, each by a tool that others keep.

* pip-audit asks PyPI's advisories about every package of a lock file.
* bandit looks for unsafe code. Its settings are in pyproject.toml.
* kingfisher looks for secrets in every version of every file that git has.

What cannot be looked at fails nothing, and is said: a build must not depend on another's server.
"""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CODE = ("main.py", "functions", "shared", "ops")
_RULES = Path(__file__).with_name("secrets.yml")
# Whole matches that are examples in a message, and no secrets.
_EXAMPLES = (r"redis://:password@host:6379/0",)
# How pip-audit says that PyPI does not answer, by a stack trace or in words.
_OUT_OF_REACH = re.compile(r"requests\.exceptions\.|ServiceError|network may be blocking")
_PATIENCE_S = 600
_LONGEST = 500


@dataclass(frozen=True)
class Look:
    """What came of a look: whether it found nothing that matters, and the sentences to print."""

    passed: bool
    said: Sequence[str]


def dependencies(tools: Path, lock_files: Sequence[Path]) -> Look:
    """Look up the packages of all lock files. Stops at the first of which nothing can be looked up."""
    looks = []
    for number, file in enumerate(lock_files):
        done = _run([tools / "pip-audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off",
                     "--format", "json", "--requirement", file])  # fmt: skip
        report = _object(done.stdout)
        if report is None and not _OUT_OF_REACH.search(done.stderr):
            return Look(False, [f"{file.name}: pip-audit gave up. {done.stderr.strip()[-_LONGEST:]}"])
        packages = [] if report is None else report["dependencies"]
        if not any("vulns" in each for each in packages):
            names = ", ".join(each.name for each in lock_files[number:])
            looks.append(Look(True, [f"Not looked up, the advisories cannot be reached from here: {names}."]))
            break
        looks.append(judged(file.name, packages))
    return Look(all(look.passed for look in looks), [line for look in looks for line in look.said])


def judged(name: str, packages: Sequence[Mapping[str, Any]]) -> Look:
    """What pip-audit's report on the packages of a lock file means."""
    found = [
        f"{name}: {each['name']} {each['version']} has {vuln['id']}, "
        + (f"mended in {', '.join(vuln['fix_versions'])}." if vuln["fix_versions"] else "mended in no version yet.")
        for each in packages
        for vuln in each.get("vulns", ())
    ]
    unknown = [each["name"] for each in packages if "vulns" not in each]
    clean = [] if found else [f"{name}: nothing is known against {len(packages) - len(unknown)} packages."]
    return Look(not found, [*found, *clean, *([f"{name}: not looked up: {', '.join(unknown)}."] if unknown else [])])


def code(tools: Path, repository: Path) -> Look:
    """Look for unsafe code in what is deployed and in the operator's side."""
    config = repository / "pyproject.toml"
    done = _run([tools / "bandit", "--quiet", "--recursive", "--configfile", config, *_CODE], repository)
    if done.returncode:
        return Look(False, [done.stdout or done.stderr])
    return Look(True, [f"Code: bandit finds nothing in {', '.join(_CODE)}."])


def history(tools: Path, repository: Path) -> Look:
    """Look for secrets in all versions of all files. None of what is found is printed, only where it stands."""
    try:
        asked = _run(["git", "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir"], repository)
    except FileNotFoundError:
        return Look(True, ["History: not looked at, there is no git here."])
    told = asked.stdout.split("\n")
    if asked.returncode or Path(told[0]) != repository.resolve():
        return Look(True, ["History: not looked at, this is no clone."])
    done = _run(
        [tools / "kingfisher", "--no-update-check", "--quiet", "scan", told[1], "--no-validate", "--redact",
         "--rule-cache-dir", tools.parent / "rules", "--rules-path", _RULES, "--format", "json",
         *(part for example in _EXAMPLES for part in ("--skip-regex", example))]
    )  # fmt: skip
    report = _object(done.stdout)
    if report is None or report["audit"]["summary"]["scan_succeeded"] != 1:
        return Look(False, [f"History: the scanner gave up. {done.stderr.strip()}"])
    (scanned,) = report["audit"]["repositories"]
    if not scanned["git"].get("fetched_commit_count"):
        return Look(False, ["History: the scanner can read no commit of this clone."])
    found = [
        f"History: {each['rule']['name']} in {each['finding']['path']}, line {each['finding']['line']}, "
        f"commit {each['finding']['git_metadata']['commit']['id'][:10]}. Revoke it: what was pushed is known."
        for each in report["findings"]
    ]
    of = f"{scanned['stats']['blobs_scanned']} versions of files in {scanned['git']['fetched_commit_count']} commit(s)"
    part = " This clone is shallow: the commits before them were not looked at." if scanned["git"]["shallow"] else ""
    return Look(not found, found or [f"History: no secret in {of}.{part}"])


def _run(command: Sequence[str | Path], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own tools
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
    )


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
