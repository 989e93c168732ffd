-- Which runs go: counted, found and, under the locks, decided by the one rule of a job, `is_due`, whose file is read
-- before this one.

-- name: count_due
-- How many runs there are, how many go, and how many of those are held.
SELECT
    (SELECT count(*) FROM job_runs) AS total,
    count(*) FILTER (WHERE NOT
    -- insert: is_held
    ) AS due,
    count(*) FILTER (WHERE
    -- insert: is_held
    ) AS held
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE
    -- insert: is_due
;

-- name: count_due_parents
-- How many jobs there are, and how many of them are empty, or will be when all runs that are due are gone.
SELECT
    (SELECT count(*) FROM extraction_jobs) AS total,
    count(*) AS due
FROM extraction_jobs AS job
WHERE
    -- insert: is_idle
  AND NOT EXISTS (
      SELECT FROM job_runs AS run
      WHERE run.job_id = job.id
        AND NOT (
    -- insert: is_due
        AND NOT
    -- insert: is_held
        ));

-- name: find_due
-- Those of a range of pages that go, in the order in which they lie on disk. (The range first, whatever the planner
-- expects of the rest: an index on something else has the rows of all other ranges too.)
WITH run AS MATERIALIZED (
    SELECT *, ctid AS place FROM job_runs WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid)
)
SELECT
    CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id,
    (SELECT count(*) FROM source_files WHERE source_files.job_run_id = run.id) AS files
FROM run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE
    -- insert: is_due
  AND NOT
    -- insert: is_held
ORDER BY run.place;

-- name: decide_due
-- Of these runs, which are locked, those that still go, and whether as a whole. (These first, as above.)
WITH run AS MATERIALIZED (
    SELECT * FROM job_runs WHERE id = ANY (CAST(:runs AS uuid[]))
)
SELECT CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id, job.user_id,
    -- insert: goes_whole
    AS whole
FROM run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE
    -- insert: is_due
  AND NOT
    -- insert: is_held
;
