"""A database in which every text that a page shows tries to be something else."""

from datetime import timedelta

from functions.registry import JOBS
from tests.support.clock import NOON
from tests.support.database import TestDatabase

# Markup, an attribute's end, a script's end, an address that runs, template code, a terminal's command, a turned line.
HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "'\"></td></script><!-- "
    "javascript:document.title='taken' {{ 7 * 7 }} {% raw %} \x1b[31m\x07 \u202eoff\u2066\n=1+1"
)
# What of it must stand in the text of a page, as text.
AS_TEXT = r"javascript:document.title='taken' {{ 7 * 7 }} {% raw %} \x1b[31m\x07 \u202eoff\u2066\n=1+1"
PERSON = "ann.smith@example.com"
# Addresses in other forms: a quoted name, what looks like a login, no dot, a wide and a small sign, an apostrophe.
PERSONS = (
    *(PERSON, '"ann smith"@example.com', "ann@evil.iam", "ann.smith@example-company.iam", "ann@example"),
    *("ann\N{FULLWIDTH COMMERCIAL AT}example.com", "ann\N{SMALL COMMERCIAL AT}example.com", "o'smith@example.com"),
    *("ann@[127.0.0.1]", "fn-period@bytereview-prod.iam.example.com", "ann@evilgserviceaccount.com"),
)


def add_hostile_names(database: TestDatabase) -> None:
    """Fill it, a row or two a table."""
    text = f"{' '.join(PERSONS)} {HOSTILE}"
    started = NOON - timedelta(hours=1)
    add = database.execute
    for job in (*JOBS, f"job {HOSTILE}"):
        add(
            "INSERT INTO maintenance.runs (job, trigger, status, dry_run, started_at, finished_at, deadline_at, "
            "counts, message, error_type, error_id, revision) VALUES (:job, 'cli', 'failed', false, :at, :at, :at, "
            "jsonb_build_object(CAST(:text AS text), CAST(:text AS text), 'failed_count', 3), :text, :text, :text, "
            ":text)",
            job=job,
            at=started,
            text=text,
        )
    add(
        "INSERT INTO maintenance.controls (job, paused_until, by, why) VALUES ('opt_out_cleanup', :at, :text, :text)",
        at=NOON + timedelta(days=1),
        text=text,
    )
    add(
        "INSERT INTO maintenance.meter_sends (usage_event_id, user_id, stripe_customer_id, identifier, occurred_at, "
        "value, state, error_code, error_message) "
        "VALUES (gen_random_uuid(), :text, :text, 'x', :at, 5, 'rejected', :text, :text)",
        at=started,
        text=text,
    )
    add(
        "INSERT INTO maintenance.drift (stripe_customer_id, period_start, period_end, ours, theirs, reason, seen_at) "
        "VALUES (:text, :at, :at, 1, 2, :text, :at)",
        at=started,
        text=text,
    )
    add(
        "INSERT INTO maintenance.holds (scope, subject, reason, by, created_at) "
        "VALUES ('user', :text, :text, :text, :at)",
        at=started,
        text=text,
    )
    add(
        "INSERT INTO maintenance.operator_actions (at, by, action, arguments, reason) "
        "VALUES (:at, :text, :text, jsonb_build_object(CAST(:text AS text), CAST(:text AS text)), :text)",
        at=started,
        text=text,
    )
    add(
        "INSERT INTO maintenance.object_deletions (bucket, object_name, kind, run_id, state, next_attempt_at, bytes, "
        "requested_at, error) VALUES (:text, :name, 'source', 1, 'failed', :at, 5, :at, :text)",
        at=started,
        text=text,
        name=f"users/secret-name-of-an-object {HOSTILE}",
    )
    add(
        "INSERT INTO maintenance.erasures (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at) VALUES "
        "(:text, 1, gen_random_uuid(), '\\x00', 'run', jsonb_build_object(CAST(:text AS text), 3), :at)",
        at=started,
        text=text,
    )
