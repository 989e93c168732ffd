-- What an operator looks at. Nothing here writes.

-- name: last_runs
-- Of each job named: the newest run that is none of a dry run (or is one, in report mode); how the newest of these ended that
-- was not held by a pause; the one that is running now; and the pause in force, if any. A shard alone says nothing about how
-- the job is, but it is at work.
SELECT
    job.name AS job, last.id, last.status, last.started_at, last.finished_at, last.counts, last.message,
    worked.status AS worked_status,
    running.id AS running_id, running.started_at AS running_since, running.deadline_at AS running_until,
    controls.paused_until, controls.by AS paused_by, controls.why AS paused_why
FROM unnest(CAST(:jobs AS text[])) AS job (name)
LEFT JOIN LATERAL (
    SELECT id, status, started_at, finished_at, counts, message
    FROM maintenance.runs
    WHERE runs.job = job.name AND runs.dry_run = :dry_run AND runs.shard = 0
    ORDER BY runs.started_at DESC, runs.id DESC
    LIMIT 1
) AS last ON true
LEFT JOIN LATERAL (
    SELECT status
    FROM maintenance.runs
    WHERE runs.job = job.name AND runs.dry_run = :dry_run AND runs.shard = 0 AND runs.status <> 'paused'
    ORDER BY runs.started_at DESC, runs.id DESC
    LIMIT 1
) AS worked ON true
LEFT JOIN LATERAL (
    SELECT id, started_at, deadline_at
    FROM maintenance.runs
    WHERE runs.job = job.name AND runs.status = 'running'
    ORDER BY runs.id DESC
    LIMIT 1
) AS running ON true
LEFT JOIN maintenance.controls ON controls.job = job.name AND controls.paused_until > :now;

-- name: history
-- The newest runs, of one job or of all.
SELECT id, job, shard, slot, trigger, status, dry_run, started_at, finished_at, counts, message
FROM maintenance.runs
WHERE CAST(:job AS text) IS NULL OR job = :job
ORDER BY started_at DESC, id DESC
LIMIT :limit;

-- name: run
-- Everything about one run.
SELECT id, job, shard, slot, step, trigger, status, dry_run, started_at, finished_at, deadline_at, counts, message,
    error_type, error_id, revision
FROM maintenance.runs
WHERE id = :id;

-- name: actions
-- What was done by hand, the newest first.
SELECT id, at, by, action, arguments, reason
FROM maintenance.operator_actions
ORDER BY id DESC
LIMIT :limit;
