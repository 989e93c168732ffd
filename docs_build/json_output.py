"""The page of what `--json` prints, made of the published schema."""

import json

from docs_build.published import SCHEMA

_INTRODUCTION = """# JSON output

Every command of `python -m ops` takes `--json`. What it prints then is promised: the form is published as a JSON Schema
(draft 2020-12), and a test holds every command against it.

- One JSON value on standard output, and nothing else there. What is said besides goes to standard error.
- Times are RFC 3339 in UTC, such as `2026-11-23T00:30:00Z`.
- Where a command ends with an error, standard output is empty, and standard error has the sentence. The exit code says
  what kind of end it was: [command line](commands.md).
"""


def json_output_page() -> str:
    """The page."""
    schema = json.loads(SCHEMA.read_text())
    # Those with a capital letter are what the others are made of.
    rows = [
        f"| `{name}` | {' '.join(str(part.get('description', '')).split())} |"
        for name, part in schema["$defs"].items()
        if name.islower()
    ]
    table = ["| command | what it prints |", "|---|---|", *rows]
    return "\n".join([_INTRODUCTION, f"The schema: [{SCHEMA.name}]({SCHEMA.name}).", "", *table, ""])
