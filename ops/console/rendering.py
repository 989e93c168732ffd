"""How values become text on a page: the one place through which every name from the database goes.

Names are hostile: whatever a template prints is redacted, has its control characters made visible and its e-mail
addresses taken out, and is escaped after that.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from flask import Flask
from jinja2 import StrictUndefined
from markupsafe import Markup, escape

from functions.registry import JOBS
from ops.console.words import TONES, duration, figure, phrases, shown_status, size, spoken
from ops.shell import cell, printable
from shared.clock import format_rfc3339

# Whatever has a sign like this between two words: a domain needs no dot, and the name before it may be quoted.
_AT = "@\N{FULLWIDTH COMMERCIAL AT}\N{SMALL COMMERCIAL AT}"
_NAME = rf'[^\s{_AT}<>"(),;:]'
_EMAIL = re.compile(rf"(?:\"[^\"]*\"|(?<!{_NAME}){_NAME}+)(?:[{_AT}][^\s{_AT}<>\"'(),;:/]+)+")
_CODE = re.compile("`([^`]+)`")
_BESIDE = timedelta(minutes=2)
# Accounts of services, and their logins of the database, look like addresses and are none. Google gives the first their
# domain, and both halves of the second their form, in which no person has a dot or a short name.
_ACCOUNT = r"[a-z0-9-]+@(?:[a-z0-9-]+\.)+gserviceaccount\.com"
_NO_PERSON = re.compile(rf"{_ACCOUNT}|[a-z][a-z0-9-]{{4,28}}[a-z0-9]@[a-z][a-z0-9-]{{4,28}}[a-z0-9]\.iam")


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, the field it shows, and what kind of value that is."""

    heading: str
    name: str
    kind: str = "text"


def add_rendering(app: Flask, redact: Callable[[str], str]) -> None:
    """Let the app's templates be strict, and print nothing that is not made harmless."""

    def finalize(value: object) -> object:
        if isinstance(value, Markup):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        return harmless(value, redact)

    # Flask makes its environment from these when it is first asked for.
    app.jinja_options = {"undefined": StrictUndefined, "finalize": finalize, "autoescape": True}
    app.jinja_options |= {"trim_blocks": True, "lstrip_blocks": True}
    app.jinja_env.filters |= {
        "day_and_time": _time_tag,
        "with_code": lambda value: _with_code(harmless(value, redact)),
        "to_the_second": lambda moment: _time_tag(moment, "%Y-%m-%d %H:%M:%S"),
        "minute": lambda moment: f"{moment:%Y-%m-%d %H:%M}",
        "duration": duration,
        "size": size,
        "phrases": phrases,
        "spoken": spoken,
        "between": lambda later, earlier: duration(max(0.0, (later - earlier).total_seconds())),
        "number": lambda value: f"{value:,}" if isinstance(value, int) else value,
        "status_of": lambda row: shown_status(row["status"], row["counts"]),
        "status_of_job": lambda row: shown_status(row["status"], row["counts"] or {}),
        "tone": lambda status: TONES.get(status, "quiet"),
    }
    app.jinja_env.globals |= {"figure": figure, "known_jobs": frozenset(JOBS)}


def harmless(value: object, redact: Callable[[str], str]) -> str:
    """A value as text that shows what it is and does nothing: nothing as a dash, and no address of a person."""
    if value is None:
        return "–"  # noqa: RUF001  a dash, not a minus
    text = value if isinstance(value, str) else cell(value)
    return printable(_EMAIL.sub(_without_person, redact(text)))


def _with_code(text: str) -> Markup:
    """Text in which what stands between backticks is to be typed."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704  escaped just here


def _without_person(found: re.Match[str]) -> str:
    address = found[0].lstrip("'")
    if _NO_PERSON.fullmatch(address.rstrip(".")):
        return found[0]
    return found[0].removesuffix(address) + "[e-mail address]"


def _time_tag(moment: datetime | None, form: str = "%Y-%m-%d %H:%M") -> str:
    if moment is None:
        return "–"  # noqa: RUF001  a dash, not a minus
    exact = format_rfc3339(moment)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, moment.strftime(form))


def logs_url(project: str | None, run: Mapping[str, object]) -> str | None:
    """Where Google Cloud shows the log lines of a run; None where the project is not known."""
    if project is None:
        return None
    asked = quote(f"jsonPayload.run_id={run['id']}", safe="")
    started, ended = run["started_at"], run["finished_at"] or run["deadline_at"]
    assert isinstance(started, datetime)  # noqa: S101  as the table has it
    assert isinstance(ended, datetime)  # noqa: S101  as the table has it
    # The first line is written before the run has its row, the last one after its end.
    between = quote(f"{format_rfc3339(started - _BESIDE)}/{format_rfc3339(ended + _BESIDE)}", safe="")
    return f"https://console.cloud.google.com/logs/query;query={asked};timeRange={between}?project={quote(project)}"
