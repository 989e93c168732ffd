"""A page of the bucket's listing, held against the tables: which objects go, and as what."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from functions.cleanup.holds import held_objects
from functions.cleanup.kinds import Ages, Named, kind_of
from shared.bucket_calls import StoredObject
from shared.context import Batch, Context
from shared.postgres import Transaction
from shared.sql import load_statements

STATEMENTS = load_statements(Path(__file__).with_name("artifacts.sql"))


@dataclass(frozen=True, slots=True)
class Taken:
    """An object that goes: of which kind, and the row that names it, if any."""

    found: StoredObject
    kind: str
    named: Named | None


@dataclass
class Judged:
    """What a page comes to: the objects that go, how many more would but for a hold, and what cannot be handled."""

    taken: list[Taken] = field(default_factory=list)
    held: int = 0
    unreadable: int = 0


def judge(transaction: Batch | Transaction, ctx: Context, bucket: str, page: Sequence[StoredObject]) -> Judged:
    """Decide for each object of a page, as the tables are now."""
    judged = Judged()
    cleanup = ctx.settings.cleanup
    ages = Ages(ctx.now - cleanup.artifact_retention, ctx.now - cleanup.orphan_age)
    # PostgreSQL's text has no NUL, so no row can name such an object and no outbox can remember it: it stays.
    readable = [found for found in page if "\0" not in found.name]
    unreadable = [found for found in page if "\0" in found.name]
    judged.unreadable = sum(1 for found in unreadable if kind_of(found, None, ages) is not None)
    names = [found.name for found in readable]
    rows = transaction.rows(STATEMENTS["find_rows"], names=names)
    named = {row["name"]: Named(row["file_id"], row["run_id"], row["unpacked_zip"]) for row in rows}
    candidates = [
        Taken(found, kind, named.get(found.name))
        for found in readable
        if (kind := kind_of(found, named.get(found.name), ages)) is not None
    ]
    if not candidates:
        return judged
    rows = transaction.rows(
        STATEMENTS["find_open"],
        bucket=bucket,
        names=[taken.found.name for taken in candidates],
        generations=[taken.found.generation for taken in candidates],
    )
    waiting = {row["name"] for row in rows}
    candidates = [taken for taken in candidates if taken.found.name not in waiting]
    hangs_on = {taken.found.name: [taken.named.run_id] if taken.named else [] for taken in candidates}
    held = held_objects(transaction, ctx.now, hangs_on)
    judged.taken = [taken for taken in candidates if taken.found.name not in held]
    judged.held = len(held)
    return judged
