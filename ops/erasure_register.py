"""The register of erasures, as the command line and the console read it: of all users, or of one by the keyed hash.

It has a CSV form, for auditors: what a spreadsheet would take for a formula is made text.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from functions.cleanup.erasing import STATEMENTS as ERASING
from functions.cleanup.erasing import hash_of
from functions.registry import JOBS
from ops.grants import HEALTH_JOB
from ops.shell import cell, printable
from shared.postgres import Transaction
from shared.services import Services
from shared.sql import load_statements
from shared.start_check import check_start

_STATEMENTS = load_statements(Path(__file__).with_name("erasure_register.sql"))
_PAGE = 5_000
_FIELDS = (
    *("id", "erased_at", "job", "run_id", "job_run_id", "user_hash", "extent"),
    *("row_counts", "objects", "bytes", "completed_at", "copies", "copies_until"),
)
# What spreadsheets take for the beginning of a formula, in its wide forms too.
_FORMULA = frozenset("=+-@＝＋－＠")  # noqa: RUF001  meant

Page = Sequence[Mapping[str, object]]
# How a transaction is begun on a database that was found to be this environment's.
Reading = Callable[[], AbstractContextManager[Transaction]]


def hash_of_user(services: Services, user: str, reading: Reading | None = None) -> str:
    """The hash under which a user stands in the register. Raises what `check_start` does."""
    with reading() if reading else _checked(services) as transaction:
        (row,) = transaction.rows(ERASING["erasure_key"])
    return hash_of(bytes(row["erasure_key"]), user)


def pages(
    services: Services,
    user_hash: str | None,
    limit: int | None,
    below: int | None = None,
    reading: Reading | None = None,
) -> Iterator[Page]:
    """The register in parts, from a number downwards, each read by itself: who reads it may take a long time.

    Raises what `check_start` does.
    """
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        with reading() if reading else _checked(services) as transaction:
            page = transaction.rows(_STATEMENTS["register"], user_hash=user_hash, below=below, limit=size)
        yield page
        if len(page) < size:
            return
        below, left = page[-1]["id"], None if left is None else left - size


@contextmanager
def _checked(services: Services) -> Iterator[Transaction]:
    with services.database.transaction(read_only=True) as transaction:
        check_start(transaction, JOBS[HEALTH_JOB], services.settings, services.clock.now())
        yield transaction


def as_csv(parts: Iterator[Page], clean: Callable[[str], str] = str) -> Iterator[str]:
    """The parts as CSV, with a line of headings. Nothing comes before the first part is there.

    Every text goes through `clean` before it is made one that no spreadsheet runs.
    """
    for number, page in enumerate(parts):
        text = io.StringIO()
        writer = csv.writer(text)
        if number == 0:
            writer.writerow(_FIELDS)
        writer.writerows([_csv_cell(row[name], clean) for name in _FIELDS] for row in page)
        yield text.getvalue()


def _csv_cell(value: object, clean: Callable[[str], str]) -> object:
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        cleaned = {clean(name): clean(each) if isinstance(each, str) else each for name, each in value.items()}
        return no_formula(json.dumps(cleaned))
    return no_formula(clean(cell(value)))


def no_formula(text: str) -> str:
    """Text that no spreadsheet takes for a formula and no terminal for a command."""
    text = printable(text)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA else text


def summed(row: Mapping[str, object]) -> Mapping[str, object]:
    """An erasure with how many rows went in all, and what the bucket keeps until when."""
    counts = row["row_counts"]
    kept = " until ".join(cell(each) for each in (row["copies"], row["copies_until"]) if each is not None)
    return {**row, "rows": sum(counts.values()) if isinstance(counts, Mapping) else None, "kept": kept or None}
