-- Pruning of our own tables: what nobody asks for any more. Erasures, dead letters, drift and anything undecided stay.

-- name: old_runs
-- The condition for runs that began so long ago; the last success of each job stays, because lateness is told by it.
started_at < :before AND status <> 'running'
AND id NOT IN (
    SELECT DISTINCT ON (job, shard, dry_run) id
    FROM maintenance.runs
    WHERE status = 'completed' AND NOT counts ?| ARRAY['limit', 'all_failed']
    ORDER BY job, shard, dry_run, started_at DESC)

-- name: count_runs
-- How many runs are old.
SELECT count(*) AS found FROM maintenance.runs WHERE
    -- insert: old_runs

-- name: prune_runs
-- Delete a range's old runs.
DELETE FROM maintenance.runs
WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid) AND
    -- insert: old_runs

-- name: old_sends
-- The condition for sends that Stripe was seen to have so long ago.
state = 'accepted' AND verified_at < :before

-- name: count_sends
-- How many sends are old.
SELECT count(*) AS found FROM maintenance.meter_sends WHERE
    -- insert: old_sends

-- name: prune_sends
-- Delete a range's old sends.
DELETE FROM maintenance.meter_sends
WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid) AND
    -- insert: old_sends

-- name: old_outbox
-- The condition for objects that were done with so long ago. A ZIP's row stays while the service still shows that ZIP,
-- and an erasure's while it is not complete.
deletion.done_at < :before
AND NOT (deletion.kind = 'zip' AND EXISTS (SELECT FROM source_files WHERE id = deletion.source_file_id))
AND NOT EXISTS (SELECT FROM maintenance.erasures WHERE id = deletion.erasure_id AND completed_at IS NULL)

-- name: count_outbox
-- How many objects are old.
SELECT count(*) AS found FROM maintenance.object_deletions AS deletion WHERE
    -- insert: old_outbox

-- name: prune_outbox
-- Delete a range's old objects.
DELETE FROM maintenance.object_deletions AS deletion
WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid) AND
    -- insert: old_outbox
