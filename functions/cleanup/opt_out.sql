-- Which runs opt_out_cleanup erases.

-- name: is_due
-- (a condition) Not to be kept, and over: submitted and ended, or given up. Of the run that an automation lives on only
-- the content goes; once it has none, nothing is left to do.
(NOT run.persist_data
 AND CASE
     WHEN run.config_step = 'submitted' THEN
         run.status IN ('completed', 'partially_completed', 'failed', 'cancelled')
         AND coalesce(run.completed_at, run.last_active_at) < :ended_before
     ELSE run.status = 'cancelled' AND run.last_active_at < :cancelled_before
     END
 AND (NOT
    -- insert: carries_an_automation
      OR EXISTS (SELECT FROM source_files WHERE source_files.job_run_id = run.id)
      OR EXISTS (SELECT FROM extraction_tasks WHERE extraction_tasks.job_run_id = run.id)))

-- name: goes_whole
-- (a condition) But for the run that an automation lives on.
NOT
    -- insert: carries_an_automation
