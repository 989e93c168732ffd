-- Which runs an erasure on request takes.

-- name: is_asked_for
-- (a condition) Of the user, or the one run. What is not named is NULL, and equals nothing.
(job.user_id = CAST(:asked_user AS text) OR run.id = CAST(:asked_run AS uuid))

-- name: is_at_rest
-- (a condition) Nobody but its owner works on it: submitted and ended, or a draft that no automation is filling.
CASE
WHEN run.config_step = 'submitted' THEN run.status IN ('completed', 'partially_completed', 'failed', 'cancelled')
ELSE NOT EXISTS (
    SELECT FROM automation_runs
    WHERE automation_runs.job_run_id = run.id AND automation_runs.status IN ('pending', 'running'))
END

-- name: is_due
-- (a condition) Asked for, and at rest. Of the run that an automation lives on only the content goes; once it has none,
-- nothing is left to do.
(
    -- insert: is_asked_for
 AND
    -- insert: is_at_rest
 AND (NOT
    -- insert: carries_an_automation
      OR EXISTS (SELECT FROM source_files WHERE source_files.job_run_id = run.id)
      OR EXISTS (SELECT FROM extraction_tasks WHERE extraction_tasks.job_run_id = run.id)))

-- name: goes_whole
-- (a condition) But for the run that an automation lives on.
NOT
    -- insert: carries_an_automation

-- name: what_is_asked_for
-- How many runs were asked for, how many of them are still worked on (and of those, how many are held besides), and of
-- those that would go: of how many only the content, with how many files of how many bytes.
SELECT
    count(*) AS runs,
    count(*) FILTER (WHERE NOT
    -- insert: is_at_rest
    ) AS unfinished,
    count(*) FILTER (WHERE NOT
    -- insert: is_at_rest
        AND
    -- insert: is_held
    ) AS unfinished_held,
    count(*) FILTER (WHERE goes.goes AND
    -- insert: carries_an_automation
    ) AS content_only,
    CAST(coalesce(sum(files.number) FILTER (WHERE goes.goes), 0) AS bigint) AS files,
    CAST(coalesce(sum(files.bytes) FILTER (WHERE goes.goes), 0) AS bigint) AS bytes
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
CROSS JOIN LATERAL (
    SELECT
    -- insert: is_due
        AND NOT
    -- insert: is_held
        AS goes
) AS goes
LEFT JOIN LATERAL (
    SELECT count(*) AS number, sum(file_size_bytes) AS bytes FROM source_files WHERE source_files.job_run_id = run.id
) AS files ON true
WHERE
    -- insert: is_asked_for
;

-- name: what_stays
-- Of the runs that were asked for, some of those that stay: each with the holds that keep it, or none where it is only
-- still worked on.
SELECT CAST(run.id AS text) AS run, ARRAY(
    SELECT hold.id
    FROM maintenance.holds AS hold
    WHERE (hold.until IS NULL OR hold.until > :now)
      AND (hold.scope = 'user' AND hold.subject = job.user_id
           OR hold.scope = 'job' AND hold.subject = CAST(job.id AS text)
           OR hold.scope = 'run' AND hold.subject = CAST(run.id AS text))
    ORDER BY hold.id) AS holds
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE
    -- insert: is_asked_for
  AND (NOT
    -- insert: is_at_rest
       OR (
    -- insert: is_due
       AND
    -- insert: is_held
       ))
ORDER BY run.created_at, run.id
LIMIT :limit;
