"""The PostgreSQL adapter: connections, transactions, and what the server's errors mean.

A process that is stopped in the middle must not hold the fence or the service's rows, so every session carries limits
that the server enforces: idle_in_transaction_session_timeout, statement_timeout, lock_timeout. The last is below
deadlock_timeout (1 s by default): in a conflict with the service, we are the one that yields.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import to_statement

from shared.connections import ConnectionPool, Pooled
from shared.database_url import DatabaseTarget
from shared.errors import DataRejected, LockLost, MaintenanceError, Misconfigured, Unavailable
from shared.postgres_connect import PROMPT_SECONDS, close, connector_for, set_patience
from shared.sql import Statement

Row = Mapping[str, Any]

# The server's settings for every session of a job; times are in milliseconds, keepalives in seconds.
SESSION_LIMITS: Mapping[str, str] = {
    "lock_timeout": "500",
    "statement_timeout": "60000",
    "idle_in_transaction_session_timeout": "5000",
    "default_transaction_isolation": "read committed",
    "TimeZone": "UTC",
    # Compiling costs more than it gives for statements that each touch a few thousand rows.
    "jit": "off",
    # The server's side of a connection that vanished (no effect on a unix socket).
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

# Longer than the server's statement_timeout: only a connection that vanished runs into it.
_PATIENCE_SECONDS = 75.0

# SQLSTATE classes and codes: "PostgreSQL Error Codes", PostgreSQL documentation, appendix A.
_LOCK_CODES = {"55P03", "40P01", "40001", "57014"}
_DOWN_CLASSES = {"08", "53", "57", "58"}
_DOWN_CODES = {"25P03", "25P04", "25006"}
_REFUSED_CLASSES = {"28"}
# A statement of ours is wrong, or used where it cannot be: no item is at fault.
_OUR_CLASSES = {"03", "0A", "25", "26", "2D", "34", "3B", "42"}
_SCHEMA_CODES = {"42P01", "42703", "3F000", "42883", "42704", "42804", "42P10"}


# Statements are few and used again and again; reading one costs more than looking it up.
_read = functools.lru_cache(maxsize=None)(to_statement)


class Transaction:
    """One open transaction. Statements are named ones; what the server answers comes as plain rows."""

    def __init__(self, connection: Any, target: DatabaseTarget) -> None:
        """`connection` is pg8000's."""
        self._connection = connection
        self._target = target

    def rows(self, statement: Statement, **parameters: object) -> Sequence[Row]:
        """Run a statement and give its rows. Raises Unavailable, Misconfigured, LockLost or DataRejected."""
        answer = self._run(statement.text, parameters)
        names = [column["name"] for column in answer.columns or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.rows or ()]

    def row(self, statement: Statement, **parameters: object) -> Row | None:
        """Run a statement and give its first row, or None where there is none."""
        rows = self.rows(statement, **parameters)
        return rows[0] if rows else None

    def execute(self, statement: Statement, **parameters: object) -> int:
        """Run a statement that gives no rows; give how many rows it touched."""
        return int(self._run(statement.text, parameters).row_count)

    def limit(self, setting: str, milliseconds: int) -> None:
        """In the rest of this transaction, let lock_timeout or statement_timeout be this, in place of the session's."""
        self._run("SELECT set_config(:setting, :limit, true)", {"setting": setting, "limit": f"{milliseconds}ms"})

    def _run(self, sql: str, parameters: Mapping[str, object]) -> Any:
        statement, values = _read(sql)
        with translated(self._target):
            if parameters:
                vals = [_array(value) if isinstance(value, list) else value for value in values(parameters)]
                return self._connection.execute_unnamed(statement, vals=vals)
            return self._connection.execute_simple(statement)


def _array(values: Sequence[object]) -> str:
    """A list as PostgreSQL writes an array; each statement casts it. The driver would go through it by letters."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


class Database:
    """One database, with a small pool of connections that are made when they are first needed.

    Connections come from pg8000. Transactions and statements are in words of our own: a third of the round trips that a
    general engine makes.
    """

    def __init__(self, target: DatabaseTarget) -> None:
        self.target = target
        self._pool = ConnectionPool(connector_for(target, SESSION_LIMITS), _check, close)

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back if the block raises.

        With `read_only` the server refuses every write in it. A connection whose state is in doubt is not used again.
        """
        with self._connection() as pooled:
            connection = pooled.driver
            with translated(self.target):
                connection.execute_simple("BEGIN READ ONLY" if read_only else "BEGIN")
            yield Transaction(connection, self.target)
            with translated(self.target):
                connection.execute_simple("COMMIT")

    @contextmanager
    def session(self) -> Iterator["Session"]:
        """A connection of one's own outside any transaction, closed for good at the end: for session-level locks."""
        with self._connection() as pooled:
            # Closing the session is what releases its locks, whatever state it is in.
            pooled.is_doubtful = True
            yield Session(pooled.driver, self.target)

    def dispose(self) -> None:
        """Close every pooled connection; one that is in use when it comes back."""
        self._pool.dispose()

    @contextmanager
    def _connection(self) -> Iterator[Pooled]:
        with contextlib.ExitStack() as stack:
            with translated(self.target):
                pooled = stack.enter_context(self._pool.connection())
            try:
                with translated(self.target):
                    # The limit of prompt answers is for opening and checking.
                    set_patience(pooled.driver, _PATIENCE_SECONDS)
                yield pooled
            except BaseException as error:
                self._abandon(pooled, error)
                raise

    def _abandon(self, pooled: Pooled, error: BaseException) -> None:
        """Roll back where the connection is known to be good; otherwise drop it, and the server rolls back."""
        if isinstance(error, Unavailable):
            # What took this one took the others, most likely, and the next attempt would meet them.
            self._pool.close_kept()
        is_known_good = not pooled.is_doubtful and isinstance(error, MaintenanceError)
        # Until the answer to the ROLLBACK is here, whatever else may break in.
        pooled.is_doubtful = True
        if is_known_good and not isinstance(error, Unavailable):
            with contextlib.suppress(DatabaseError, InterfaceError, OSError):
                pooled.driver.execute_simple("ROLLBACK")
                pooled.is_doubtful = False


