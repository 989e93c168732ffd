"""SQLAlchemy's engine on our own connections: for migrations, and for what makes and fills databases."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from shared.database_url import DatabaseTarget
from shared.postgres import translated
from shared.postgres_connect import connector_for, set_patience


def make_engine(target: DatabaseTarget, server_settings: Mapping[str, str]) -> Engine:
    """An engine for the target, with these server settings in every session. Nothing connects yet.

    An answer is waited for without end: building something on a large table takes as long as it takes.
    """
    engine = create_engine("postgresql+pg8000://", creator=connector_for(target, server_settings), pool_pre_ping=True)
    event.listen(engine, "checkout", lambda connection, *_: set_patience(connection, None))
    return engine


@contextmanager
def translated_from_engine(target: DatabaseTarget) -> Iterator[None]:
    """Turn the errors of an engine's statements into ours, as `shared.postgres.translated` does with the driver's."""
    with translated(target):
        try:
            yield
        except DBAPIError as error:
            raise error.orig or error from error
