-- The outbox: objects that must leave the bucket. A row is open until its object is known to be gone, or to be needed
-- again. Open rows are claimed for a time; a run that dies leaves its claims to run out.

-- name: claim
-- Claim open rows whose time has come. `needed` says whether a row of the service's names the object (again). A ZIP's own
-- row may, as long as it says that the ZIP was unpacked. No row is made to wait until after `never`: a clock was wrong when
-- that was written. Of a shard's range of hashes only, if one is given.
WITH chosen AS MATERIALIZED (
    SELECT id
    FROM maintenance.object_deletions
    WHERE done_at IS NULL AND bucket = :bucket
      AND (next_attempt_at <= :moment OR next_attempt_at > :never)
      AND (CAST(:own AS bigint) IS NULL OR run_id = :own)
      AND (claimed_until IS NULL OR claimed_until <= :moment OR claimed_until > :never)
      AND (CAST(:lowest_hash AS integer) IS NULL
           OR hashint8(id) BETWEEN CAST(:lowest_hash AS integer) AND CAST(:highest_hash AS integer))
    ORDER BY next_attempt_at
    LIMIT :size
    FOR UPDATE SKIP LOCKED
)
UPDATE maintenance.object_deletions AS deletion
SET claimed_until = :until
FROM chosen
WHERE deletion.id = chosen.id
RETURNING
    deletion.id, deletion.object_name, deletion.generation, deletion.kind, deletion.attempts,
    CAST(deletion.source_file_id AS text) AS source_file_id, CAST(deletion.job_run_id AS text) AS job_run_id,
    deletion.erasure_id, deletion.requested_at,
    EXISTS (
        SELECT FROM source_files AS file
        WHERE file.gcs_object_name = deletion.object_name
          AND NOT (deletion.kind = 'zip' AND file.id = deletion.source_file_id AND file.status = 'unpacked')
    ) AS needed;

-- name: named_again
-- Which of these names some row of the service's names.
SELECT gcs_object_name AS name FROM source_files WHERE gcs_object_name = ANY (CAST(:names AS text[]));

-- name: settle
-- Write what came of attempts. Where an object is done with, its name gives way to its hash: names are the user's
-- content. Only the first who settles a row is counted. `waits` are seconds until a next attempt. Where only a conversion
-- is left to do (`rests`), the row is that of the conversion from now on; its bytes stay those of the object if that is
-- `gone`.
WITH settled AS (
    UPDATE maintenance.object_deletions AS deletion
    SET state = outcome.state,
        attempts = deletion.attempts + 1,
        claimed_until = NULL,
        error = outcome.error,
        next_attempt_at = CAST(:moment AS timestamptz) + outcome.wait * interval '1 second',
        done_at = CASE WHEN outcome.done THEN CAST(:moment AS timestamptz) END,
        object_name = CASE WHEN outcome.done
            THEN encode(sha256(convert_to(deletion.object_name, 'UTF8')), 'hex')
            ELSE coalesce(outcome.rest, deletion.object_name) END,
        kind = CASE WHEN outcome.done OR outcome.rest IS NULL THEN deletion.kind ELSE 'conversion' END,
        bytes = CASE WHEN outcome.done OR outcome.rest IS NULL OR outcome.gone THEN deletion.bytes END
    FROM unnest(
        CAST(:ids AS bigint[]), CAST(:states AS text[]), CAST(:done AS boolean[]), CAST(:waits AS double precision[]),
        CAST(:errors AS text[]), CAST(:rests AS text[]), CAST(:gone AS boolean[]))
        AS outcome (id, state, done, wait, error, rest, gone)
    WHERE deletion.id = outcome.id AND deletion.done_at IS NULL
    RETURNING deletion.kind, deletion.state, deletion.bytes, deletion.erasure_id
)
SELECT kind, state, count(*) AS number, coalesce(sum(bytes), 0) AS bytes, array_agg(DISTINCT erasure_id) AS erasures
FROM settled
GROUP BY kind, state;

-- name: find_left_erasures
-- Erasures that nobody completed though none of their objects is open.
SELECT id FROM maintenance.erasures AS erasure
WHERE completed_at IS NULL
  AND NOT EXISTS (
      SELECT FROM maintenance.object_deletions AS deletion
      WHERE deletion.erasure_id = erasure.id AND deletion.done_at IS NULL)
LIMIT :size;

-- name: lock_erasures
-- Let one run after the other complete an erasure.
SELECT id FROM maintenance.erasures WHERE id = ANY (CAST(:erasures AS bigint[])) ORDER BY id FOR UPDATE;

-- name: complete_erasures
-- Complete those of these erasures of which no object is open any more.
UPDATE maintenance.erasures AS erasure
SET completed_at = :moment, objects = gone.objects, bytes = gone.bytes, copies = :copies, copies_until = :copies_until
FROM (
    -- A conversion that was never made is no object; bytes of a conversion's row are those of its file.
    SELECT erasure_id,
           count(*) FILTER (WHERE state = 'deleted' OR state = 'absent' AND (kind = 'source' OR bytes IS NOT NULL))
               AS objects,
           coalesce(sum(bytes) FILTER (WHERE state = 'deleted' OR kind = 'conversion'), 0) AS bytes
    FROM maintenance.object_deletions
    WHERE erasure_id = ANY (CAST(:erasures AS bigint[]))
    GROUP BY erasure_id
    HAVING bool_and(done_at IS NOT NULL)
) AS gone
WHERE erasure.id = gone.erasure_id AND erasure.completed_at IS NULL;

-- name: release
-- Let go of claims, so that the next run takes the rows at once.
UPDATE maintenance.object_deletions SET claimed_until = NULL
WHERE id = ANY (CAST(:ids AS bigint[])) AND done_at IS NULL;

-- name: what_is_open
-- How many objects wait to leave the bucket, how many of them nothing speaks against, how many something keeps, and since
-- when the oldest of all others waits. Of a shard's range of hashes only, if one is given.
SELECT
    count(*) AS open,
    count(*) FILTER (WHERE state = 'pending' AND (CAST(:own AS bigint) IS NULL OR run_id = :own)) AS pending,
    count(*) FILTER (WHERE state = 'held') AS kept, min(requested_at) FILTER (WHERE state <> 'held') AS waiting_since
FROM maintenance.object_deletions
WHERE done_at IS NULL AND bucket = :bucket
  AND (CAST(:lowest_hash AS integer) IS NULL
       OR hashint8(id) BETWEEN CAST(:lowest_hash AS integer) AND CAST(:highest_hash AS integer));
