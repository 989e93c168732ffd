-- What somebody holds: users, jobs, runs.

-- name: what_is_held
-- How many holds are in force, mostly none, and how many of them on more than a run.
SELECT count(*) AS holds, count(*) FILTER (WHERE scope <> 'run') AS broad
FROM maintenance.holds
WHERE until IS NULL OR until > :now;

-- name: find_held
-- Of ids of jobs, runs or files: whether there is such a row, and whether it is held, itself or through its run, its job
-- or its user. A hold on a job or a run that is gone still names it.
SELECT
    CAST(asked.id AS text) AS id, job.id IS NOT NULL AS known,
    EXISTS (
        SELECT FROM maintenance.holds AS hold
        WHERE (hold.until IS NULL OR hold.until > :now)
          AND (hold.scope = 'user' AND hold.subject = job.user_id
               OR hold.scope = 'job' AND hold.subject IN (CAST(asked.id AS text), CAST(job.id AS text))
               OR hold.scope = 'run' AND hold.subject IN (CAST(asked.id AS text), CAST(of_file.id AS text)))) AS held
FROM unnest(CAST(:ids AS uuid[])) AS asked (id)
LEFT JOIN job_runs AS run ON run.id = asked.id
LEFT JOIN source_files AS file ON file.id = asked.id
LEFT JOIN job_runs AS of_file ON of_file.id = file.job_run_id
LEFT JOIN extraction_jobs AS job ON job.id = coalesce(run.job_id, of_file.job_id, asked.id);

-- name: find_held_scratch
-- Which of these names of upload scratch begin with the id of a held user; an id may have slashes in it.
SELECT asked.name
FROM unnest(CAST(:names AS text[])) AS asked (name)
WHERE EXISTS (
    SELECT FROM maintenance.holds AS hold
    WHERE hold.scope = 'user' AND (hold.until IS NULL OR hold.until > :now)
      AND starts_with(asked.name, CAST(:prefix AS text) || hold.subject || '/'));
