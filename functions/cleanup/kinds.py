"""What an object in the bucket is, and whether it may go. Pure decisions.

An object that a row of the service's names is content, whatever it is called, unless it is a ZIP that was unpacked.
What no row names is a conversion or upload scratch by its name, and otherwise, under the two prefixes that rows name
objects under, an orphan: the service deletes the rows of a job and leaves its objects.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from shared.bucket_calls import StoredObject

# The kinds, as the outbox knows them, and the counts that they are counted under.
KINDS = {
    "zip": "zips_cleaned",
    "conversion": "conversions_cleaned",
    "temp_upload": "temp_uploads_cleaned",
    "orphan": "orphans_cleaned",
}
_CONVERSION = re.compile(r"jobs/[^/]+/conversions/[^/]+\.pdf")
SCRATCH = "temp_uploads/"
_CONTENT = ("jobs/", "imports/")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Named:
    """The row that names an object: its id, its run, and whether it is a ZIP that was unpacked."""

    file_id: str
    run_id: str
    unpacked_zip: bool


@dataclass(frozen=True, slots=True)
class Ages:
    """What was created before these may go: by-products, and orphans."""

    artifacts_before: datetime
    orphans_before: datetime


def kind_of(found: StoredObject, named: Named | None, ages: Ages) -> str | None:
    """The kind of an object that goes; None where it stays."""
    if named is not None:
        kind = "zip" if named.unpacked_zip else None
    elif _CONVERSION.fullmatch(found.name):
        kind = "conversion"
    elif is_scratch(found.name):
        kind = "temp_upload"
    elif found.name.startswith(_CONTENT):
        kind = "orphan"
    else:
        kind = None
    before = ages.orphans_before if kind == "orphan" else ages.artifacts_before
    return kind if found.created_at < before else None


def ids_in(name: str) -> Iterator[str]:
    """The ids of jobs, runs and files that an object's name contains."""
    return (match.group() for match in _UUID.finditer(name))


def place_in(name: str) -> str | None:
    """The id of the job or the run that an object's name begins with, after the prefix."""
    parts = name.split("/", 2)
    return parts[1] if len(parts) == 3 and parts[0] + "/" in _CONTENT and _UUID.fullmatch(parts[1]) else None


def is_scratch(name: str) -> bool:
    """Whether a name is that of upload scratch: it begins with its user's id."""
    return name.startswith(SCRATCH)
