"""The handbook is whole: it builds without a warning, fetches nothing from elsewhere, and says what the code does."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from devstack.serving import REPOSITORY
from docs_build.commands import all_commands
from docs_build.jobs import figures
from docs_build.made import made_pages
from docs_build.reading import ENVIRONMENTS, settings_asked_for
from docs_build.settings import options_settings, parts
from functions.registry import JOBS
from shared.settings import parse_settings
from tests.support.handbook import DOCS, name_of, pages, prose

_TERRAFORM = REPOSITORY / "infra" / "terraform"
_ELSEWHERE = re.compile(r"""(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link[^>]*\shref)=["']?(?:https?:)?//""")
# The one library that comes with the handbook: iframe-worker 1.0.4, as npm has it.
_SHIM = "e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The handbook, built as `make docs` does it."""
    folder = tmp_path_factory.mktemp("handbook")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_it_builds_without_a_warning_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    made = sorted(site.rglob("*.html"))
    assert len(made) > len(pages())
    for page in made:
        text = page.read_text(encoding="utf-8")
        assert not _ELSEWHERE.search(text), page.name
        assert 'class="mermaid"' not in text, page.name
        assert text.count('role="dialog"') == text.count('class="md-search" aria-label="Search"'), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


def test_search_works_from_the_disk(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert all(job in index for job in JOBS)
    shim = "assets/vendor/iframe-worker-1.0.4/shim.js"
    assert f'src="{shim}"' in (site / "index.html").read_text(encoding="utf-8")
    assert hashlib.sha256((site / shim).read_bytes()).hexdigest() == _SHIM


def test_diagrams_are_for_all_eyes(site: Path) -> None:
    drawn = sorted((REPOSITORY / "docs_build" / "diagrams").glob("*.svg"))
    shown = "".join(page.read_text(encoding="utf-8") for page in (site / "concepts").glob("*.html"))
    assert len(drawn) >= 3
    for file in drawn:
        text = file.read_text(encoding="utf-8")
        title = re.search(r'<title id="([\w-]+)">(.+?)</title>', text)
        described = re.search(r'<desc id="([\w-]+)">(.+?)</desc>', text, re.DOTALL)
        assert title, file.name
        assert described, file.name
        assert f'aria-labelledby="{title[1]} {described[1]}"' in text
        assert title[2] in shown, f"no page shows {file.name}"
        # Whatever the colours of the page, they are the diagram's too.
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|(?:fill|stroke)=\"(?!none|currentColor)", text), file.name


def test_each_setting_that_the_code_reads_is_told_and_none_is_invented() -> None:
    of_functions = {name for part in parts() if part.of_functions for name in part.settings}
    assert of_functions == set(settings_asked_for())
    of_ops = {name for part in parts() if not part.of_functions for name in part.settings}
    assert of_ops == options_settings()


def test_nothing_reads_the_environment_but_what_was_watched() -> None:
    reads = re.compile(r"os\.environ\.get|os\.environ\[|getenv\(")
    found = {
        file.relative_to(REPOSITORY).as_posix()
        for folder in ("shared", "functions", "ops")
        for file in (REPOSITORY / folder).rglob("*.py")
        if reads.search(file.read_text(encoding="utf-8"))
    }
    # It looks whether the database's own settings are there.
    assert found == {"ops/commands/schedules.py"}


@pytest.mark.parametrize("environ", ENVIRONMENTS, ids=["url", "cloud-sql", "live-key"])
def test_a_default_is_what_the_code_takes_where_nothing_is_set(environ: Mapping[str, str]) -> None:
    asked = settings_asked_for()
    expected = parse_settings(environ)
    for part in parts():
        for name, words in part.settings.items():
            if not part.of_functions or name in environ:
                continue
            if words.default is None:
                told = asked[name].defaults
            else:
                told = tuple(re.findall(r"^`([^`]+)`", words.default))
                assert all(f"`{each}`" in words.default for each in asked[name].defaults), name
            if len(told) == 1 and name not in ("STRIPE_RATE", "REDIS_URL"):
                assert parse_settings({**environ, name: told[0]}) == expected, name


def test_each_figure_of_a_job_is_explained_and_none_is_left_over() -> None:
    known = figures()
    assert {name for job in JOBS.values() for name in job.counts} == set(known["counts"])
    assert {name for job in JOBS.values() for name in job.gauges} == set(known["gauges"])
    assert set(known["about"]) == set(JOBS)


def test_each_command_is_on_its_page_with_all_its_options() -> None:
    page = made_pages()["commands.md"]
    for name, command in all_commands():
        assert re.search(rf"^##+ {name}$", page, re.MULTILINE), name
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and not getattr(parameter, "hidden", False):
                    assert option in page, f"{name} {option}"


