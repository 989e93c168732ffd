-- What an operator looks at. Nothing here writes.

-- name: last_runs
-- The newest run of each job that is none of a dry run, and the one that is running now, if any.
SELECT DISTINCT ON (runs.job)
    runs.job, runs.id, runs.status, runs.started_at, running.id AS running_id, running.started_at AS running_since
FROM maintenance.runs
LEFT JOIN LATERAL (
    SELECT id, started_at FROM maintenance.runs AS other
    WHERE other.job = runs.job AND other.status = 'running'
    ORDER BY id DESC LIMIT 1
) AS running ON true
WHERE runs.dry_run = :dry_run
ORDER BY runs.job, runs.started_at DESC, runs.id DESC;

-- name: history
-- The newest runs, of one job or of all.
SELECT id, job, slot, trigger, status, dry_run, started_at, finished_at, counts, message
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
