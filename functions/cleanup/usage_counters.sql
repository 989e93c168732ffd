-- The SQL of usage_counter_cleanup. Lines are read and deleted in the order in which they lie on disk: there is no index
-- on period_start, and each range of pages is read once.

-- name: count_counters
-- How many counters there are, and how many are past their retention.
SELECT
    count(*) AS total,
    count(*) FILTER (
        WHERE period_start < :cutoff
          AND (user_id, period_start) NOT IN (
              SELECT * FROM unnest(CAST(:users AS varchar[]), CAST(:starts AS timestamptz[])))) AS due
FROM usage_counters;

-- name: stale_periods
-- Accounts whose current period is so old that its counter is past its retention: that counter stays. A period only ever
-- moves to the present (checkout, webhook, period_reset), so that no counter comes under this protection later.
SELECT user_id, current_period_start FROM billing_accounts WHERE current_period_start < :cutoff;

-- name: table_pages
-- How many pages the table has now.
SELECT pg_relation_size('usage_counters') / CAST(current_setting('block_size') AS int) AS pages;

-- name: delete_counters
-- Delete the counters of a range of pages that are past their retention. `users` and `starts` are the ones to keep.
DELETE FROM usage_counters
WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid)
  AND period_start < :cutoff
  AND (user_id, period_start) NOT IN (
      SELECT * FROM unnest(CAST(:users AS varchar[]), CAST(:starts AS timestamptz[])));

-- name: delete_counters_limited
-- The same for a range's first few.
DELETE FROM usage_counters
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM usage_counters
    WHERE ctid >= CAST(:first AS tid) AND ctid < CAST(:beyond AS tid)
      AND period_start < :cutoff
      AND (user_id, period_start) NOT IN (
          SELECT * FROM unnest(CAST(:users AS varchar[]), CAST(:starts AS timestamptz[])))
    LIMIT :room
    FOR UPDATE SKIP LOCKED));
