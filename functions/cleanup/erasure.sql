-- The SQL of the erasure protocol, in the order in which one batch uses it. Locks are taken first, and everything is
-- decided in later statements: READ COMMITTED looks at a statement's own snapshot, so what is decided together with the
-- locking could miss what another session committed a moment ago.

-- name: missing_indexes
-- Which of the indexes are missing without which each erased run would scan whole tables.
SELECT wanted.host_table || '.' || wanted.host_column AS name
FROM (VALUES
    ('usage_events', 'task_id'), ('source_files_to_tasks', 'task_id'), ('job_runs', 'append_from_run_id')
) AS wanted (host_table, host_column)
WHERE NOT EXISTS (
    SELECT FROM pg_index
    JOIN pg_attribute AS attribute
        ON attribute.attrelid = pg_index.indrelid AND attribute.attnum = pg_index.indkey[0]
    WHERE pg_index.indrelid = to_regclass(wanted.host_table)
      AND attribute.attname = wanted.host_column
      AND pg_index.indisvalid AND pg_index.indpred IS NULL)
ORDER BY 1;

-- name: erasure_key
-- The key under which users' ids are hashed.
SELECT erasure_key FROM maintenance.identity;

-- name: run_pages
-- How many pages the table of runs has now.
SELECT pg_relation_size('job_runs') / CAST(current_setting('block_size') AS int) AS pages;

-- name: let_holds_wait
-- Whoever sets a hold waits for the batches at work (a trigger of maintenance.holds takes the same lock), and a batch sees
-- what was set before. So what its setter was told is held, is.
SELECT pg_advisory_xact_lock_shared(hashtext('maintenance.holds'), 0);

-- name: lock_jobs
-- First the jobs: from here on no run, and no automation, can be added to them. One that others hold is passed by.
SELECT CAST(id AS text) AS id FROM extraction_jobs WHERE id = ANY (CAST(:jobs AS uuid[])) ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: lock_runs
-- Then their runs: no step of the wizard, no task, no file and no automation run can be added to them.
SELECT CAST(id AS text) AS id FROM job_runs
WHERE id = ANY (CAST(:runs AS uuid[])) AND job_id = ANY (CAST(:jobs AS uuid[]))
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: lock_files
-- Then their files: no other run can link to them. How many of each run's were locked; one that others hold is passed by.
WITH locked AS MATERIALIZED (
    SELECT job_run_id FROM source_files WHERE job_run_id = ANY (CAST(:runs AS uuid[])) FOR UPDATE SKIP LOCKED
)
SELECT CAST(job_run_id AS text) AS run_id, count(*) AS files FROM locked GROUP BY job_run_id;

-- name: count_files
-- How many files each has, to know whether all of them are locked.
SELECT CAST(job_run_id AS text) AS run_id, count(*) AS files
FROM source_files
WHERE job_run_id = ANY (CAST(:runs AS uuid[]))
GROUP BY job_run_id;

-- name: find_shared
-- Which files of these runs are used by tasks of other runs: for each owner, together those that the same runs use. (Nearly
-- all links are to tasks of the file's own run. Those tasks are read by their run, as the deletion does it: to look each up
-- by its id would read a page of an index for each that nothing else here needs. The few others are looked up one by one,
-- because a join with them would read all tasks there are.)
WITH own AS MATERIALIZED (
    SELECT id, job_run_id FROM extraction_tasks WHERE job_run_id = ANY (CAST(:runs AS uuid[]))
), foreign_link AS MATERIALIZED (
    SELECT file.id AS file_id, file.job_run_id AS owner, link.task_id
    FROM source_files AS file
    JOIN source_files_to_tasks AS link ON link.source_file_id = file.id
    LEFT JOIN own ON own.id = link.task_id AND own.job_run_id = file.job_run_id
    WHERE file.job_run_id = ANY (CAST(:runs AS uuid[])) AND own.id IS NULL
)
SELECT owner, array_agg(file_id) AS files, users
FROM (
    SELECT CAST(use.owner AS text) AS owner, CAST(use.file_id AS text) AS file_id,
           array_agg(CAST(use.user_run AS text) ORDER BY use.user_run) AS users
    FROM (
        SELECT DISTINCT
            link.file_id, link.owner,
            (SELECT task.job_run_id FROM extraction_tasks AS task WHERE task.id = link.task_id) AS user_run
        FROM foreign_link AS link
    ) AS use
    GROUP BY use.owner, use.file_id
) AS used
GROUP BY owner, users;

