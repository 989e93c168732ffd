-- Which runs an erasure on request takes.

-- name: is_asked_for
-- (a condition) Of the user, or the one run; what is not named is NULL, and equals nothing. Once it was looked at, only
-- what was seen then.
((job.user_id = CAST(:asked_user AS text) OR run.id = CAST(:asked_run AS uuid))
 AND (CAST(:only_runs AS uuid[]) IS NULL OR run.id = ANY (CAST(:only_runs AS uuid[]))))

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
-- Each run that was asked for: whether it `goes`, and if so whether only its content does; with its files, and if it stays
-- the holds that keep it, or whether somebody works on it.
SELECT
    CAST(run.id AS text) AS id, CAST(run.job_id AS text) AS job_id, job.user_id,
    (
    -- insert: is_due
     AND NOT
    -- insert: is_held
    ) AS goes,
    (
    -- insert: carries_an_automation
    ) AS carries,
    NOT (
    -- insert: is_at_rest
    ) AS unfinished,
    ARRAY(
        SELECT hold.id
        FROM maintenance.holds AS hold
        WHERE (hold.until IS NULL OR hold.until > :now)
          AND (hold.scope = 'user' AND hold.subject = job.user_id
               OR hold.scope = 'job' AND hold.subject = CAST(job.id AS text)
               OR hold.scope = 'run' AND hold.subject = CAST(run.id AS text))
        ORDER BY hold.id) AS holds,
    (SELECT count(*) FROM source_files AS file WHERE file.job_run_id = run.id) AS files,
    (SELECT CAST(coalesce(sum(file.file_size_bytes), 0) AS bigint) FROM source_files AS file
     WHERE file.job_run_id = run.id) AS bytes
FROM job_runs AS run
JOIN extraction_jobs AS job ON job.id = run.job_id
WHERE
    -- insert: is_asked_for
ORDER BY run.created_at, run.id;

-- name: jobs_left_empty
-- The user's extraction jobs that are empty, or will be without these runs, and that nothing keeps.
SELECT CAST(job.id AS text) AS id
FROM extraction_jobs AS job
WHERE job.user_id = CAST(:asked_user AS text)
  AND NOT EXISTS (SELECT FROM automations WHERE automations.job_id = job.id)
  AND NOT
    -- insert: is_job_held
  AND NOT EXISTS (
      SELECT FROM job_runs AS run WHERE run.job_id = job.id AND run.id <> ALL (CAST(:runs AS uuid[])))
ORDER BY job.id;

-- name: open_objects
-- Objects of what was erased earlier, of this user or this run, that have not left the bucket.
SELECT deletion.id
FROM maintenance.erasures AS erasure
JOIN maintenance.object_deletions AS deletion ON deletion.erasure_id = erasure.id
WHERE (erasure.user_hash = decode(CAST(:user_hash AS text), 'hex') OR erasure.job_run_id = CAST(:asked_run AS uuid))
  AND deletion.done_at IS NULL
ORDER BY deletion.id;

-- name: take_over_objects
-- Let this run take objects of earlier ones, now.
UPDATE maintenance.object_deletions
SET run_id = :run_id, next_attempt_at = :moment
WHERE id = ANY (CAST(:ids AS bigint[])) AND done_at IS NULL;

-- name: is_user_here
-- Whether there is such a user.
SELECT FROM users WHERE id = :asked_user;
