"""The settings of the jobs that delete: what is kept how long, the bucket, and how much may go at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from shared.environ import fraction, number, text
from shared.errors import Misconfigured

_LONGEST_MONTHS, _LONGEST_DAYS = 1_200, 36_500
_LARGEST_FLOOR = 999_999_999


@dataclass(frozen=True)
class CleanupSettings:
    """What the environment says about deleting.

    `bucket` is None where it is not set: only a job that needs it misses it, and says so. `emulator_url` is the address
    of a stand-in for Google Cloud Storage. Of the guard: a cleanup that would delete more than `max_fraction` of its
    table and more than `max_floor` refuses; for orphans the same of the objects listed.
    """

    bucket: str | None
    emulator_url: str | None
    counter_months: int
    abandoned_after: timedelta
    artifact_retention: timedelta
    orphan_age: timedelta
    opt_out_grace: timedelta
    max_fraction: float
    max_floor: int
    orphan_max_fraction: float
    orphan_max_floor: int


def cleanup_settings(environ: Mapping[str, str]) -> CleanupSettings:
    """Read the settings. Raises Misconfigured for the first one that is malformed; a missing one is no error yet."""
    return CleanupSettings(
        bucket=bucket_name(environ),
        emulator_url=_emulator_url(environ),
        counter_months=number(environ, "USAGE_COUNTER_RETENTION_MONTHS", 13, 1, _LONGEST_MONTHS),
        abandoned_after=_days(environ, "ABANDONED_AFTER_DAYS", 30),
        artifact_retention=_days(environ, "ARTIFACT_RETENTION_DAYS", 7),
        orphan_age=_days(environ, "ORPHAN_AGE_DAYS", 14),
        opt_out_grace=_days(environ, "OPT_OUT_GRACE_DAYS", 7),
        max_fraction=fraction(environ, "MAX_DELETE_FRACTION", 0.5),
        max_floor=number(environ, "MAX_DELETE_FLOOR", 1_000, 0, _LARGEST_FLOOR),
        orphan_max_fraction=fraction(environ, "ORPHAN_MAX_FRACTION", 0.05),
        orphan_max_floor=number(environ, "ORPHAN_MAX_FLOOR", 20, 0, _LARGEST_FLOOR),
    )


def bucket_name(environ: Mapping[str, str]) -> str | None:
    """GCS_BUCKET_NAME, or None. Raises Misconfigured for what is no bucket's name ("Bucket names", Google Cloud)."""
    name = text(environ, "GCS_BUCKET_NAME")
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", name, re.ASCII):
        raise Misconfigured("GCS_BUCKET_NAME", "GCS_BUCKET_NAME must be the bucket's name alone, such as files-prod.")
    return name


def _days(environ: Mapping[str, str], name: str, default: int) -> timedelta:
    return timedelta(days=number(environ, name, default, 1, _LONGEST_DAYS))


def _emulator_url(environ: Mapping[str, str]) -> str | None:
    value = text(environ, "STORAGE_EMULATOR_HOST")
    if value is None:
        return None
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        well_formed = False
    if not well_formed:
        raise Misconfigured("STORAGE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST must look like http://127.0.0.1:9023.")
    return url.rstrip("/")