-- name: find_users
-- What the runs are that use files of others. One that is deleted meanwhile took its links along.
SELECT CAST(id AS text) AS run, config_step = 'submitted' AS submitted, created_at
FROM job_runs
WHERE id = ANY (CAST(:runs AS uuid[]));

-- name: hold_new_owners
-- Keep the runs to which files move from being deleted meanwhile. One that is just being deleted is not given.
SELECT CAST(id AS text) AS id FROM job_runs WHERE id = ANY (CAST(:runs AS uuid[])) ORDER BY id FOR KEY SHARE SKIP LOCKED;

-- name: move_files
-- Move files to the runs that need them.
UPDATE source_files AS file
SET job_run_id = move.new_owner
FROM unnest(CAST(:files AS uuid[]), CAST(:new_owners AS uuid[])) AS move (file_id, new_owner)
WHERE file.id = move.file_id;

-- name: record_erasures
-- Write, for each run, the record of its erasure, and a row of the outbox for each of its objects: of files that moved
-- only their conversions, which lie under the old run's name.
WITH going AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:runs AS uuid[]), CAST(:hashes AS text[]), CAST(:extents AS text[]))
        AS going (job_run_id, user_hash, extent)
), moved AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:moved_files AS uuid[]), CAST(:moved_from AS uuid[])) AS moved (file_id, job_run_id)
), files AS (
    SELECT job_run_id, count(*) AS number FROM source_files
    WHERE job_run_id = ANY (CAST(:runs AS uuid[])) GROUP BY job_run_id
), tasks AS (
    SELECT task.job_run_id, count(DISTINCT task.id) AS number, count(DISTINCT result.task_id) AS results,
           count(link.task_id) AS links
    FROM extraction_tasks AS task
    LEFT JOIN extraction_results AS result ON result.task_id = task.id
    LEFT JOIN source_files_to_tasks AS link ON link.task_id = task.id
    WHERE task.job_run_id = ANY (CAST(:runs AS uuid[])) GROUP BY task.job_run_id
), fields AS (
    SELECT job_run_id, count(*) AS number FROM job_fields
    WHERE job_run_id = ANY (CAST(:runs AS uuid[])) GROUP BY job_run_id
), exports AS (
    SELECT job_run_id, count(*) AS number, count(*) FILTER (WHERE external_id IS NULL) AS downloads FROM job_exports
    WHERE job_run_id = ANY (CAST(:runs AS uuid[])) GROUP BY job_run_id
), firings AS (
    SELECT job_run_id, count(*) AS number FROM automation_runs
    WHERE job_run_id = ANY (CAST(:runs AS uuid[])) GROUP BY job_run_id
), erased AS (
    INSERT INTO maintenance.erasures
        (job, run_id, job_run_id, user_hash, extent, row_counts, erased_at, completed_at, copies)
    SELECT
        :job, :run_id, going.job_run_id, decode(going.user_hash, 'hex'), going.extent,
        jsonb_build_object(
            'job_runs', CASE going.extent WHEN 'run' THEN 1 ELSE 0 END,
            'source_files', coalesce(files.number, 0),
            'extraction_tasks', coalesce(tasks.number, 0),
            'extraction_results', coalesce(tasks.results, 0),
            'source_files_to_tasks', coalesce(tasks.links, 0),
            'job_fields', CASE going.extent WHEN 'run' THEN coalesce(fields.number, 0) ELSE 0 END,
            'job_exports', coalesce(CASE going.extent WHEN 'run' THEN exports.number ELSE exports.downloads END, 0),
            'automation_runs', CASE going.extent WHEN 'run' THEN coalesce(firings.number, 0) ELSE 0 END),
        :moment,
        CASE WHEN no_objects.sure THEN CAST(:moment AS timestamptz) END,
        CASE WHEN no_objects.sure THEN 'none' END
    FROM going
    LEFT JOIN files ON files.job_run_id = going.job_run_id
    LEFT JOIN tasks ON tasks.job_run_id = going.job_run_id
    LEFT JOIN fields ON fields.job_run_id = going.job_run_id
    LEFT JOIN exports ON exports.job_run_id = going.job_run_id
    LEFT JOIN firings ON firings.job_run_id = going.job_run_id
    CROSS JOIN LATERAL (
        SELECT files.number IS NULL
            AND NOT EXISTS (SELECT FROM moved WHERE moved.job_run_id = going.job_run_id) AS sure
    ) AS no_objects
    RETURNING id, job_run_id
)
INSERT INTO maintenance.object_deletions
    (bucket, object_name, kind, source_file_id, job_run_id, erasure_id, run_id, next_attempt_at, bytes, requested_at)
