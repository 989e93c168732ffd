"""Which objects of the bucket somebody holds, by what their names and their rows say of whose they are."""

from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

from functions.cleanup.kinds import SCRATCH, ids_in, is_scratch, place_in
from shared.context import Batch
from shared.postgres import Transaction
from shared.sql import load_statements

_STATEMENTS = load_statements(Path(__file__).with_name("holds.sql"))


def held_objects(transaction: Batch | Transaction, now: datetime, rows: Mapping[str, Collection[str]]) -> set[str]:
    """The names of those objects that must stay. `rows` gives, by name, the ids of the rows that an object hangs on.

    While a whole user or job is held, an object stays too of which nothing tells any more whose it is: the service may
    have deleted the job, and the object is what is left of it.
    """
    (held,) = transaction.rows(_STATEMENTS["what_is_held"], now=now)
    if not held["holds"]:
        return set()
    ids = {name: {*hangs_on, *ids_in(name)} for name, hangs_on in rows.items()}
    asked = sorted({each for several in ids.values() for each in several})
    found = {row["id"]: row for row in transaction.rows(_STATEMENTS["find_held"], ids=asked, now=now)}
    scratch = [name for name in rows if is_scratch(name)]
    uploads = transaction.rows(_STATEMENTS["find_held_scratch"], names=scratch, prefix=SCRATCH, now=now)
    held_uploads = {row["name"] for row in uploads}

    def is_held(name: str) -> bool:
        if name in held_uploads or any(found[each]["held"] for each in ids[name]):
            return True
        telling = {*rows[name], place_in(name)}
        is_known = is_scratch(name) or any(found[each]["known"] for each in telling if each in found)
        return bool(held["broad"]) and not is_known

    return {name for name in rows if is_held(name)}
