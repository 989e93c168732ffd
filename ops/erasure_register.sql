-- The register of what was erased. Nothing here writes.

-- name: register
-- Erasures, of all users or of one, the newest first, from a number downwards.
SELECT id, erased_at, job, run_id, CAST(job_run_id AS text) AS job_run_id, encode(user_hash, 'hex') AS user_hash, extent,
    row_counts, objects, bytes, completed_at, copies, copies_until
FROM maintenance.erasures
WHERE (CAST(:user_hash AS text) IS NULL OR user_hash = decode(CAST(:user_hash AS text), 'hex'))
  AND (CAST(:below AS bigint) IS NULL OR id < CAST(:below AS bigint))
ORDER BY id DESC
LIMIT :limit;
