"""`python -m ops console` as it is started by a person: where it is said to be, taken ports, Ctrl-C."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from devstack.serving import REPOSITORY
from ops.shell import DONE, DOWN, USAGE
from tests.console.serving import free_port
from tests.support.commands import run_command

_NO_DATABASE = {"DATABASE_URL": "postgresql://ann:s3cret@127.0.0.1:1/byte"}


@contextmanager
def started(*arguments: str, environ: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-m", "ops", "console", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_serves_until_ctrl_c_and_then_ends_quietly(environ: dict[str, str]) -> None:
    port = free_port()
    with started("--port", str(port), environ=environ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said == f"The console is at http://127.0.0.1:{port}, for every user of this machine. Ctrl-C ends it.\n"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/runs")
        answer = connection.getresponse()
        assert (answer.status, b"Nothing has run yet" in answer.read()) == (200, True)
        # The connection stays open, as a browser's does.
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        connection.close()
    assert (process.returncode, out, err) == (DONE, "", "")


def test_it_listens_on_loopback_alone_and_starts_without_a_database() -> None:
    port = free_port()
    with started("--port", str(port), "--json", environ=_NO_DATABASE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"address": f"http://127.0.0.1:{port}"}
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=30)
    assert "s3cret" not in (process.stderr.read() if process.stderr and not process.stderr.closed else "")


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_command("console", "--port", str(port), environ=_NO_DATABASE)
    assert (done.exit_code, done.stdout) == (DOWN, "")
    assert f"Port {port} is taken" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_that_cannot_be_is_a_wrong_command_line(port: str) -> None:
    assert run_command("console", "--port", port, environ=_NO_DATABASE).exit_code == USAGE


def test_there_is_no_way_to_let_others_in() -> None:
    assert run_command("console", "--host", "127.0.0.2", environ=_NO_DATABASE).exit_code == USAGE
