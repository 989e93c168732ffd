-- What an operator sees and does of the objects that must leave the bucket.

-- name: open
-- What is open, by state and kind. What is in another bucket than the one that this database belongs to, if it belongs
-- to any yet, is never tried.
SELECT
    bucket, state, kind, count(*) AS objects, CAST(coalesce(sum(bytes), 0) AS bigint) AS bytes,
    min(requested_at) AS oldest, min(next_attempt_at) AS next_attempt,
    coalesce(bucket <> (SELECT identity.bucket FROM maintenance.identity), false) AS other_bucket
FROM maintenance.object_deletions
WHERE done_at IS NULL
GROUP BY bucket, state, kind
ORDER BY bucket, state, kind;

-- name: elsewhere
-- How many open objects no run ever tries, because they are in another bucket.
SELECT count(*) AS objects
FROM maintenance.object_deletions
WHERE done_at IS NULL AND bucket <> (SELECT bucket FROM maintenance.identity);

-- name: last_errors
-- What was said the last time, the commonest first. Errors name no object.
SELECT state, error, count(*) AS objects, max(attempts) AS attempts
FROM maintenance.object_deletions
WHERE done_at IS NULL AND error IS NOT NULL
GROUP BY state, error
ORDER BY count(*) DESC, state, error
LIMIT :limit;

-- name: names
-- The open objects themselves, the oldest first.
SELECT id, bucket, object_name AS name, kind, state, attempts, requested_at, next_attempt_at, error
FROM maintenance.object_deletions
WHERE done_at IS NULL
ORDER BY requested_at, id
LIMIT :limit;

-- name: retry_failed
-- Let what the bucket refused, and what something kept, be due at once. What a run has in its hands at this moment is left
-- to it, and what is in another bucket no run tries.
WITH chosen AS MATERIALIZED (
    SELECT id
    FROM maintenance.object_deletions
    WHERE done_at IS NULL AND state IN ('failed', 'held') AND next_attempt_at > :now
      AND (claimed_until IS NULL OR claimed_until <= :now)
      AND bucket = coalesce((SELECT identity.bucket FROM maintenance.identity), bucket)
    FOR UPDATE SKIP LOCKED
), due AS (
    UPDATE maintenance.object_deletions AS deletion
    SET next_attempt_at = :now
    FROM chosen
    WHERE deletion.id = chosen.id
    RETURNING deletion.state
)
SELECT
    count(*) FILTER (WHERE state = 'failed') AS failed_count, count(*) FILTER (WHERE state = 'held') AS held_count
FROM due;
