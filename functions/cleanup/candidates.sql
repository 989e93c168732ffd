-- Who goes, for abandoned_cleanup and opt_out_cleanup. Each rule stands here once, and is used to count, to find and, under
-- the locks, to decide. In all of them `run` is a job_runs row and `job` its extraction job.

-- name: is_held
-- (a condition) Somebody said that it must stay.
EXISTS (
    SELECT FROM maintenance.holds AS hold
    WHERE (hold.until IS NULL OR hold.until > :now)
      AND ((hold.scope = 'user' AND hold.subject = job.user_id)
           OR (hold.scope = 'job' AND hold.subject = CAST(job.id AS text))
           OR (hold.scope = 'run' AND hold.subject = CAST(run.id AS text))))

-- name: carries_an_automation
-- (a condition) The latest run of a job with an automation: the automation takes its fields and its template from it.
(EXISTS (SELECT FROM automations WHERE automations.job_id = run.job_id)
 AND NOT EXISTS (
     SELECT FROM job_runs AS later WHERE later.job_id = run.job_id AND later.created_at > run.created_at))

-- name: is_abandoned
-- (a condition) Never submitted, idle for long, and no automation needs it or is filling it.
(run.config_step <> 'submitted'
 AND run.status IN ('pending', 'cancelled')
 AND run.last_active_at < :idle_before
 AND NOT
    -- insert: carries_an_automation
 AND NOT EXISTS (
     SELECT FROM automation_runs
     WHERE automation_runs.job_run_id = run.id AND automation_runs.status IN ('pending', 'running')))

-- name: is_opted_out
-- (a condition) Not to be kept, and over: submitted and ended, or given up. Of the run that an automation lives on only
-- the content goes; once it has none, nothing is left to do.
(NOT run.persist_data
 AND CASE
     WHEN run.config_step = 'submitted' THEN
         run.status IN ('completed', 'partially_completed', 'failed', 'cancelled')
         AND coalesce(run.completed_at, run.last_active_at) < :ended_before
     ELSE run.status = 'cancelled' AND run.last_active_at < :idle_before
     END
 AND (NOT
    -- insert: carries_an_automation
      OR EXISTS (SELECT FROM source_files WHERE source_files.job_run_id = run.id)
      OR EXISTS (SELECT FROM extraction_tasks WHERE extraction_tasks.job_run_id = run.id)))

-- name: count_abandoned
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
    -- insert: is_abandoned
;

-- name: find_abandoned
-- Those of a range of pages that go, in the order in which they lie on disk.
SELECT CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE run.ctid >= CAST(:first AS tid) AND run.ctid < CAST(:beyond AS tid)
  AND
    -- insert: is_abandoned
  AND NOT
    -- insert: is_held
ORDER BY run.ctid;

-- name: decide_abandoned
-- Of these runs, which are locked, those that still go; as a whole, all of them.
SELECT CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id, job.user_id, true AS whole,
       run.config_step = 'submitted' AS submitted
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE run.id = ANY (CAST(:runs AS uuid[]))
  AND
    -- insert: is_abandoned
  AND NOT
    -- insert: is_held
;

-- name: count_opted_out
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
    -- insert: is_opted_out
;

-- name: find_opted_out
-- Those of a range of pages that go, in the order in which they lie on disk.
SELECT CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE run.ctid >= CAST(:first AS tid) AND run.ctid < CAST(:beyond AS tid)
  AND
    -- insert: is_opted_out
  AND NOT
    -- insert: is_held
ORDER BY run.ctid;

-- name: decide_opted_out
-- Of these runs, which are locked, those that still go, and whether as a whole.
SELECT CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id, job.user_id,
       run.config_step = 'submitted' AS submitted,
       NOT
    -- insert: carries_an_automation
       AS whole
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE run.id = ANY (CAST(:runs AS uuid[]))
  AND
    -- insert: is_opted_out
  AND NOT
    -- insert: is_held
;