class Session(Transaction):
    """A connection outside any transaction: each statement commits by itself."""

    def hurry(self) -> None:
        """From now on wait for an answer no longer than a healthy server takes for one."""
        set_patience(self._connection, PROMPT_SECONDS)


def _check(connection: Any) -> None:
    """Raise unless a connection still works.

    A server that hangs must be found out in seconds, so this is asked with less patience than a statement.
    """
    set_patience(connection, PROMPT_SECONDS)
    connection.execute_simple("SELECT")


@contextmanager
def translated(target: DatabaseTarget) -> Iterator[None]:
    """Turn the driver's errors into ours. What is already ours, or none of the database's, passes through."""
    try:
        yield
    except MaintenanceError:
        raise
    except (DatabaseError, InterfaceError) as error:
        raise meaning(error, target) from error
    except OSError as error:
        # pg8000 lets a socket's own errors through where it reads the first byte of an answer.
        raise _connection_lost(target) from error


def meaning(error: Exception, target: DatabaseTarget) -> MaintenanceError:
    """What an error of the driver means for the run. Details that quote a row's content are left out."""
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else None
    if fields is None:
        return _connection_lost(target)
    code, said = fields.get("C", ""), fields.get("M", "")
    reason = f"{said} (SQLSTATE {code})"
    if code in _LOCK_CODES:
        return LockLost(reason)
    decide: list[tuple[bool, Callable[[], MaintenanceError]]] = [
        (code in _DOWN_CODES or code[:2] in _DOWN_CLASSES, lambda: _down(target, reason)),
        (code[:2] in _REFUSED_CLASSES, lambda: _login_refused(target, reason)),
        (code == "3D000", lambda: _no_such_database(target)),
        (code == "42501", lambda: _no_right(target, reason)),
        (code in _SCHEMA_CODES, lambda: _schema_differs(target, reason)),
    ]
    for applies, make in decide:
        if applies:
            return make()
    # Whatever else the server says is about the values: a constraint, a trigger with a code of its own, a damaged row.
    return UnforeseenDatabaseError(reason) if code[:2] in _OUR_CLASSES else DataRejected(reason)


class UnforeseenDatabaseError(MaintenanceError):
    """An error of the database that nothing here foresees: a defect of ours, most likely."""


def _connection_lost(target: DatabaseTarget) -> Unavailable:
    return Unavailable("postgres", f"The connection to PostgreSQL at {target.instance} was lost. Try again.")


def _down(target: DatabaseTarget, reason: str) -> Unavailable:
    return Unavailable("postgres", f"PostgreSQL at {target.instance} cannot serve now: {reason}. Try again.")


def _login_refused(target: DatabaseTarget, reason: str) -> Misconfigured:
    return Misconfigured(
        "DATABASE_URL",
        f"PostgreSQL at {target.instance} refused the login: {reason}. Check the user and its password.",
    )


def _no_such_database(target: DatabaseTarget) -> Misconfigured:
    return Misconfigured(
        "DATABASE_URL", f"PostgreSQL at {target.instance} has no database {target.database!r}. Check the name."
    )


def _no_right(target: DatabaseTarget, reason: str) -> Misconfigured:
    return Misconfigured("database rights", f"The login {target.user!r} may not do this: {reason}. Give it that right.")


def _schema_differs(target: DatabaseTarget, reason: str) -> Misconfigured:
    if "maintenance" in reason:
        return Misconfigured(
            "schema maintenance",
            f"The database {target} lacks the schema `maintenance`, or a part of it: {reason}. "
            "Run `python -m ops migrate`.",
        )
    return Misconfigured(
        "DATABASE_URL",
        f"The database {target} lacks a part of the service's own tables: {reason}. "
        "Check that DATABASE_URL names the service's database.",
    )
