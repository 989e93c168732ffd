"""Opening one connection to PostgreSQL with pg8000, by TCP or unix socket, or through the Cloud SQL connector.

The TCP connection and its TLS are made here rather than by the driver, for three reasons: a server that does not speak
PostgreSQL is recognised by its first byte, connecting has a shorter time limit than reading an answer, and a peer that
vanished is noticed by keepalives.
"""

import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import Any

import pg8000.dbapi
from pg8000.exceptions import DatabaseError, InterfaceError

from shared.database_url import DatabaseTarget, ssl_context
from shared.errors import Misconfigured, Unavailable

# For everything that a healthy server does at once: connecting, and answering whether a pooled connection still works.
PROMPT_SECONDS = 5.0
_PROBE_SECONDS = 1.0
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_APPLICATION = "bytereview-maintenance"

Connect = Callable[[], Any]


def connector_for(target: DatabaseTarget, startup: Mapping[str, str]) -> Connect:
    """A function that opens a new connection to the target, with these server settings from the first moment.

    Its socket keeps the limit for prompt answers; `set_patience` gives it another. It raises Unavailable when the
    server cannot be reached or does not answer in seconds, Misconfigured when something else answers there or TLS
    cannot be had as asked, and the driver's DatabaseError when the server itself refuses.
    """
    if target.cloud_sql_instance and not target.socket_folder:
        # Imported here: the connector costs half a second, which only an installation that uses it should pay.
        from shared.cloud_sql import CloudSql

        cloud_sql = CloudSql()
        return lambda: cloud_sql.connect(target, application=_APPLICATION, startup=startup)
    return lambda: _direct(target, startup)


def set_patience(connection: Any, seconds: float | None) -> None:
    """Let a pg8000 connection wait so long for an answer; None: without end."""
    # pg8000 has no public name for its socket, and its own time limit is one for connecting and answering alike.
    connection._usock.settimeout(seconds)


def close(connection: Any) -> None:
    """Close a pg8000 connection, whatever state it is in."""
    # Asked for first: closed, the driver does not know it any more.
    sock = connection._usock
    # One that is lost cannot be closed in good order, and is closed all the same.
    with contextlib.suppress(Exception):
        connection.close()
    if sock is not None:
        _hang_up(sock)


def _hang_up(sock: socket.socket) -> None:
    """Close a socket though its file is still there: the frames of an error keep the driver's for as long as itself."""
    with contextlib.suppress(OSError):
        sock.close()
    with contextlib.suppress(OSError):
        os.close(sock.detach())


def _direct(target: DatabaseTarget, startup: Mapping[str, str]) -> Any:
    plain = _open(target)
    try:
        # A unix socket never leaves the machine and PostgreSQL offers no TLS on it.
        sock = plain if target.socket_folder else _with_tls(plain, target)
    except BaseException:
        plain.close()
        raise
    try:
        connection = pg8000.dbapi.connect(
            user=target.user,
            # Never None: asked for a password that it was not given, pg8000 breaks with an AttributeError.
            password=target.password or "",
            database=target.database,
            host=target.host,
            sock=sock,
            ssl_context=False,
            application_name=_APPLICATION,
            startup_params=dict(startup),
        )
    except DatabaseError:
        _hang_up(sock)
        raise
    except (OSError, InterfaceError) as error:
        _hang_up(sock)
        raise _no_answer(target) from error
    except (KeyError, ValueError, struct.error) as error:
        _hang_up(sock)
        raise _not_postgresql(target) from error
    return connection


def _open(target: DatabaseTarget) -> socket.socket:
    try:
        if target.socket_path:
            return _open_unix(target.socket_path)
        sock = socket.create_connection((target.host, target.port), PROMPT_SECONDS)
    except (socket.gaierror, UnicodeError) as error:
        # A name that is no name at all fails before it is looked up, as a UnicodeError.
        if isinstance(error, UnicodeError) or error.errno == socket.EAI_NONAME:
            raise Misconfigured(
                "DATABASE_URL", f"The host {target.host!r} in DATABASE_URL is not known. Check its spelling."
            ) from error
        raise Unavailable("postgres", f"The host {target.host!r} cannot be looked up now. Try again.") from error
    except OSError as error:
        raise Unavailable(
            "postgres",
            f"PostgreSQL at {target.instance} accepts no connection: is it running, and reachable from here?",
        ) from error
    _notice_a_vanished_peer(sock)
    return sock


def _open_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PROMPT_SECONDS)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _notice_a_vanished_peer(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000)):
        if hasattr(socket, option):  # not every platform has every option
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _with_tls(sock: socket.socket, target: DatabaseTarget) -> socket.socket:
    """Ask for TLS as sslmode says. The server's one byte of answer also tells whether it is PostgreSQL."""
    if target.ssl_mode == "disable":
        return sock
    try:
        sock.sendall(_SSL_REQUEST)
        answer = sock.recv(1)
    except OSError as error:
        if isinstance(error, TimeoutError) and _something_else_answers(target):
            raise _not_postgresql(target) from error
        raise _no_answer(target) from error
    if answer == b"S":
        try:
            context = ssl_context(target)
            # Python wraps one that is not connected any more too, and loses it where that fails.
            sock.getpeername()
            return context.wrap_socket(sock, server_hostname=target.host)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise _no_answer(target) from error
        except ssl.SSLError as error:
            raise Misconfigured(
                "DATABASE_URL",
                f"TLS with PostgreSQL at {target.instance} failed: {getattr(error, 'reason', None) or 'no handshake'}. "
                "Check sslmode and sslrootcert.",
            ) from error
        except OSError as error:
            # Also no connection any more: who hangs up before the handshake is no ConnectionError, but ENOTCONN.
            raise _no_answer(target) from error
    if answer == b"" and _something_else_answers(target):
        raise _not_postgresql(target)
    if answer in (b"", b"E"):
        # It hung up, or it says that it cannot serve: PostgreSQL does so while it starts or has no memory left.
        raise _no_answer(target)
    if answer != b"N":
        raise _not_postgresql(target)
    if target.ssl_mode in ("require", "verify-ca", "verify-full"):
        raise Misconfigured(
            "DATABASE_URL",
            f"sslmode={target.ssl_mode} asks for TLS, but PostgreSQL at {target.instance} offers none.",
        )
    return sock


def _something_else_answers(target: DatabaseTarget) -> bool:
    """Whether a line of text gets an answer there: PostgreSQL would hang up on it without a word."""
    with contextlib.suppress(OSError), socket.create_connection((target.host, target.port), _PROBE_SECONDS) as probe:
        probe.sendall(b"PING\r\n\r\n")
        return bool(probe.recv(1))
    return False


def _not_postgresql(target: DatabaseTarget) -> Misconfigured:
    return Misconfigured("DATABASE_URL", f"What answers at {target.instance} is not PostgreSQL. Check host and port.")


def _no_answer(target: DatabaseTarget) -> Unavailable:
    return Unavailable(
        "postgres", f"PostgreSQL at {target.instance} took the connection but did not answer. Try again."
    )
