"""Runs with all that hangs on them, to measure erasures with: made in the database by one statement a table.

Jobs have two runs each. All rows lie in the order in which the service wrote them; keys are hashes, as random in their
order as the service's own. Every fourth job was given up long ago by a user who keeps nothing: its runs are due for
abandoned_cleanup and opt_out_cleanup alike. Every tenth job's second run was appended to its first, and uses its files.
Every fiftieth job has an automation; those jobs are in use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, text

from benchmarks.arena import Arena, connected
from ops.host_indexes import build_host_indexes
from shared.clock import SystemClock
from shared.database_url import database_target

ONE_DUE_OF = 4
FILES_A_RUN = 4
_USERS = 50_000

# `n` is the number of a run, from 1, `job` that of its job, `i` that of a file and of its task, from 0.
_WITH = """
WITH runs AS (
    SELECT
        n, (n + 1) / 2 AS job, mod((n + 1) / 2, :one_due_of) = 0 AS due,
        mod((n + 1) / 2, 10) = 0 AND mod(n, 2) = 0 AS appended,
        CAST(:now AS timestamptz) - interval '90 days' + n * interval '1 second' AS created_at
    FROM generate_series(1, CAST(:runs AS integer)) AS n
), files AS (
    SELECT i, i / :files + 1 AS n, (i / :files + 2) / 2 AS job
    FROM generate_series(0, CAST(:runs AS integer) * :files - 1) AS i
)
"""
_STATEMENTS = (
    "INSERT INTO data_types (id, display_name) SELECT 'text', 'Text'",
    """
    INSERT INTO extraction_jobs (id, name, user_id, last_active_at, created_at)
    SELECT
        CAST(md5('job' || job) AS uuid), 'Invoices ' || job,
        md5('free, not due-' || 1 + mod(job, :users)),
        CAST(:now AS timestamptz) - CASE WHEN due THEN interval '45 days' ELSE interval '1 day' END, created_at
    FROM runs WHERE mod(n, 2) = 1
    """,
    """
    INSERT INTO job_runs (
        id, job_id, append_from_run_id, config_step, status, tasks_total, tasks_completed, persist_data,
        last_active_at, created_at, completed_at)
    SELECT
        CAST(md5('run' || n) AS uuid), CAST(md5('job' || job) AS uuid),
        CASE WHEN appended THEN CAST(md5('run' || n - 1) AS uuid) END,
        CASE WHEN due THEN 'review' ELSE 'submitted' END, CASE WHEN due THEN 'cancelled' ELSE 'completed' END,
        :files, :files, NOT due,
        CAST(:now AS timestamptz) - CASE WHEN due THEN interval '45 days' ELSE interval '1 day' END,
        created_at, CASE WHEN NOT due THEN created_at + interval '1 minute' END
    FROM runs
    """,
    """
    INSERT INTO job_fields (id, job_run_id, field_name, data_type_id, ai_prompt, display_order)
    SELECT
        CAST(md5('field' || n || '-' || place) AS uuid), CAST(md5('run' || n) AS uuid), 'Field ' || place, 'text',
        'The total of the invoice with tax, as a number with two decimals', place
    FROM (SELECT i / 3 + 1 AS n, mod(i, 3) AS place FROM generate_series(0, :runs * 3 - 1) AS i) AS fields
    """,
    """
    INSERT INTO job_exports (id, job_run_id, dest_type, file_type, status)
    SELECT CAST(md5('export' || n) AS uuid), CAST(md5('run' || n) AS uuid), 'download', 'csv', 'completed' FROM runs
    """,
    """
    INSERT INTO source_files (
        id, job_run_id, original_filename, original_path, gcs_object_name, file_type, file_size_bytes, page_count,
        status, source_type)
    SELECT
        CAST(md5('file' || i) AS uuid), CAST(md5('run' || n) AS uuid), 'invoice ' || i || '.pdf',
        'invoices/2026/invoice ' || i || '.pdf',
        'jobs/' || CAST(md5('job' || job) AS uuid) || '/runs/' || CAST(md5('run' || n) AS uuid) || '/'
            || CAST(md5('file' || i) AS uuid) || '.pdf',
        'application/pdf', 100000 + mod(i, 900000), 3, 'uploaded', 'upload'
    FROM files
    """,
    """
    INSERT INTO extraction_tasks (id, job_run_id, processing_mode, status, processed_at)
    SELECT CAST(md5('task' || i) AS uuid), CAST(md5('run' || n) AS uuid), 'individual', 'completed', :now FROM files
    """,
    """
    INSERT INTO source_files_to_tasks (source_file_id, task_id)
    SELECT CAST(md5('file' || i) AS uuid), CAST(md5('task' || i) AS uuid) FROM files
    """,
    """
    INSERT INTO source_files_to_tasks (source_file_id, task_id)
    SELECT CAST(md5('file' || i - :files) AS uuid), CAST(md5('task' || i) AS uuid)
    FROM files JOIN runs USING (n) WHERE appended
    """,
    """
    INSERT INTO extraction_results (id, task_id, extracted_data)
    SELECT
        CAST(md5('result' || i) AS uuid), CAST(md5('task' || i) AS uuid),
        jsonb_build_object('number', md5('a' || i), 'supplier', md5('b' || i), 'total', i, 'lines', jsonb_build_array(
            jsonb_build_object('text', md5('c' || i), 'price', i),
            jsonb_build_object('text', md5('d' || i), 'price', i)))
    FROM files
    """,
    """
    INSERT INTO usage_events (id, user_id, source, task_id, pages, stripe_reported)
    SELECT
        CAST(md5('event' || i) AS uuid), md5('free, not due-' || 1 + mod(job, :users)), 'extraction',
        CAST(md5('task' || i) AS uuid), 3, true
    FROM files
    """,
    """
    INSERT INTO automations (id, user_id, name, trigger_type, trigger_config, job_id, processing_mode)
    SELECT
        CAST(md5('automation' || job) AS uuid), md5('free, not due-' || 1 + mod(job, :users)), 'Mail ' || job, 'gmail',
        '{"query": "from:billing@example.com has:attachment"}', CAST(md5('job' || job) AS uuid), 'individual'
    FROM runs WHERE mod(n, 2) = 1 AND mod(job, 50) = 1
    """,
    """
    INSERT INTO automation_runs (automation_id, job_run_id, status)
    SELECT CAST(md5('automation' || job) AS uuid), CAST(md5('run' || n) AS uuid), 'completed'
    FROM runs WHERE mod(job, 50) = 1
    """,
)


@contextmanager
def runs_template(arena: Arena, name: str, runs: int) -> Iterator[str]:
    """A database with so many runs, to be copied, with the indexes that `ops migrate` builds; gives its name."""
    with arena.template(name, {"free, not due": _USERS}) as template:
        url = arena.url_of(name)
        with connected(url) as connection, connection.begin():
            # The rows fit together as they are made.
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            _add_runs(connection, runs, SystemClock().now())
        build_host_indexes(database_target({"DATABASE_URL": url}))
        with connected(url, autocommit=True) as connection:
            connection.execute(text("VACUUM (ANALYZE, FREEZE)"))
        yield template


def _add_runs(connection: Connection, runs: int, now: datetime) -> None:
    parameters = {
        "runs": runs,
        "now": now,
        "users": _USERS,
        "files": FILES_A_RUN,
        "one_due_of": ONE_DUE_OF,
    }
    for statement in _STATEMENTS:
        connection.execute(text(_WITH + statement), parameters)
