"""A database as the service and its operator would have prepared it, with demo accounts: for the demo and `make dev`.

It is a fresh database with a random name, on the stack's own server or on the one that DATABASE_URL names; the database
that DATABASE_URL itself names is never touched. At the end it is dropped. The same holds for the bucket, on a
fake-gcs-server of the stack's own or on the one that STORAGE_EMULATOR_HOST names. Stripe is the stand-in, in this
process, whatever the environment says.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import urllib3
from sqlalchemy import Connection, Engine

from devstack.accounts import KINDS, add_accounts, add_plans
from devstack.buckets import create_bucket, drop_bucket
from devstack.databases import create_database, drop_database
from devstack.serving import REPOSITORY
from devstack.stack import Stack
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from devstack.telling import StepFailed, Teller
from devstack.usage import takeover_setting
from ops.engine import make_engine, translated_from_engine
from shared.clock import SystemClock
from shared.database_url import DatabaseTarget, database_target
from shared.tables import metadata


@dataclass(frozen=True)
class Prepared:
    """What there is: the settings that a function needs, a folder for logs, the Stripe stand-in, and the database."""

    settings: Mapping[str, str]
    folder: Path
    stripe: StripeServer
    _target: DatabaseTarget
    _engine: Engine

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection in a transaction, committed at the end. Raises MaintenanceError."""
        with translated_from_engine(self._target), self._engine.begin() as connection:
            yield connection


def prepare(
    environ: Mapping[str, str],
    teller: Teller,
    cleanup: contextlib.ExitStack,
    *,
    purpose: str,
    per_kind: int,
    now: datetime,
) -> Prepared:
    """Start the servers, make a database, migrate it for Stripe's test mode, fill it; all of it ends with `cleanup`.

    In: the environment, which may name servers to use; what the database's name says it is for; how many accounts of
    each kind; the moment that they are made for. Raises StepFailed, StartError, MaintenanceError, or pg8000's Error and
    OSError where the server that DATABASE_URL names cannot be used.
    """
    if environ.get("DATABASE_URL", "").strip():
        # Malformed, it is refused here in a sentence.
        database_target(environ)
    servers = "PostgreSQL, Valkey, fake-gcs-server and the Stripe stand-in"
    with teller.step(f"Starting {servers}", servers):
        stack = cleanup.enter_context(Stack(environ))
        folder = stack.folder or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="devstack-")))
        name = f"maintenance_{purpose}_{secrets.token_hex(6)}"
        url = cleanup.enter_context(_own_database(stack.database_url, name))
        bucket = cleanup.enter_context(_own_bucket(stack.gcs_url, name.replace("_", "-")))
        account = Account(SystemClock())
        # The accounts below have customers, of which only those with usage are told to the stand-in.
        account.any_customer = True
        stripe = cleanup.enter_context(StripeServer(account))
    settings = {
        "DATABASE_URL": url,
        "REDIS_URL": stack.redis_url,
        "STORAGE_EMULATOR_HOST": stack.gcs_url,
        "GCS_BUCKET_NAME": bucket,
        "STRIPE_SECRET_KEY": account.secret_key,
        "STRIPE_METER_PAGES": account.meter.id,
        "STRIPE_API_BASE": stripe.url,
        "STRIPE_TAKEOVER_AT": takeover_setting(now),
        # The stand-in is not as slow as Stripe's test mode, for which the defaults are made.
        "STRIPE_RATE": "200",
        "STRIPE_READ_RATE": "200",
    }
    target = database_target(settings)
    engine = make_engine(target, {"TimeZone": "UTC"})
    cleanup.callback(engine.dispose)
    prepared = Prepared(settings, folder, stripe, target, engine)
    with (
        teller.step("Creating the service's tables", f"The service's {len(metadata.tables)} tables, as it made them"),
        prepared.transaction() as connection,
    ):
        metadata.create_all(connection)
    with teller.step("python -m ops migrate", "python -m ops migrate: our own schema, maintenance"):
        _migrate(settings)
    total = f"{per_kind * len(KINDS):,} accounts of {len(KINDS)} kinds"
    with teller.step(f"Seeding {total}", total), prepared.transaction() as connection:
        add_plans(connection)
        for kind in KINDS:
            add_accounts(connection, kind, per_kind, now)
    return prepared


@contextlib.contextmanager
def _own_database(server_url: str, name: str) -> Iterator[str]:
    try:
        url = create_database(server_url, name)
    except BaseException:
        # Interrupted at the right moment, it is there all the same. What went wrong is what is told.
        with contextlib.suppress(Exception):
            drop_database(server_url, name)
        raise
    try:
        yield url
    finally:
        drop_database(server_url, name)


@contextlib.contextmanager
def _own_bucket(server_url: str, name: str) -> Iterator[str]:
    try:
        create_bucket(server_url, name)
    except (RuntimeError, urllib3.exceptions.HTTPError, ValueError) as error:
        raise StepFailed(f"The storage server that STORAGE_EMULATOR_HOST names cannot be used: {error}") from error
    try:
        yield name
    finally:
        with contextlib.suppress(RuntimeError, urllib3.exceptions.HTTPError):
            drop_bucket(server_url, name)


def _migrate(settings: Mapping[str, str]) -> None:
    """Migrate as an operator does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ops", "migrate"],
        cwd=REPOSITORY,
        env={"PATH": os.environ.get("PATH", os.defpath), **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StepFailed(f"`python -m ops migrate` ended with {done.returncode}: {done.stderr.strip()}")
