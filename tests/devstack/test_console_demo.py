"""`make console`: the page is there with its history, and nothing is left of it afterwards."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from devstack import guardian
from tests.test_demo import PATIENCE_S, Owner

MODULE = "devstack.console_demo"


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Undo that a shell lets what it starts in the background ignore Ctrl-C: children would inherit it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def started(home: Path, port: int) -> Iterator[Owner]:
    owner = Owner(home, MODULE, "--port", str(port))
    try:
        yield owner
    finally:
        if owner.process.poll() is None:
            owner.process.kill()
        owner.process.communicate()


def test_the_page_is_served_until_ctrl_c_and_nothing_is_left(tmp_path: Path) -> None:
    port = guardian.free_port()
    with started(tmp_path, port) as demo:
        assert demo.read_until("Ctrl-C ends it."), demo.said
        assert f"http://127.0.0.1:{port}/" in demo.said
        answer = urllib3.request("GET", f"http://127.0.0.1:{port}/", retries=False)
        assert (answer.status, b"opt_out" in answer.data or b"optout" in answer.data) == (200, True)
        assert "ops console" in demo.programs()
        assert demo.end(signal.SIGINT) == 0, demo.said
        assert "nothing is left" in demo.said
        assert "Traceback" not in demo.said
        assert demo.left() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["Starting PostgreSQL", "a month of history …", "ops console"])
def test_interrupted_on_its_way_it_leaves_nothing(tmp_path: Path, moment: str) -> None:
    with started(tmp_path, guardian.free_port()) as demo:
        assert demo.read_until(moment), demo.said
        assert demo.end(signal.SIGINT) in (0, 130), demo.said
        assert "Traceback" not in demo.said
        assert demo.left() == []


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    with started(tmp_path, guardian.free_port()) as demo:
        assert demo.read_until("Ctrl-C ends it."), demo.said
        demo.end(signal.SIGKILL)
        assert guardian.wait_for(lambda: demo.left() == [], PATIENCE_S), demo.left()


def test_a_port_that_is_taken_is_told_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with started(tmp_path, port) as demo:
            demo.read_until()
            assert demo.process.wait(PATIENCE_S) == 1
            assert f"Port {port} is taken" in demo.said
            assert "Failed: `python -m ops console` ended with 4." in demo.said
            assert "Traceback" not in demo.said
            assert demo.left() == []
