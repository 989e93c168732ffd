"""All pages that are made of the code, by their name."""

from collections.abc import Mapping

from docs_build.commands import commands_page
from docs_build.jobs import jobs_page
from docs_build.json_output import json_output_page
from docs_build.settings import settings_page


def made_pages() -> Mapping[str, str]:
    """The text of each page."""
    return {
        "settings.md": settings_page(),
        "jobs.md": jobs_page(),
        "commands.md": commands_page(),
        "json-output.md": json_output_page(),
    }