SELECT
    :bucket, file.gcs_object_name, 'source', file.id, file.job_run_id, erased.id, :run_id, :moment,
    file.file_size_bytes, :moment
FROM erased
JOIN source_files AS file ON file.job_run_id = erased.job_run_id
UNION ALL
SELECT
    :bucket, 'jobs/' || moved.job_run_id || '/conversions/' || moved.file_id || '.pdf', 'conversion', moved.file_id,
    moved.job_run_id, erased.id, :run_id, :moment, NULL, :moment
FROM erased
JOIN moved ON moved.job_run_id = erased.job_run_id;

-- name: delete_runs
-- Delete runs with all that hangs on them. Usage events stay: their task_id becomes NULL.
DELETE FROM job_runs WHERE id = ANY (CAST(:runs AS uuid[]));

-- name: delete_files
-- Delete the files of runs that stay themselves.
DELETE FROM source_files WHERE job_run_id = ANY (CAST(:runs AS uuid[]));

-- name: delete_tasks
-- Delete the tasks of runs that stay themselves, with results and links.
DELETE FROM extraction_tasks WHERE job_run_id = ANY (CAST(:runs AS uuid[]));

-- name: delete_exports
-- Delete the exports of runs that stay themselves, but for those that the next appended run updates.
DELETE FROM job_exports WHERE job_run_id = ANY (CAST(:runs AS uuid[])) AND external_id IS NULL;

-- name: is_idle_parent
-- (a condition) A job that goes, because it has no runs. (OFFSET 0 keeps that from becoming a join, for which all runs
-- may be read once for each batch.)
(
    -- insert: is_idle
 AND NOT EXISTS (SELECT FROM job_runs AS run WHERE run.job_id = job.id OFFSET 0))

-- name: find_idle_parents
-- Those of a range of pages that go, without a lock, in the order in which they lie on disk.
WITH job AS MATERIALIZED (
    SELECT *, ctid AS place FROM extraction_jobs WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid)
)
SELECT CAST(job.id AS text) AS id
FROM job
WHERE
    -- insert: is_idle_parent
ORDER BY job.place;

-- name: delete_parents
-- Delete, of these jobs, which are locked, those that go.
DELETE FROM extraction_jobs AS job
WHERE job.id = ANY (CAST(:jobs AS uuid[]))
  AND
    -- insert: is_idle_parent
;

-- name: count_emptied
-- For a dry run: how many jobs go once these runs are gone, with those that are empty already or without.
SELECT count(*) AS due
FROM extraction_jobs AS job
WHERE
    -- insert: is_idle
  AND (CAST(:with_empty AS boolean) OR EXISTS (SELECT FROM job_runs AS run WHERE run.job_id = job.id))
  AND NOT EXISTS (
      SELECT FROM job_runs AS run WHERE run.job_id = job.id AND run.id <> ALL (CAST(:gone AS uuid[])));