def test_the_form_of_the_output_is_published(site: Path) -> None:
    published = json.loads((site / "output.schema.json").read_text(encoding="utf-8"))
    assert {name for name, command in all_commands() if not hasattr(command, "commands")} <= set(published["$defs"])
    page = made_pages()["json-output.md"]
    assert all(f"| `{name}` |" in page for name, command in all_commands() if not hasattr(command, "commands"))
    assert "(output.schema.json)" in page
    assert json.loads((site / "openapi.json").read_text(encoding="utf-8"))["openapi"]


def test_each_alert_has_its_page_and_no_page_is_left_over() -> None:
    alerts = _alerts()
    folder = DOCS / "runbook"
    assert {file.stem for file in folder.glob("*.md")} - {"index"} == set(alerts)
    index = (folder / "index.md").read_text(encoding="utf-8")
    for name, (title, conditions) in alerts.items():
        text = (folder / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {title}\n"), (
            f"runbook/{name}.md must be called as Terraform calls the alert: {title}"
        )
        assert f"({name}.md)" in index
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        for part in ("What it means", "What to look at", "What to do", "How you know that it is over"):
            assert part in headings, f"runbook/{name}.md lacks the part {part!r}"
        for condition in conditions:
            assert f"“{condition}”" in text, f"runbook/{name}.md does not tell of the condition {condition!r}"


def test_what_the_alerts_refer_to_is_there() -> None:
    text = (_TERRAFORM / "alerts.tf").read_text(encoding="utf-8")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for heading in re.findall(r'See \\"(.+?)\\" in the README', text):
        assert f"\n## {heading}\n" in readme
    for page in re.findall(r"docs/[\w/.-]+\.md|runbook/\w+", text):
        assert (REPOSITORY / page).exists() or (DOCS / f"{page}.md").exists(), page


def test_every_decision_is_in_the_handbook() -> None:
    nav = yaml.safe_dump(_configuration()["nav"])
    for file in (DOCS / "adr").glob("*.md"):
        assert f"adr/{file.name}" in nav


def test_sentences_quoted_from_the_software_are_its_own() -> None:
    """The page of troubles quotes what is printed: each quote is found in the code, piece by piece."""
    code = _said_by_the_code()
    quotes = re.findall(r"^> (.+(?:\n> .+)*)", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quotes) > 15
    for quote in quotes:
        text = " ".join(quote.replace("\n> ", " ").replace("\\*", "*").split())
        for piece in text.split("…"):
            assert len(piece.strip()) < 2 or piece.strip() in code, piece


def test_the_pages_speak_of_the_product_alone() -> None:
    for page in pages():
        text = prose(page)
        assert not re.search(r"/work/|/tmp/|TODO|FIXME|lorem", text), name_of(page)
        assert not re.search(r"[^\n]{300}", re.sub(r"^\|.*$|^<.*$", "", text, flags=re.MULTILINE)), name_of(page)


def _alerts() -> dict[str, tuple[str, list[str]]]:
    """Of each alert policy its title without the prefix, and its conditions' titles."""
    text = (_TERRAFORM / "alerts.tf").read_text(encoding="utf-8")
    resources = re.findall(r'^resource "google_monitoring_alert_policy" "(\w+)" \{\n(.*?)^\}', text, re.M | re.S)
    (table,) = re.findall(r"^  policies = \{\n(.*?)^  \}", text, re.M | re.S)
    found = {}
    for name, body in re.findall(r"^    (\w+) = \{\n(.*?)^    \}", table, re.M | re.S):
        first, *others = re.findall(r'\btitle\s+= "([^"]+)"', body)
        found[name] = (_without_prefix(first), others)
    for name, body in resources:
        if "for_each" in body.split("\n", 1)[0]:
            assert "local.policies" in body
            continue
        names = re.findall(r'^  (?:  )?display_name = "([^"]+)"|^  display_name\s+= "([^"]+)"', body, re.M)
        first, *others = (one or two for one, two in names)
        found[name] = (_without_prefix(first), others)
    assert len(found) == len(re.findall(r"^    \w+ = \{$", table, re.M)) + len(resources) - 1
    return found


def _without_prefix(title: str) -> str:
    said = title.removeprefix("Maintenance: ")
    return said[0].upper() + said[1:]


def _configuration() -> dict[str, object]:
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def _said_by_the_code() -> str:
    """All source, with adjacent string literals joined and what is filled in standing for `…`."""
    parts_of = []
    for folder in ("shared", "functions", "ops"):
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            text = re.sub(r"\"\s*\n\s*f?\"", "", text)
            parts_of.append(text)
    return " ".join(" ".join(parts_of).split())


def test_the_figures_file_is_read_as_it_stands() -> None:
    words = tomllib.loads((REPOSITORY / "docs_build" / "figures.toml").read_text(encoding="utf-8"))
    cells = [meaning for name, part in words.items() if name != "about" for meaning in part.values()]
    assert all(meaning and not meaning.endswith(".") for meaning in cells)
