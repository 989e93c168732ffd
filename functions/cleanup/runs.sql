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

-- name: find_due
-- Those of a range of pages that go, in the order in which they lie on disk.
SELECT CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE run.ctid >= CAST(:first AS tid) AND run.ctid < CAST(:beyond AS tid)
  AND
    -- insert: is_due
  AND NOT
    -- insert: is_held
ORDER BY run.ctid;

-- name: decide_due
-- Of these runs, which are locked, those that still go, and whether as a whole.
SELECT CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id, job.user_id,
    -- insert: goes_whole
    AS whole
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE run.id = ANY (CAST(:runs AS uuid[]))
  AND
    -- insert: is_due
  AND NOT
    -- insert: is_held
;
