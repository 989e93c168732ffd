"""Where the database is: DATABASE_URL, or the Cloud SQL settings, read into one value.

Messages made here name the setting and never repeat its text, because the text holds the password.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from shared.environ import choice
from shared.errors import Misconfigured

_EXAMPLE = "postgresql://user:password@host:5432/database"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CLOUD_SQL_FOLDER = "/cloudsql/"
# As SQLAlchemy reads it, with which the service does: whatever is no @ may stand in a password as it is.
_URL = re.compile(
    r"(?P<scheme>[\w+]+)://"
    r"(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<address>[^/?]+)\]|(?P<name>[^/:?]+))?(?::(?P<port>[^/?]*))?"
    r"(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?"
)


@dataclass(frozen=True)
class DatabaseTarget:
    """One database and how to reach it: by TCP, by a unix socket's folder, or through the Cloud SQL connector."""

    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int = 5432
    socket_folder: str | None = None
    ssl_mode: str = "prefer"
    ssl_root_cert: str | None = None
    cloud_sql_instance: str | None = None
    # For the connector only: at which of its instance's addresses it connects, public or private.
    cloud_sql_ip_type: str = "public"

    @property
    def instance(self) -> str:
        """The server's name as the identity check compares it; the same whichever way it is reached."""
        if self.cloud_sql_instance:
            return self.cloud_sql_instance
        if self.socket_folder:
            return f"{self.socket_folder}:{self.port}"
        return f"{self.host}:{self.port}"

    @property
    def socket_path(self) -> str | None:
        """The unix socket's path, where PostgreSQL puts it in its folder."""
        return f"{self.socket_folder}/.s.PGSQL.{self.port}" if self.socket_folder else None

    def __str__(self) -> str:
        return f"{self.instance}/{self.database}"


def database_target(environ: Mapping[str, str]) -> DatabaseTarget:
    """Read DATABASE_URL, or CLOUD_SQL_INSTANCE with DB_NAME and DB_USER.

    Raises Misconfigured, naming the setting, when neither or both are set or one is malformed.
    """
    url, instance = environ.get("DATABASE_URL", "").strip(), environ.get("CLOUD_SQL_INSTANCE", "").strip()
    if url and instance:
        raise Misconfigured("DATABASE_URL", "DATABASE_URL and CLOUD_SQL_INSTANCE are both set. Keep one of them.")
    if instance:
        return _cloud_sql(instance, environ)
    if not url:
        raise Misconfigured(
            "DATABASE_URL",
            f"DATABASE_URL is not set. Set it to {_EXAMPLE}, or set CLOUD_SQL_INSTANCE, DB_NAME and DB_USER.",
        )
    return _from_url(url)


def _cloud_sql(instance: str, environ: Mapping[str, str]) -> DatabaseTarget:
    # Of an old project, whose name begins with a domain, four parts.
    if len(instance.split(":")) not in (3, 4) or not all(instance.split(":")):
        raise Misconfigured("CLOUD_SQL_INSTANCE", "CLOUD_SQL_INSTANCE must look like project:region:instance.")
    for name in ("DB_NAME", "DB_USER"):
        if not environ.get(name, "").strip():
            raise Misconfigured(name, f"{name} is not set. CLOUD_SQL_INSTANCE needs DB_NAME and DB_USER beside it.")
    return DatabaseTarget(
        database=environ["DB_NAME"].strip(),
        user=environ["DB_USER"].strip(),
        password=environ.get("DB_PASSWORD") or None,
        cloud_sql_instance=instance,
        cloud_sql_ip_type=choice(environ, "CLOUD_SQL_IP_TYPE", ("public", "private")),
    )


def _refuse(why: str) -> Misconfigured:
    return Misconfigured("DATABASE_URL", f"DATABASE_URL {why}. It should look like {_EXAMPLE}.")


def _from_url(text: str) -> DatabaseTarget:
    match = _URL.fullmatch(text)
    if match is None:
        raise _refuse("is not a URL")
    if match["scheme"].split("+")[0] not in ("postgres", "postgresql"):
        raise _refuse("does not begin with postgresql:// or postgres://")
    database, user = (unquote(match[name] or "") for name in ("database", "user"))
    if not database or not user:
        raise _refuse("names no database" if not database else "names no user")
    options = _options(match["query"] or "")
    host = options.get("host") or match["name"] or match["address"]
    if not host:
        raise _refuse("names no host")
    ssl_mode = options.get("sslmode", "prefer")
    if ssl_mode not in _SSL_MODES:
        raise _refuse(f"has an unknown sslmode; known are {', '.join(_SSL_MODES)}")
    port = _port(options.get("port") or match["port"] or "5432")
    socket_folder = host.rstrip("/") if host.startswith("/") else None
    in_cloud_sql = socket_folder is not None and socket_folder.startswith(_CLOUD_SQL_FOLDER)
    return DatabaseTarget(
        database=database,
        user=user,
        password=None if match["password"] is None else unquote(match["password"]),
        host=None if socket_folder else host,
        port=port,
        socket_folder=socket_folder,
        ssl_mode=ssl_mode,
        ssl_root_cert=options.get("sslrootcert"),
        cloud_sql_instance=socket_folder[len(_CLOUD_SQL_FOLDER) :] if socket_folder and in_cloud_sql else None,
    )


def _options(query: str) -> Mapping[str, str]:
    known = ("host", "port", "sslmode", "sslrootcert")
    options: dict[str, str] = {}
    for name, value in parse_qsl(query):
        if name not in known:
            raise _refuse(f"has the parameter {name!r}, which is not understood; known are {', '.join(known)}")
        if name in options:
            raise _refuse(f"has the parameter {name!r} more than once")
        options[name] = value
    return options


def _port(value: str) -> int:
    try:
        port = int(value)
    except ValueError:
        raise _refuse("has a port that is not a number") from None
    if not 0 < port < 65536:
        raise _refuse("has a port outside 1 to 65535")
    return port


def ssl_context(target: DatabaseTarget) -> ssl.SSLContext:
    """The TLS context that the target's sslmode asks for (libpq's meaning: only verify-* check the certificate).

    Raises Misconfigured if sslrootcert cannot be read.
    """
    context = ssl.create_default_context()
    if target.ssl_root_cert:
        try:
            context.load_verify_locations(cafile=target.ssl_root_cert)
        except (OSError, ssl.SSLError):
            name = Path(target.ssl_root_cert).name
            raise _refuse(f"names an sslrootcert ({name}) that cannot be read as certificates") from None
    if target.ssl_mode != "verify-full":
        context.check_hostname = False
    if target.ssl_mode not in ("verify-ca", "verify-full"):
        context.verify_mode = ssl.CERT_NONE
    return context
