-- The operator's pauses: our own switch, which Terraform knows nothing of.

-- name: pause
-- Let a job not run until a time. A pause that there is gives way.
INSERT INTO maintenance.controls (job, paused_until, by, why)
VALUES (:job, :until, :by, :why)
ON CONFLICT (job) DO UPDATE SET paused_until = excluded.paused_until, by = excluded.by, why = excluded.why;

-- name: resume
-- Let a job run again; gives nothing back where it was not paused.
DELETE FROM maintenance.controls WHERE job = :job RETURNING paused_until;
