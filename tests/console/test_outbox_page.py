"""The page of the outbox, where some of it is in a bucket that no run looks into."""

from datetime import timedelta

from tests.console.serving import Console
from tests.support.clock import NOON
from tests.support.database import TestDatabase


def test_what_is_in_another_bucket_has_no_next_try(console: Console, database: TestDatabase) -> None:
    database.execute("UPDATE maintenance.identity SET bucket = 'ours'")
    for bucket, minutes in (("ours", 7), ("another", 11)):
        database.execute(
            "INSERT INTO maintenance.object_deletions "
            "(bucket, object_name, kind, run_id, next_attempt_at, requested_at) "
            "VALUES (:bucket, 'x', 'orphan', 1, :next, :now)",
            bucket=bucket,
            next=NOON + timedelta(minutes=minutes),
            now=NOON,
        )
    page = console.page("/outbox")
    assert ("12:07" in page, "12:11" in page) == (True, False)
    assert "is never tried: it has no next try here" in page
    database.execute("DELETE FROM maintenance.object_deletions WHERE bucket = 'another'")
    assert "is never tried" not in console.page("/outbox")
