"""Reading single values from an injected environment, each checked, with an error that says what it should look like.

An empty value counts as not set everywhere.
"""

import re
from collections.abc import Mapping
from datetime import datetime

from shared.clock import parse_rfc3339
from shared.errors import Misconfigured


def text(environ: Mapping[str, str], name: str) -> str | None:
    """The value without blanks around it, or None."""
    return environ.get(name, "").strip() or None


def optional_number(environ: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """A whole number in the range, or None. Raises Misconfigured for anything else."""
    value = text(environ, name)
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not low <= int(value) <= high:
        raise Misconfigured(name, f"{name} must be a whole number from {low} to {high}.")
    return int(value)


def number(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number in the range, the default where it is not set. Raises Misconfigured for anything else."""
    value = optional_number(environ, name, low, high)
    return default if value is None else value


def fraction(environ: Mapping[str, str], name: str, default: float) -> float:
    """A share from 0 to 1, such as 0.5, the default where it is not set. Raises Misconfigured for anything else."""
    value = text(environ, name)
    if value is None:
        return default
    if not re.fullmatch(r"\d(\.\d{1,9})?", value, re.ASCII) or float(value) > 1:
        raise Misconfigured(name, f"{name} must be a share from 0 to 1, such as 0.5.")
    return float(value)


def choice(environ: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of the choices, the first where it is not set. Raises Misconfigured for anything else."""
    value = text(environ, name)
    if value is None:
        return choices[0]
    if value not in choices:
        raise Misconfigured(name, f"{name} must be one of: {', '.join(choices)}.")
    return value


def moment(environ: Mapping[str, str], name: str) -> datetime | None:
    """An RFC 3339 time, in UTC, or None. Raises Misconfigured for anything else."""
    value = text(environ, name)
    if value is None:
        return None
    try:
        return parse_rfc3339(value)
    except ValueError:
        raise Misconfigured(name, f"{name} must be an RFC 3339 time, such as 2026-01-01T00:00:00Z.") from None
