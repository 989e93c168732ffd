-- The SQL of artifact_cleanup: the listing of the bucket is held against the tables, a page at a time.

-- name: is_any_file_there
-- Whether any row names an object.
SELECT EXISTS (SELECT FROM source_files) AS there;

-- name: load_cursor
-- Where a sweep stopped.
SELECT value FROM maintenance.cursors WHERE name = :name;

-- name: save_cursor
-- Where a sweep has got to, in the same transaction as what it wrote.
INSERT INTO maintenance.cursors (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: clear_cursor
-- The sweep is over.
DELETE FROM maintenance.cursors WHERE name = :name;

-- name: find_rows
-- The rows that name objects of a page. A row is a ZIP by its type or its name only: older rows show members that were
-- themselves marked 'unpacked'.
SELECT
    gcs_object_name AS name, CAST(id AS text) AS file_id, CAST(job_run_id AS text) AS run_id,
    status = 'unpacked' AND (
        file_type IN ('application/zip', 'application/x-zip-compressed') OR original_filename LIKE '%.zip'
    ) AS unpacked_zip
FROM source_files
WHERE gcs_object_name = ANY (CAST(:names AS text[]));

-- name: find_open
-- Which of the objects wait in the outbox already. A row for an earlier content of the name does not stand for this one.
SELECT DISTINCT deletion.object_name AS name
FROM unnest(CAST(:names AS text[]), CAST(:generations AS bigint[])) AS asked (name, generation)
JOIN maintenance.object_deletions AS deletion
    ON deletion.object_name = asked.name AND coalesce(deletion.generation, asked.generation) = asked.generation
WHERE deletion.done_at IS NULL AND deletion.bucket = :bucket;

-- name: add_objects
-- Write objects into the outbox, each in the generation that was listed.
INSERT INTO maintenance.object_deletions
    (bucket, object_name, generation, kind, source_file_id, job_run_id, run_id, next_attempt_at, bytes, requested_at)
SELECT :bucket, found.name, found.generation, found.kind, found.file, found.run, :run_id, :moment, found.bytes, :moment
FROM unnest(
    CAST(:names AS text[]), CAST(:generations AS bigint[]), CAST(:kinds AS text[]), CAST(:files AS uuid[]),
    CAST(:runs AS uuid[]), CAST(:bytes AS bigint[])) AS found (name, generation, kind, file, run, bytes);
