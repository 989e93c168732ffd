-- The operator's holds: what no cleanup may take. A trigger lets whoever writes here wait for the batches at work.

-- name: let_batches_end
-- Wait until no batch is at work, and let none begin before this transaction ends. The trigger would do it too, but what
-- is looked at here must be looked at after the waiting: a batch may just be deleting what is to be held.
SELECT pg_advisory_xact_lock(hashtext('maintenance.holds'), 0);

-- name: user_is_here
-- Whether there is such a user.
SELECT EXISTS (SELECT FROM users WHERE id = :subject) AS here;

-- name: job_is_here
-- Whether there is such an extraction job.
SELECT EXISTS (SELECT FROM extraction_jobs WHERE id = CAST(:subject AS uuid)) AS here;

-- name: run_is_here
-- Whether there is such a run.
SELECT EXISTS (SELECT FROM job_runs WHERE id = CAST(:subject AS uuid)) AS here;

-- name: same
-- A hold on the same, for the same reason and as long. (For another reason there may be a second one: each case ends by
-- itself.) It is in force, because its end is none, or the one to come that is asked for.
SELECT id, by, created_at
FROM maintenance.holds
WHERE scope = :scope AND subject = :subject AND reason = :reason AND until IS NOT DISTINCT FROM :until
ORDER BY id
LIMIT 1;

-- name: add
-- A new hold; gives its number.
INSERT INTO maintenance.holds (scope, subject, reason, until, by, created_at)
VALUES (:scope, :subject, :reason, :until, :by, :now)
RETURNING id;

-- name: holds
-- The holds, the newest first: those in force, or all there ever were.
SELECT id, scope, subject, until IS NULL OR until > :now AS in_force, until, by, created_at, reason
FROM maintenance.holds
WHERE :ended_too OR until IS NULL OR until > :now
ORDER BY id DESC;

-- name: hold
-- One hold.
SELECT id, scope, subject, until, until IS NULL OR until > :now AS in_force
FROM maintenance.holds
WHERE id = :id;

-- name: end
-- Let a hold be over. Its row stays, as the proof of what was held and how long.
UPDATE maintenance.holds SET until = :now WHERE id = :id;
