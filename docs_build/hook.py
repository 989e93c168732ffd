"""What mkdocs calls while it builds the handbook: it adds the pages that are made of the code."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_REPOSITORY = Path(__file__).resolve().parents[1]
# mkdocs is a program of its own: it does not look here for modules.
sys.path.insert(0, str(_REPOSITORY))

from docs_build.made import made_pages  # noqa: E402  the path first
from docs_build.published import SCHEMA  # noqa: E402  the path first


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that nobody writes by hand."""
    for name, text in made_pages().items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "changelog.md", abs_src_path=str(_REPOSITORY / "CHANGELOG.md")))
    files.append(File.generated(config, SCHEMA.name, abs_src_path=str(SCHEMA)))
    return files


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001  mkdocs hands them over
    """Finish a page."""
    return _named(output)


def on_post_template(output_content: str, *, template_name: str, config: MkDocsConfig) -> str:  # noqa: ARG001  mkdocs gives it
    """Finish what is no page of ours: that which says that there is none."""
    return _named(output_content)


def _named(html: str) -> str:
    """Give the search a name for those who do not see it: the theme's has none."""
    return html.replace('class="md-search"', 'class="md-search" aria-label="Search"', 1)
