-- The SQL of usage_counter_cleanup. Rows are read and deleted in the order in which they lie on disk: there is no index
-- on period_start, and each range of pages is read once (ranges of ctids need PostgreSQL 14).

-- name: stale_periods
-- Accounts whose current period is so old that its counter is past its retention: that counter stays. A period only ever
-- moves to the present (checkout, webhook, period_reset), so that no counter comes under this protection later. As two
-- arrays, in the form in which the statements below take them back.
SELECT
    CAST(coalesce(array_agg(user_id), '{}') AS text) AS users,
    CAST(coalesce(array_agg(current_period_start), '{}') AS text) AS starts
FROM billing_accounts
WHERE current_period_start < :cutoff;

-- name: past_retention
-- The condition under which a counter must go. `users` and `starts` are the ones to keep; where there are none, the
-- planner sees that before the first row.
period_start < :cutoff
AND (CAST(:users AS text) = '{}' OR (user_id, period_start) NOT IN (
    SELECT * FROM unnest(CAST(:users AS varchar[]), CAST(:starts AS timestamptz[]))))

-- name: count_counters
-- How many counters there are, and how many of them must go.
SELECT
    count(*) AS total,
    count(*) FILTER (WHERE
        -- insert: past_retention
    ) AS due
FROM usage_counters;

-- name: read_in_order
-- For the rest of the transaction, let no parallel workers read: what is found first is then what lies first.
SELECT set_config('max_parallel_workers_per_gather', '0', true);

-- name: first_counter
-- The first counter that must go, in the order in which they lie on disk. (Naming all ctids makes it a scan of a range of
-- them, which begins with the first page; a plain one joins in with others where they are.)
SELECT CAST(ctid AS text) AS ctid
FROM usage_counters
WHERE ctid >= '(0,0)' AND
    -- insert: past_retention
LIMIT 1;

-- name: yield_soon
-- For the rest of the transaction, give up a lock that is not to be had within the time that a range should take.
SELECT set_config('lock_timeout', '20ms', true);

-- name: delete_counters
-- Delete the counters of a range of pages that are past their retention. Fails as a whole where another session holds one.
DELETE FROM usage_counters
WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid) AND
    -- insert: past_retention

-- name: delete_counters_by_row
-- The same for those that no other session holds, and at most so many. Half as fast.
DELETE FROM usage_counters
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM usage_counters
    WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid) AND
        -- insert: past_retention
    LIMIT :room
    FOR UPDATE SKIP LOCKED));
