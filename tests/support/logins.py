"""A PostgreSQL login for each job, as Terraform makes them: with no rights of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit, urlunsplit

from functions.registry import JOBS
from tests.support.database import TestDatabase

_PASSWORD = "pw"


@contextmanager
def made_logins(database: TestDatabase) -> Iterator[dict[str, str]]:
    """Logins by job, while the block lasts. They belong to the server, so their names carry the database's."""
    name = database.value("SELECT current_database()")
    made = {job.name: f"fn-{job.cli}@{name}.iam" for job in JOBS.values()}
    for login in made.values():
        database.script(f"CREATE ROLE \"{login}\" LOGIN PASSWORD '{_PASSWORD}'")
    try:
        yield made
    finally:
        for login in made.values():
            database.script(f'DROP OWNED BY "{login}"; DROP ROLE "{login}"')


def url_as(url: str, login: str) -> str:
    """A database's URL with one of these logins."""
    parts = urlsplit(url)
    at = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(login, safe='')}:{_PASSWORD}@{at}"))
