"""Which settings the code asks for, with which defaults and in which form: seen while it reads them.

The code that parses settings is run on environments of several kinds and watched. So there is no second list of
settings to keep: what a page says of a default or a range is what the code took.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from shared import environ as readers
from shared.settings import parse_settings

_DATABASE = {"DATABASE_URL": "postgresql://user@host/database"}
# Each makes the code read what the others do not, or take another default.
ENVIRONMENTS: Sequence[Mapping[str, str]] = (
    _DATABASE,
    {"CLOUD_SQL_INSTANCE": "project:region:instance", "DB_NAME": "database", "DB_USER": "user"},
    {**_DATABASE, "STRIPE_SECRET_KEY": "sk_live_x", "REDIS_URL": "redis://host:6379/0"},
)
_READERS = ("text", "optional_number", "number", "fraction", "choice", "moment")
_FUNCTIONS = {getattr(readers, name).__code__ for name in _READERS}


@dataclass(frozen=True)
class Asked:
    """How the code reads one setting: its kind, the defaults that it took, and what it allows."""

    kind: str
    defaults: tuple[str, ...]
    allowed: str


class _Recorded(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: str = "") -> str:  # type: ignore[override]
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        return super().__getitem__(key)


def settings_asked_for() -> Mapping[str, Asked]:
    """Every setting that the code reads, and how."""
    found: dict[str, Asked] = {}
    for values in ENVIRONMENTS:
        environ = _Recorded(values)
        with _watched(found):
            parse_settings(environ)
        for name in environ.asked - found.keys():
            found[name] = Asked("text", (), "")
    return found


@contextmanager
def _watched(found: dict[str, Asked]) -> Iterator[None]:
    """Note each call of the functions in shared/environ.py that the parsing itself makes."""

    def look(frame: FrameType, event: str, _argument: object) -> None:
        caller = frame.f_back
        if event != "call" or frame.f_code not in _FUNCTIONS or caller is None or caller.f_code in _FUNCTIONS:
            return
        values = frame.f_locals
        before = found.get(values["name"])
        now = _asked(frame.f_code.co_name, values)
        defaults = dict.fromkeys([*(before.defaults if before else ()), *now.defaults])
        found[values["name"]] = Asked(now.kind, tuple(defaults), now.allowed)

    earlier = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(earlier)


def _asked(kind: str, values: Mapping[str, object]) -> Asked:
    if kind == "choice":
        choices = values["choices"]
        assert isinstance(choices, tuple)  # noqa: S101  its annotation says so
        return Asked(kind, (str(choices[0]),), " or ".join(f"`{each}`" for each in choices))
    default = (str(values["default"]),) if "default" in values else ()
    if kind in ("number", "optional_number"):
        return Asked(kind, default, f"a whole number from {values['low']:,} to {values['high']:,}")
    if kind == "fraction":
        return Asked(kind, default, "a share from 0 to 1")
    return Asked(kind, default, "an RFC 3339 time" if kind == "moment" else "")
