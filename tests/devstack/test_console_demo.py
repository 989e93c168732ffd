"""`make console`: the page is there with its history, and nothing is left of it afterwards."""

import json
import shlex
import signal
import socket
from pathlib import Path

import pytest
import urllib3

from devstack import guardian
from tests.support.commands import run_command
from tests.support.programs import PATIENCE_S, Start

MODULE = "devstack.console_demo"
LATER = [pytest.param(moment, marks=pytest.mark.slow) for moment in ("a month of history …", "ops console")]


def test_the_page_is_served_until_ctrl_c_and_nothing_is_left(start: Start, tmp_path: Path) -> None:
    port = guardian.free_port()
    demo = start(MODULE, "--port", str(port))
    assert demo.read_until("Ctrl-C ends it."), demo.said
    assert f"http://127.0.0.1:{port}/" in demo.said
    answer = urllib3.request("GET", f"http://127.0.0.1:{port}/", retries=False)
    assert (answer.status, b"opt_out" in answer.data or b"optout" in answer.data) == (200, True)
    assert "ops console" in demo.programs()
    # Commands can be tried on the same month.
    exports = [shlex.split(line)[1] for line in demo.said.splitlines() if line.startswith("export ")]
    shown = run_command("history", "--json", environ=dict(each.split("=", 1) for each in exports))
    assert (shown.exit_code, len(json.loads(shown.stdout))) == (0, 20)
    assert demo.end(signal.SIGINT) == 0, demo.said
    assert "nothing is left" in demo.said
    assert "Traceback" not in demo.said
    assert demo.left() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["Starting PostgreSQL", *LATER])
def test_interrupted_on_its_way_it_leaves_nothing(start: Start, moment: str) -> None:
    demo = start(MODULE, "--port", str(guardian.free_port()))
    assert demo.read_until(moment), demo.said
    assert demo.end(signal.SIGINT) in (0, 130), demo.said
    assert "Traceback" not in demo.said
    assert demo.left() == []


@pytest.mark.slow
def test_killed_it_leaves_no_process(start: Start) -> None:
    demo = start(MODULE, "--port", str(guardian.free_port()))
    assert demo.read_until("Ctrl-C ends it."), demo.said
    demo.end(signal.SIGKILL)
    assert guardian.wait_for(lambda: demo.left() == [], PATIENCE_S), demo.left()


@pytest.mark.slow
def test_a_port_that_is_taken_is_told_in_a_sentence(start: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        demo = start(MODULE, "--port", str(port))
        demo.read_until()
        assert demo.process.wait(PATIENCE_S) == 1
        assert f"Port {port} is taken" in demo.said
        assert "Failed: `python -m ops console` ended with 4." in demo.said
        assert "Traceback" not in demo.said
        assert demo.left() == []
