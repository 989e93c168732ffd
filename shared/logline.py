"""Log lines: one JSON object a line, in the form that Google Cloud Logging reads as it is.

`severity` and `message` are the fields that Cloud Logging lifts out of the JSON ("Structured logging", Cloud Logging
documentation); everything else stays queryable below jsonPayload.
"""

import json
import re
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TextIO
from urllib.parse import quote, quote_plus, unquote

from shared.clock import Clock, format_rfc3339

_REDACTED = "[redacted]"
_SHORTEST_SECRET = 4
_LONGEST_VALUE = 4000


class Redactor:
    """Takes known secrets out of any text, as written and as they stand in a URL."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: tuple[str, ...] = ()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Know these secrets too. Those under four characters are left out: they would mangle ordinary words."""
        known = {form for secret in secrets for form in _forms(secret)}.union(self._secrets)
        # The longest first, so that a secret inside a longer one does not spoil the match of the longer.
        self._secrets = tuple(sorted((s for s in known if len(s) >= _SHORTEST_SECRET), key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """Give the text with every known secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, _REDACTED)
        return text


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is written, as it stands in a URL, and as an error quotes it."""
    for plain in {secret, unquote(secret)}:
        yield plain
        yield repr(plain)[1:-1]
        for quoted in (quote(plain, safe=""), quote(plain), quote_plus(plain)):
            yield quoted
            yield re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), quoted)


class Log:
    """Writes log lines to a stream. Safe to share between threads."""

    def __init__(self, stream: TextIO, clock: Clock, redact: Redactor) -> None:
        self._stream = stream
        self._clock = clock
        self._redact = redact
        self._one_at_a_time = threading.Lock()

    def write(self, severity: str, message: str, **fields: object) -> None:
        """Write one line. `severity` is Cloud Logging's (INFO, WARNING, ERROR); fields that are None are left out."""
        line = {"severity": severity, "message": message, "time": self._clock.now()}
        line.update({name: value for name, value in fields.items() if value is not None})
        # Redacted before it is encoded (JSON escapes would hide a secret); long values are cut (a line over 256 KiB
        # is lost). JSON leaves no raw newline, so a hostile value cannot forge a second line.
        text = json.dumps(self._clean(line), ensure_ascii=True)
        with self._one_at_a_time:
            self._stream.write(text + "\n")
            self._stream.flush()

    def _clean(self, value: object) -> object:
        if isinstance(value, datetime):
            return format_rfc3339(value)
        if isinstance(value, dict):
            return {str(key): self._clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(item) for item in value]
        if isinstance(value, bool | int | float) or value is None:
            return value
        return self._redact(str(value))[:_LONGEST_VALUE]
