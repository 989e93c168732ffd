"""Log lines: one JSON object each, no secret, nothing forged."""

import io
import json
import threading
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.logline import Log, Redactor
from tests.support.clock import NOON, ManualClock


def written(message: str, secrets: tuple[str, ...] = (), **fields: object) -> dict[str, object]:
    stream = io.StringIO()
    Log(stream, ManualClock(), Redactor(secrets)).write("INFO", message, **fields)
    (line,) = stream.getvalue().splitlines()
    value = json.loads(line)
    assert isinstance(value, dict)
    return value


def test_the_fields_that_cloud_logging_reads() -> None:
    line = written(
        "done", job="period_reset", slot=NOON + timedelta(hours=1), count=3, run_id=None, nested={"a": [NOON]}
    )
    assert line == {
        "severity": "INFO",
        "message": "done",
        "time": "2026-05-15T12:00:00Z",
        "job": "period_reset",
        "slot": "2026-05-15T13:00:00Z",
        "count": 3,
        "nested": {"a": ["2026-05-15T12:00:00Z"]},
    }


@given(st.text())
def test_no_text_can_forge_a_second_line(text: str) -> None:
    assert written(text, item=text)["severity"] == "INFO"


def test_secrets_are_taken_out_wherever_they_stand() -> None:
    secret = 'p@ss/"w€rd'
    line = written(
        f"login {secret} failed",
        (secret,),
        url="postgresql://u:p%40ss%2F%22w%E2%82%ACrd@h/d",
        deep={"list": [secret, {"x": secret}]},
        error=RuntimeError(secret),
    )
    text = json.dumps(line, ensure_ascii=False)
    assert "w€rd" not in text
    assert "w%E2" not in text
    assert text.count("[redacted]") == 5


@pytest.mark.parametrize(
    "text",
    [
        "r@dis/p w+ä",
        "r%40dis%2Fp%20w%2B%C3%A4",
        "r%40dis%2fp%20w%2b%c3%a4",
        "r%40dis%2Fp+w%2B%C3%A4",
    ],
)
def test_a_secret_is_known_in_every_form(text: str) -> None:
    """As it stands in a URL, so too decoded, and the other way round."""
    for secret in ("r@dis/p w+ä", "r%40dis%2Fp%20w%2B%C3%A4"):
        assert Redactor((secret,))(f"<{text}>") == "<[redacted]>"


def test_a_secret_within_another_does_not_spoil_it() -> None:
    assert Redactor(("pass", "redis://:password@h"))("redis://:password@h pass") == "[redacted] [redacted]"


def test_a_secret_of_a_few_letters_does_not_mangle_every_word() -> None:
    assert Redactor(("a",))("a banana") == "a banana"


def test_a_long_value_is_cut() -> None:
    assert len(str(written("x" * 1_000_000)["message"])) == 4000


@pytest.mark.parametrize("text", ["\ud800", "\u2028", "\x85", "é"])
def test_a_line_is_plain_ascii_whatever_is_told(text: str) -> None:
    """Half a character cannot be written in any encoding, and some programs take the others for the end of a line."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Log(stream, ManualClock(), Redactor(())).write("INFO", text, item=text)
    stream.seek(0)
    (line,) = stream.read().splitlines()
    assert (json.loads(line)["message"], json.loads(line)["item"]) == (text, text)


class Slow(io.StringIO):
    """A stream with which another thread writes, too, while the first text is only half written."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log(self, ManualClock(), Redactor(()))
        self.other = threading.Thread(target=self.log.write, args=("INFO", "second"))

    def write(self, text: str) -> int:
        super().write(text[:5])
        if self.other.ident is None:
            self.other.start()
            # It must not come to its end now; nothing tells that it waits.
            self.other.join(0.2)
        return 5 + super().write(text[5:])


def test_the_lines_of_two_threads_do_not_mix() -> None:
    stream = Slow()
    stream.log.write("INFO", "first")
    stream.other.join()
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["first", "second"]
