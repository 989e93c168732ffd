"""The handbook's commands do what it shows: they are run on real servers, page by page."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from devstack.gcs_front import GcsFront
from devstack.serving import Served
from devstack.stripe_account import Account
from devstack.stripe_server import StripeServer
from tests.support.clock import ManualClock
from tests.support.commands import run_command
from tests.support.database import TestDatabase
from tests.support.handbook import (
    OPS,
    Command,
    blocks,
    commands_to_run,
    is_as_expected,
    name_of,
    pages,
)
from tests.support.serving import Functions, request

# What the handbook's examples name: a run, dead letters, a hold, and a database that has long belonged here.
_EXAMPLES = """
INSERT INTO extraction_jobs (id, user_id, name, created_at, last_active_at)
VALUES ('3f2504e0-4f89-41d3-9a0c-0305e82c3301', '8hVkQw2pXa', 'invoices', '2026-01-01Z', '2026-01-01Z');
INSERT INTO job_runs (id, job_id, config_step, status, last_active_at, created_at)
VALUES ('6f9619ff-8b86-4011-b42d-00c04fc964ff', '3f2504e0-4f89-41d3-9a0c-0305e82c3301', 'upload', 'pending',
        now(), now());
INSERT INTO usage_events (id, user_id, source, pages, occurred_at, stripe_reported)
VALUES ('0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61', '8hVkQw2pXa', 'extraction', 3, now() - interval '9 hours', false),
       ('7d8f0c52-1f5e-4b7e-8c9e-5a3b1f0c2d44', '8hVkQw2pXa', 'extraction', 5, now() - interval '40 days', false),
       ('f1d2d2f9-24e9-4ac1-9a2b-6d9e1c0b7a55', '8hVkQw2pXa', 'extraction', 2, now() - interval '3 hours', false);
INSERT INTO maintenance.runs (id, job, trigger, status, dry_run, started_at, finished_at, deadline_at, counts, message)
OVERRIDING SYSTEM VALUE
VALUES (4711, 'period_reset', 'schedule', 'completed', false, now() - interval '10 hours', now() - interval '10 hours',
        now() - interval '9 hours', '{"updated_count": 5, "failed_count": 0}',
        'Period reset completed for 5 free users');
INSERT INTO maintenance.meter_sends (usage_event_id, user_id, stripe_customer_id, event_name, identifier, occurred_at,
                                     value, state, attempts, invoice_closes_at, error_code, error_message)
VALUES ('0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61', '8hVkQw2pXa', 'cus_ann', 'pages',
        '0b5c3f1e-6f1c-4a53-9d3c-2f0b9d8c7a61', now() - interval '9 hours', 3, 'rejected', 1,
        now() + interval '9 days', 'resource_missing', 'No such customer'),
       ('7d8f0c52-1f5e-4b7e-8c9e-5a3b1f0c2d44', '8hVkQw2pXa', 'cus_ann', 'pages',
        '7d8f0c52-1f5e-4b7e-8c9e-5a3b1f0c2d44', now() - interval '40 days', 5, 'expired', 0,
        now() - interval '9 days', NULL, NULL),
       ('f1d2d2f9-24e9-4ac1-9a2b-6d9e1c0b7a55', '8hVkQw2pXa', 'cus_ann', 'pages',
        'f1d2d2f9-24e9-4ac1-9a2b-6d9e1c0b7a55', now() - interval '3 hours', 2, 'in_doubt', 1,
        now() + interval '9 days', NULL, NULL);
INSERT INTO maintenance.holds (id, scope, subject, reason, by, created_at)
OVERRIDING SYSTEM VALUE VALUES (12, 'user', '8hVkQw2pXa', 'case 4711', 'ann', now());
"""


@pytest.fixture
def environ_of_all(
    database: TestDatabase, environ: dict[str, str], gcs_front: GcsFront, bucket: str, clock: ManualClock
) -> Iterator[Mapping[str, str]]:
    """The settings of an environment in which everything is there, with what the examples speak of."""
    database.execute("UPDATE maintenance.identity SET bucket = :bucket", bucket=bucket)
    database.account("8hVkQw2pXa", "free")
    database.script(_EXAMPLES)
    account = Account(clock)
    with StripeServer(account) as server:
        yield {
            **environ,
            "GCS_BUCKET_NAME": bucket,
            "STORAGE_EMULATOR_HOST": gcs_front.url,
            "STRIPE_SECRET_KEY": account.secret_key,
            "STRIPE_METER_PAGES": account.meter.id,
            "STRIPE_API_BASE": server.url,
        }


_RUN = [page for page in pages() if any(block.language == "console" for block in blocks(page))]


class Terminal:
    """Runs a page's commands one after the other: what it does first may be needed by what it does then."""

    def __init__(self, environ: Mapping[str, str], functions: Functions) -> None:
        self._environ = environ
        self._functions = functions
        self._served: Served | None = None

    def run(self, command: Command) -> tuple[int, str]:
        """The exit code, and what was printed."""
        words, environ = shlex.split(command.text), dict(self._environ)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            environ[name] = value
        if words[0] == "curl":
            return 0, self._curl(words[1:])
        arguments = _arguments_of(words)
        assert arguments is not None, f"{command.where}: {command.text!r} cannot be run here"
        done = run_command(*arguments, environ=environ)
        return done.exit_code, done.output

    def _curl(self, words: Sequence[str]) -> str:
        """Ask a served function, with those of curl's options that pages use."""
        asked = {"-X": "GET", "-d": ""}
        for name, value in pairwise(words):
            if name in asked:
                asked[name] = value
        assert "localhost:8080" in words
        if self._served is None:
            self._served = self._functions.serve(self._environ)
        return request(self._served, asked["-X"], body=asked["-d"].encode() or None).text


@pytest.mark.parametrize("page", _RUN, ids=name_of)
def test_commands_do_what_the_page_says(page: Path, environ_of_all: Mapping[str, str], functions: Functions) -> None:
    terminal = Terminal(environ_of_all, functions)
    for block in blocks(page):
        for command in commands_to_run(block) if block.language == "console" else ():
            code, printed = terminal.run(command)
            said = f"{command.where}: {command.text}\nended with {code}:\n{printed}"
            assert code == command.code, said
            assert is_as_expected(printed, command.expected), f"{said}\nexpected:\n" + "\n".join(command.expected)


def _arguments_of(words: Sequence[str]) -> list[str] | None:
    """What is handed to the command line; None where it is none of its commands."""
    if tuple(words[:3]) == OPS:
        return list(words[3:])
    if words[:2] == ["make", "ops"]:
        (given,) = (word.removeprefix("ARGS=") for word in words[2:] if word.startswith("ARGS="))
        return shlex.split(given)
    return None
