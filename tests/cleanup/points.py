"""Something that happens between two statements of a job."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from shared.postgres import Transaction


class Points:
    """Calls something after one of the statements of a job, counted from the first one that looks for runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._wanted = -1
        self._seen = 0
        self._thread = threading.get_ident()
        self._call: Callable[[], None] = lambda: None
        self.called = False
        original = Transaction._run

        def run(transaction: Transaction, sql: str, parameters: Any) -> Any:
            answer = original(transaction, sql, parameters)
            if threading.get_ident() == self._thread and (self._seen or "AS place" in sql):
                self._seen += 1
                if self._seen == self._wanted:
                    self.called = True
                    self._call()
            return answer

        monkeypatch.setattr(Transaction, "_run", run)

    def at(self, wanted: int, call: Callable[[], None]) -> None:
        """From now on count anew, and call after so many statements."""
        self._seen, self._wanted, self._call, self.called = 0, wanted, call, False
