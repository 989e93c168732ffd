-- The SQL of period_reset. The tables belong to the service, which reads and writes them at any moment.
--
-- An account is due when all three hold:
--   its plan is one of the free plans;
--   its period has ended, or it never had one;
--   its period is not the month's already (in the month's last second the end is past and the period is right).
--
-- The keys after which a batch looks are those of the pass: from the start, or after the last key; and so many (`keys`) of
-- them, because of many accounts few may be due. `refused` names the accounts that the database has refused in earlier
-- passes.

-- name: is_due
-- The condition above, on an account.
(plan_code = ANY (CAST(:free_plans AS text[]))
 AND (current_period_end IS NULL OR current_period_end < :now)
 AND (current_period_start IS DISTINCT FROM :month_start OR current_period_end IS DISTINCT FROM :month_end))

-- name: stretch
-- The last key that is looked at, and whether it is the last there is. One row in any case.
SELECT
    coalesce(further.user_id, (SELECT max(user_id) FROM billing_accounts)) AS last_key, further.user_id IS NULL AS is_last
FROM (SELECT 1) AS always
LEFT JOIN (
    SELECT user_id FROM billing_accounts
    WHERE CAST(:from_start AS boolean) OR user_id > :after
    ORDER BY user_id
    OFFSET CAST(:keys AS bigint) - 1
    LIMIT 1
) AS further ON true

-- name: reset_batch
-- Move the next due accounts, in the order of user_id, to the month, and give each its usage counter of that month; with
-- `only`, no other account than that.
-- FOR UPDATE decides on each row's newest committed version, and the UPDATE repeats the condition under that lock: an
-- account that is upgraded at this moment is passed by. Rows that others hold are skipped, not waited for. A counter that
-- is there already is never touched: pages used stay used. The keys go into the UPDATE as an array, because for a join the
-- planner reads the whole table once a batch. Due accounts are looked for without a lock first, because a locking clause
-- would reach through the limit on the keys; where many are due, no more keys are looked at than it takes. Gives counts
-- and the last key, never rows, so that the answer to a process that was stopped fits into the socket's buffer.
WITH stretch AS MATERIALIZED (
    -- insert: stretch
), found AS MATERIALIZED (
    SELECT user_id
    FROM (
        SELECT user_id, plan_code, current_period_start, current_period_end
        FROM billing_accounts
        WHERE CAST(:from_start AS boolean) OR user_id > :after
        ORDER BY user_id
        LIMIT :keys
    ) AS looked_at
    WHERE (CAST(:only AS varchar) IS NULL OR user_id = :only)
      AND user_id <> ALL (CAST(:refused AS varchar[]))
      AND
    -- insert: is_due
    ORDER BY user_id
    LIMIT :size
), due AS MATERIALIZED (
    SELECT user_id
    FROM billing_accounts
    WHERE user_id = ANY (ARRAY(SELECT user_id FROM found))
      AND
    -- insert: is_due
    ORDER BY user_id
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE billing_accounts AS account
    SET current_period_start = :month_start, current_period_end = :month_end, updated_at = :now
    WHERE account.user_id = ANY (ARRAY(SELECT user_id FROM due))
      AND account.plan_code = ANY (CAST(:free_plans AS text[]))
      AND (account.current_period_end IS NULL OR account.current_period_end < :now)
    RETURNING account.user_id
), counters AS (
    INSERT INTO usage_counters (user_id, period_start, period_end, pages_total)
    SELECT user_id, :month_start, :month_end, 0 FROM moved
    ON CONFLICT (user_id, period_start) DO NOTHING
    RETURNING 1
)
SELECT
    found.number AS found,
    CASE WHEN found.number < :size THEN (SELECT last_key FROM stretch) ELSE found.last_key END AS last_key,
    found.number < :size AND (SELECT is_last FROM stretch) AS is_over,
    (SELECT count(*) FROM moved) AS moved,
    (SELECT count(*) FROM counters) AS counters_created
FROM (SELECT count(*) AS number, max(user_id) AS last_key FROM found) AS found;

-- name: lock_next_due
-- The next due account that nobody else holds, locked: to know whom to pass by when it does not go through by itself.
WITH stretch AS MATERIALIZED (
    -- insert: stretch
), due AS MATERIALIZED (
    SELECT user_id
    FROM billing_accounts
    WHERE (CAST(:from_start AS boolean) OR user_id > :after)
      AND user_id <= (SELECT last_key FROM stretch)
      AND user_id <> ALL (CAST(:refused AS varchar[]))
      AND
    -- insert: is_due
    ORDER BY user_id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
SELECT due.user_id, coalesce(due.user_id, stretch.last_key) AS last_key, stretch.is_last AND due.user_id IS NULL AS is_over
FROM stretch
LEFT JOIN due ON true;

-- name: what_waits
-- How many accounts are due, whoever holds them; how many of those the database has not refused; and how many paid ones
-- are past their period's end by more than two days: Stripe's webhook for their new period never came. And the plans
-- that the service has, to hold the setting against.
SELECT
    count(*) FILTER (WHERE is_due) AS due_count,
    count(*) FILTER (WHERE is_due AND user_id <> ALL (CAST(:refused AS varchar[]))) AS others_due,
    count(*) FILTER (WHERE NOT is_free AND current_period_end < :stale_before) AS stale_paid_count,
    (SELECT array_agg(code) FROM subscription_plans) AS plans
FROM (
    SELECT
        user_id,
        current_period_end,
        plan_code = ANY (CAST(:free_plans AS text[])) AS is_free,
    -- insert: is_due
            AS is_due
    FROM billing_accounts
) AS accounts;
