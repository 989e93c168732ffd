-- Pruning of our own tables: what nobody asks for any more. Erasures, dead letters, drift and anything undecided stay.

-- name: prune_runs
-- Runs that began so long ago; the last success of each job stays, because lateness is told by it.
DELETE FROM maintenance.runs
WHERE id IN (
    SELECT old.id
    FROM maintenance.runs AS old
    WHERE old.started_at < :before AND old.status <> 'running'
      AND old.id NOT IN (
          SELECT DISTINCT ON (job, shard, dry_run) id
          FROM maintenance.runs
          WHERE status = 'completed' AND NOT counts ?| ARRAY['limit', 'all_failed']
          ORDER BY job, shard, dry_run, started_at DESC)
    LIMIT :size);

-- name: prune_sends
-- Sends that Stripe was seen to have so long ago.
DELETE FROM maintenance.meter_sends
WHERE usage_event_id IN (
    SELECT usage_event_id
    FROM maintenance.meter_sends
    WHERE state = 'accepted' AND verified_at < :before
    LIMIT :size
    FOR UPDATE SKIP LOCKED);

-- name: prune_outbox
-- Objects that were done with so long ago. A ZIP's row stays while the service still shows that ZIP, and an erasure's
-- while it is not complete.
DELETE FROM maintenance.object_deletions
WHERE id IN (
    SELECT id
    FROM maintenance.object_deletions AS deletion
    WHERE deletion.done_at < :before
      AND NOT (deletion.kind = 'zip' AND EXISTS (SELECT FROM source_files WHERE id = deletion.source_file_id))
      AND NOT EXISTS (
          SELECT FROM maintenance.erasures WHERE id = deletion.erasure_id AND completed_at IS NULL)
    LIMIT :size
    FOR UPDATE OF deletion SKIP LOCKED);
