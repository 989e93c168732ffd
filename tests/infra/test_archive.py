"""The archive that is deployed: it starts by itself, and has nothing in it but what production imports."""

import ast
import base64
import hashlib
import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import grimp
import pytest

from devstack.serving import REPOSITORY, Served, ask
from functions.registry import JOBS
from tests.infra.conftest import TOLD_AT_THE_END, Install
from tests.infra.installing import archive, once
from tests.support.database import TestDatabase

pytestmark = pytest.mark.timeout(600)

# What is imported when it is first needed, and by a health check it is not: the clients of a job that runs.
_FIRST_WITH_A_RUN = {
    "shared/cloud_sql.py", "shared/cloud_tasks.py", "shared/gcs.py", "shared/shared_pace.py", "shared/stripe_api.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def zipped(shared_folder: Path) -> bytes:
    return base64.b64decode(once(shared_folder / "archive.txt", lambda: archive(shared_folder)))


class Unpacked(Served):
    """A function served from the unpacked archive, by the programs of a venv that has what its requirements say."""

    def __init__(self, target: str, environ: dict[str, str], *, folder: Path, venv: Path, log: Path) -> None:
        """Remember what to serve."""
        super().__init__(target, environ, log=log, source=folder / "main.py")
        self._command[0] = str(venv / "bin/functions-framework")
        # Nothing of the repository: what the archive lacks must be missed.
        del self._environ["PYTHONPATH"]


def test_it_is_what_the_plan_names(installed: Install, zipped: bytes) -> None:
    (source,) = installed().planned.of("google_storage_bucket_object").values()
    assert source["name"] == f"source-{hashlib.sha256(zipped).hexdigest()}.zip"


def test_nothing_is_in_it_but_what_production_imports(
    zipped: bytes, record_property: Callable[[str, object], None]
) -> None:
    with zipfile.ZipFile(io.BytesIO(zipped)) as packed:
        sizes = {item.filename: item.file_size for item in packed.infolist()}
        texts = {name: packed.read(name).decode() for name in sizes}
    listed = [f"{size:9,}  {name}" for name, size in sorted(sizes.items())]
    head = f"{len(zipped):,} bytes, {len(sizes)} files, {sum(sizes.values()):,} bytes unpacked:"
    record_property(TOLD_AT_THE_END, "\n".join([head, *listed]))
    assert not [name for name in sizes if re.search(r"pyc$|tests?/|\.env|\.tf|\.git", name)]
    python = {name for name in sizes if name.endswith(".py")}
    assert python == {"main.py", *imported_by_production()}
    # Each file of statements is read by a module beside it or above it.
    statements = {name for name in sizes if name.endswith(".sql")}
    for name in statements:
        folder, _, file = name.rpartition("/")
        assert any(f'"{file}"' in text for other, text in texts.items() if other.startswith(folder)), name
    assert set(sizes) == python | statements | {"requirements.txt", "functions/jobs.json"}
    assert texts["requirements.txt"] == (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    assert texts["functions/jobs.json"] == (REPOSITORY / "functions/jobs.json").read_text(encoding="utf-8")


def test_nothing_is_installed_for_it_but_what_it_imports() -> None:
    imported = {module for file in imported_by_production() for module in _imports(REPOSITORY / file)}
    modules = {f"{module.replace('.', '/')}{end}" for module in imported for end in (".py", "/__init__.py")}
    lines = (REPOSITORY / "requirements.in").read_text(encoding="utf-8").splitlines()
    packages = {line.partition("[")[0] for line in lines if not line.startswith("#")}
    # What serves the functions imports them, and not they it.
    for package in packages - {"functions-framework"}:
        assert modules & {str(file) for file in distribution(package).files or ()}, package


def _imports(file: Path) -> set[str]:
    """All that a file imports, wherever it does; of `from a import b` both a and a.b, because b may be a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_by_production() -> set[str]:
    """The files that main.py and the jobs import, also those that they import late."""
    graph = grimp.build_graph("functions", "shared", exclude_type_checking_imports=True, cache_dir=None)
    roots = {"functions.registry", "shared.entry", *(job.module for job in JOBS.values())}
    modules = roots.union(*(graph.find_upstream_modules(root) for root in roots))
    # Importing a module imports the packages around it.
    modules |= {module.rpartition(".")[0] for module in modules} - {""}
    return {_file(module) for module in modules}


def _late_imports(text: str) -> set[str]:
    """The modules that functions import when they run, beside those that are imported at once."""
    late = set()
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    late |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    late.add(node.module)
    return late


def _file(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (REPOSITORY / path).is_dir() else f"{path}.py"


def test_each_function_starts_from_it_alone_and_answers_the_health_check(
    installed: Install, zipped: bytes, database: TestDatabase, environ: dict[str, str], tmp_path: Path
) -> None:
    folder, venv = tmp_path / "unpacked", tmp_path / "venv"
    with zipfile.ZipFile(io.BytesIO(zipped)) as packed:
        packed.extractall(folder)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
    subprocess.run(
        [
            venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
            "--require-hashes", "-r", folder / "requirements.txt",
        ],
        check=True, capture_output=True, timeout=400,
    )  # fmt: skip
    database.execute("UPDATE maintenance.identity SET bucket = 'demo-project-files'")
    for name, function in installed("minimal").applied.of("google_cloudfunctions2_function").items():
        # The function's own environment, but for the way to the database.
        planned = function["service_config"][0]["environment_variables"]
        settings = {key: value for key, value in planned.items() if not re.match("CLOUD_SQL|DB_", key)}
        secret = {"STRIPE_SECRET_KEY": "sk_test_x"} if "stripe" in JOBS[name].needs else {}
        with Unpacked(
            name, {**environ, **settings, **secret}, folder=folder, venv=venv, log=tmp_path / f"{name}.log"
        ) as served:
            answer = ask(served.url)
        assert answer.status == 200, answer.fields
        assert answer.fields["checks"] == {"postgres": "ok", "redis": "ok"}
        assert [line["job"] for line in answer.fields["jobs"]] == list(JOBS)
        assert all(line["waiting"] is not None for line in answer.fields["jobs"])
    # Python leaves a compiled file beside each module that it imported.
    compiled = {file.parent.parent / f"{file.name.split('.')[0]}.py" for file in folder.rglob("__pycache__/*.pyc")}
    imported = {str(file.relative_to(folder)) for file in compiled}
    packed_modules = {str(file.relative_to(folder)) for file in folder.rglob("*.py")}
    assert packed_modules - imported - {"main.py"} == _FIRST_WITH_A_RUN
    # A run needs those too, and what a function imports only when it is called.
    every = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in packed_modules}
    late = {module for name in packed_modules for module in _late_imports((folder / name).read_text(encoding="utf-8"))}
    assert late
    done = subprocess.run(
        [venv / "bin/python", "-c", f"import {', '.join(sorted(every | late))}"],
        cwd=folder, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
