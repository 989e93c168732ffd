-- What the operators' page reads beside what the commands read. Nothing here writes.

-- name: newest_runs
-- Of each job named: its newest runs, the newest first, without those of single shards. Each job's are found by an index,
-- however many runs there are.
SELECT job.name AS job, run.id, run.status, run.dry_run, run.started_at, run.finished_at, run.counts
FROM unnest(CAST(:jobs AS text[])) AS job (name)
CROSS JOIN LATERAL (
    SELECT id, status, dry_run, started_at, finished_at, counts
    FROM maintenance.runs
    WHERE runs.job = job.name AND runs.shard = 0
    ORDER BY runs.started_at DESC, runs.id DESC
    LIMIT :each
) AS run
ORDER BY job.name, run.started_at DESC, run.id DESC;

-- name: for_a_person
-- How much there is that only a person can decide about or mend. (What is to be tried again is blocked in name only.)
SELECT
    (SELECT count(*) FROM maintenance.meter_sends WHERE state <> 'accepted' AND state IN ('rejected', 'expired'))
        AS dead_letters,
    (SELECT count(*) FROM maintenance.meter_sends
     WHERE state <> 'accepted' AND state = 'blocked' AND error_code IS DISTINCT FROM 'retry') AS blocked,
    (SELECT count(*) FROM maintenance.drift WHERE resolved_at IS NULL) AS drift,
    (SELECT count(*) FROM maintenance.object_deletions WHERE done_at IS NULL AND state = 'failed') AS objects_failed;

-- name: runs
-- The newest runs, of one job or of all, with one status or with any, from a run on backwards.
SELECT id, job, shard, trigger, status, dry_run, started_at, finished_at, counts, message
FROM maintenance.runs
WHERE (CAST(:job AS text) IS NULL OR job = :job)
  AND (CAST(:status AS text) IS NULL OR status = :status)
  AND (
      CAST(:before AS bigint) IS NULL
      OR (started_at, id) < (SELECT started_at, id FROM maintenance.runs WHERE id = CAST(:before AS bigint)))
ORDER BY started_at DESC, id DESC
LIMIT :limit;

-- name: over_time
-- What the runs of some jobs did since a time, in steps of so many seconds: a step has the longest duration, the sums of
-- what was done, and the highest of what waited. `figures` are the names of the gauges, `sums` of the counts that add up.
-- Dry runs are left out, unless report mode makes every run one; what is at work has no end yet.
WITH steps AS (
    SELECT
        job, counts,
        CAST(floor(extract(epoch FROM started_at) / CAST(:step AS integer)) AS bigint) * CAST(:step AS integer) AS at,
        extract(epoch FROM finished_at - started_at) AS seconds
    FROM maintenance.runs
    WHERE job = ANY (CAST(:jobs AS text[])) AND started_at >= :since AND finished_at IS NOT NULL
      AND dry_run = :dry_run AND status <> 'paused'
), figures AS (
    SELECT steps.job, steps.at, figure.key, figure.value
    FROM steps
    CROSS JOIN LATERAL (
        SELECT key, CAST(value AS double precision) AS value FROM jsonb_each(counts)
        WHERE jsonb_typeof(value) = 'number'
          AND (key = ANY (CAST(:figures AS text[])) OR key = ANY (CAST(:sums AS text[])))
    ) AS figure
)
SELECT job, at, 'seconds' AS figure, CAST(max(seconds) AS double precision) AS value
FROM steps
GROUP BY job, at
UNION ALL
SELECT job, at, key, CASE WHEN key = ANY (CAST(:sums AS text[])) THEN sum(value) ELSE max(value) END
FROM figures
GROUP BY job, at, key
ORDER BY at, job, figure;
