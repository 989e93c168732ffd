-- The SQL of the guards and the ledger. Each job has a file like this one for its own.
-- The schema `maintenance` is ours; see migrations/.

-- name: start_state
-- What a run must know before it starts: the schema's version, whose database this is, and whether the job is paused.
SELECT
    (SELECT max(version_num) FROM maintenance.alembic_version) AS schema_version,
    identity.instance, identity.database, identity.bound_at, identity.livemode, identity.bucket,
    controls.paused_until, controls.by, controls.why
FROM (SELECT 1) AS always
LEFT JOIN maintenance.identity ON true
LEFT JOIN maintenance.controls ON controls.job = :job AND controls.paused_until > :now;

-- name: slot_attempts
-- Every recorded attempt at one firing of a job, or at some of its shards, oldest first.
SELECT id, shard, step, status, counts, message, started_at, finished_at
FROM maintenance.runs
WHERE job = :job AND shard = ANY (CAST(:shards AS integer[])) AND slot = :slot AND NOT dry_run
ORDER BY id;

-- name: running
-- What is running at this moment, of one job or of all, shards and the newest first: a busy answer names it.
SELECT id, job, trigger, started_at
FROM maintenance.runs
WHERE status = 'running'
  AND (CAST(:job AS text) IS NULL OR (job = :job AND shard = ANY (CAST(:shards AS integer[]))))
ORDER BY shard DESC, id DESC
LIMIT 20;

-- name: insert_run
-- Record a run. Its id is its fencing token. For the rest of the transaction, which raises the fence, a lock is waited
-- for longer than idle_in_transaction_session_timeout: by then the server has ended a stopped process's transaction.
INSERT INTO maintenance.runs
    (job, shard, slot, step, trigger, status, dry_run, started_at, finished_at, deadline_at, counts, message, revision)
VALUES
    (:job, :shard, :slot, :step, :trigger, :status, :dry_run, :started_at, :finished_at, :deadline_at,
     CAST(:counts AS jsonb), :message, :revision)
RETURNING id, set_config('lock_timeout', '15s', true);

-- name: raise_fence
-- Make this run the one that may write, for one shard or for several; with `every`, for each that the job ever had: there
-- may have been more. It only ever rises: a shard that a newer run holds already is not among the `raised`. Waits for the
-- transactions of an older run that hold the row FOR SHARE.
WITH wanted AS MATERIALIZED (
    SELECT shard FROM unnest(CAST(:shards AS integer[])) AS shard
    UNION
    SELECT shard FROM maintenance.fences WHERE job = :job AND CAST(:every AS boolean)
), raised AS (
    INSERT INTO maintenance.fences AS fence (job, shard, run_id)
    SELECT :job, shard, :run_id FROM wanted ORDER BY shard
    ON CONFLICT (job, shard) DO UPDATE SET run_id = excluded.run_id WHERE fence.run_id < excluded.run_id
    RETURNING shard
)
SELECT
    ARRAY(SELECT shard FROM raised ORDER BY shard) AS raised,
    ARRAY(SELECT shard FROM wanted ORDER BY shard) AS wanted;

-- name: close_older_runs
-- Close older runs that never ended as lost: their process died, or lives on and will find itself fenced. A statement of
-- its own, because the one that raises the fence does not see a run that was recorded while it waited.
UPDATE maintenance.runs
SET status = 'lost', finished_at = :now,
    message = 'Ended without a word; run ' || CAST(:run_id AS bigint) || ' took over.'
WHERE job = :job AND shard = ANY (CAST(:shards AS integer[])) AND status = 'running' AND id < :run_id;

-- name: other_division
-- Whether a shard of a job is at work that is one of another number of shards than this.
SELECT EXISTS (
    SELECT FROM maintenance.runs
    WHERE job = :job AND status = 'running' AND shard > 0 AND CAST(counts ->> :of_shards AS integer) <> :of) AS is_there;

-- name: hold_fence
-- Hold the fence for one transaction: where a shard's row is missing, no write. Nobody can take over before this
-- transaction ends.
SELECT run_id FROM maintenance.fences
WHERE job = :job AND shard = ANY (CAST(:shards AS integer[])) AND run_id = :run_id
FOR SHARE;

-- name: hold_fence_lightly
-- The same, and let this transaction's commit not wait for the disk. Only for work that is simply done again when it is
-- lost.
SELECT run_id, set_config('synchronous_commit', 'off', true) FROM maintenance.fences
WHERE job = :job AND shard = ANY (CAST(:shards AS integer[])) AND run_id = :run_id
FOR SHARE;

-- name: save_counts
-- What a run has done so far, in the same transaction as the work itself, so that a kill loses neither without the other.
UPDATE maintenance.runs SET counts = CAST(:counts AS jsonb) WHERE id = :run_id AND status = 'running';

-- name: saved_counts
-- What a run has on record as done. Held to the end of the transaction that closes it.
SELECT counts FROM maintenance.runs WHERE id = :run_id AND status = 'running' FOR UPDATE;

-- name: finish_run
-- Close a run. No row is touched when a newer run has closed it as lost.
UPDATE maintenance.runs
SET status = :status, finished_at = :finished_at, counts = CAST(:counts AS jsonb), message = :message,
    error_type = :error_type, error_id = :error_id
WHERE id = :run_id AND status = 'running';

-- name: job_history
-- The last full success of each job. With `dry_run` (report mode is in force) a dry run is one. Otherwise only what Cloud
-- Scheduler fired while report mode was in force, or a change to enforce would make every job late at once; a firing that
-- asks for a dry run never is. A limited run is none, nor is one that could not do a single item, nor a shard's alone.
SELECT
    runs.job, max(runs.started_at) AS started_at, max(runs.finished_at) AS finished_at, max(runs.slot) AS slot
FROM maintenance.runs
WHERE runs.status = 'completed' AND runs.shard = 0 AND (
    NOT runs.dry_run OR CAST(:dry_run AS boolean) OR runs.trigger = 'schedule' AND runs.counts ? 'report_mode')
  AND NOT runs.counts ?| ARRAY['limit', 'all_failed']
GROUP BY runs.job;

-- name: bound_session
-- End this session when it has been silent for so long, so that a process that was stopped lets go of its locks.
SELECT set_config('idle_session_timeout', :limit, false);

-- name: try_lock
-- Take an advisory lock of this session if it is free.
SELECT pg_try_advisory_lock(:space, :key) AS won;

-- name: unlock_all
-- Let go of all advisory locks of this session. It ends afterwards, but the server notices that a moment later.
SELECT pg_advisory_unlock_all();

-- name: sign_of_life
-- Nothing but an answer.
SELECT 1 AS alive;
