-- Conditions that the rules of several cleanups have in common. In all of them `run` is a job_runs row and `job` its
-- extraction job.

-- name: is_job_held
-- (a condition) Somebody said that the job, or everything of its user, must stay.
EXISTS (
    SELECT FROM maintenance.holds AS hold
    WHERE (hold.until IS NULL OR hold.until > :now)
      AND ((hold.scope = 'user' AND hold.subject = job.user_id)
           OR (hold.scope = 'job' AND hold.subject = CAST(job.id AS text))))

-- name: is_idle
-- (a condition) A job that goes once it has no runs: idle for long, without automations, and nobody holds it; of some, or
-- of all.
(job.last_active_at < :idle_before
 AND (CAST(:only_jobs AS uuid[]) IS NULL OR job.id = ANY (CAST(:only_jobs AS uuid[])))
 AND NOT EXISTS (SELECT FROM automations WHERE automations.job_id = job.id)
 AND NOT
    -- insert: is_job_held
)

-- name: is_held
-- (a condition) Somebody said that the run, its job, or everything of its user must stay.
(EXISTS (
    SELECT FROM maintenance.holds AS hold
    WHERE (hold.until IS NULL OR hold.until > :now)
      AND hold.scope = 'run' AND hold.subject = CAST(run.id AS text))
 OR
    -- insert: is_job_held
)

-- name: carries_an_automation
-- (a condition) The latest run of a job with an automation: the automation takes its fields and its template from it.
(EXISTS (SELECT FROM automations WHERE automations.job_id = run.job_id)
 AND NOT EXISTS (
     SELECT FROM job_runs AS later WHERE later.job_id = run.job_id AND later.created_at > run.created_at))
