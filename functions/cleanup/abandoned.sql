-- Which runs abandoned_cleanup erases.

-- name: is_due
-- (a condition) Never submitted, idle for long, and no automation needs it or is filling it. (OFFSET 0 keeps the last of
-- these from becoming a join, for which all automation runs may be read once for each run.)
(run.config_step <> 'submitted'
 AND run.status IN ('pending', 'cancelled')
 AND run.last_active_at < :drafted_before
 AND NOT
    -- insert: carries_an_automation
 AND NOT EXISTS (
     SELECT FROM automation_runs
     WHERE automation_runs.job_run_id = run.id AND automation_runs.status IN ('pending', 'running')
     OFFSET 0))

-- name: goes_whole
-- (a condition) Each goes as a whole.
true
