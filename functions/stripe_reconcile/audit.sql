-- Our pages against Stripe's, by customer and period. A difference is written down for a person, never corrected.

-- name: customers_touched
-- Customers with pages accepted lately that were not held against Stripe's sums yet, the oldest first.
SELECT stripe_customer_id AS customer
FROM maintenance.meter_sends
WHERE state = 'accepted' AND verified_at IS NULL AND accepted_at > :since AND accepted_at < :settled_before
GROUP BY stripe_customer_id
ORDER BY min(accepted_at), 1
LIMIT :size;

-- name: customers_in_turn
-- The next customers of all, after the one that the cursor names.
SELECT DISTINCT btrim(stripe_customer_id) AS customer
FROM billing_accounts
WHERE btrim(stripe_customer_id) > coalesce((SELECT value FROM maintenance.cursors WHERE name = 'stripe_audit'), '')
ORDER BY 1
LIMIT :size;

-- name: move_cursor
-- Remember the last customer that was held against Stripe's sums; an empty one begins anew.
INSERT INTO maintenance.cursors (name, value) VALUES ('stripe_audit', :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: periods
-- For some customers: their latest periods, in whole minutes, with our pages in each. `settled` are those that Stripe must
-- show by now; `open` those that it may show: accepted a moment ago, in doubt, or not decided yet. The periods are Stripe's
-- (no calendar months) as the service counted in them; and the day, for what was accepted outside of all of them.
WITH wanted AS (
    SELECT customer, account.user_id, account.current_period_start, account.current_period_end
    FROM unnest(CAST(:customers AS text[])) AS wanted (customer)
    LEFT JOIN billing_accounts AS account ON btrim(account.stripe_customer_id) = wanted.customer
), stripe_period AS (
    SELECT wanted.customer, counter.period_start AS starts, counter.period_end AS ends
    FROM wanted
    JOIN usage_counters AS counter ON counter.user_id = wanted.user_id
    WHERE counter.period_start > '1970-01-01Z' AND counter.period_start < :now AND counter.period_end < '9000-01-01Z'
      AND NOT (
        counter.period_start = date_trunc('month', counter.period_start, 'UTC')
        AND counter.period_end = counter.period_start + interval '1 month' - interval '1 second')
), recent AS (
    SELECT customer, starts, ends FROM stripe_period WHERE ends > :since
    UNION
    SELECT stripe_period.customer, starts, ends
    FROM stripe_period
    JOIN maintenance.meter_sends AS send
        ON send.stripe_customer_id = stripe_period.customer AND send.state = 'accepted' AND send.verified_at IS NULL
        AND send.occurred_at >= starts AND send.occurred_at < ends
    UNION
    SELECT
        wanted.customer, date_trunc('day', send.occurred_at, 'UTC'),
        date_trunc('day', send.occurred_at, 'UTC') + interval '1 day'
    FROM wanted
    JOIN maintenance.meter_sends AS send
        ON send.stripe_customer_id = wanted.customer AND send.state = 'accepted' AND send.verified_at IS NULL
    WHERE NOT EXISTS (
        SELECT 1 FROM stripe_period
        WHERE stripe_period.customer = wanted.customer AND send.occurred_at >= starts AND send.occurred_at < ends)
), period AS (
    SELECT customer, date_trunc('minute', starts) AS starts, min(date_trunc('minute', least(ends, :now))) AS ends
    FROM recent
    GROUP BY customer, date_trunc('minute', starts)
), ours AS (
    SELECT
        period.customer, period.starts, send.value AS pages,
        send.state = 'accepted' AND send.accepted_at < :settled_before AS is_settled
    FROM period
    JOIN maintenance.meter_sends AS send
        ON send.stripe_customer_id = period.customer AND send.state IN ('pending', 'sending', 'in_doubt', 'accepted')
        AND coalesce(send.event_name, :event_name) = :event_name AND send.occurred_at >= period.starts AND send.occurred_at < period.ends
), theirs AS (
    SELECT
        period.customer, period.starts, event.pages,
        event.stripe_reported AND event.occurred_at < :settled_before AS is_settled
    FROM period
    JOIN wanted ON wanted.customer = period.customer
    JOIN usage_events AS event
        ON event.user_id = wanted.user_id AND event.occurred_at >= period.starts AND event.occurred_at < period.ends
    WHERE event.pages > 0 AND (NOT event.stripe_reported OR event.stripe_record_id IS NOT NULL)
      AND NOT EXISTS (SELECT 1 FROM maintenance.meter_sends AS send WHERE send.usage_event_id = event.id)
)
SELECT
    period.customer, period.starts, period.ends,
    coalesce(sum(known.pages) FILTER (WHERE known.is_settled), 0) AS settled,
    coalesce(sum(known.pages) FILTER (WHERE NOT known.is_settled), 0) AS open
FROM period
LEFT JOIN (SELECT * FROM ours UNION ALL SELECT * FROM theirs) AS known
    ON known.customer = period.customer AND known.starts = period.starts
WHERE period.ends > period.starts
GROUP BY period.customer, period.starts, period.ends
ORDER BY period.customer, period.starts;

-- name: note_equal
-- Stripe shows what we know of. A difference that was written down for the period is resolved.
WITH equal AS (
    SELECT * FROM unnest(
        CAST(:customers AS text[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])
    ) AS equal (customer, starts, ends)
), resolved AS (
    UPDATE maintenance.drift
    SET resolved_at = :at
    FROM equal
    WHERE drift.stripe_customer_id = equal.customer AND drift.period_start = equal.starts
      AND drift.usage_event_id IS NULL AND drift.resolved_at IS NULL
), verified AS (
    UPDATE maintenance.meter_sends AS send
    SET verified_at = :at
    FROM equal
    WHERE send.stripe_customer_id = equal.customer AND send.state = 'accepted' AND send.verified_at IS NULL
      AND send.accepted_at < :settled_before AND send.occurred_at >= equal.starts AND send.occurred_at < equal.ends
    RETURNING 1
)
SELECT count(*) AS verified_count FROM verified;

-- name: note_drift
-- Stripe shows something else. One open record a customer and period.
WITH noted AS (
    INSERT INTO maintenance.drift AS drift
        (stripe_customer_id, period_start, period_end, ours, theirs, reason, seen_at)
    SELECT customer, starts, ends, ours, theirs, 'sums_differ', :at
    FROM unnest(
        CAST(:customers AS text[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]),
        CAST(:ours AS bigint[]), CAST(:theirs AS bigint[])
    ) AS differing (customer, starts, ends, ours, theirs)
    ON CONFLICT (stripe_customer_id, period_start, coalesce(CAST(usage_event_id AS text), '')) WHERE resolved_at IS NULL
    DO UPDATE SET period_end = excluded.period_end, ours = excluded.ours, theirs = excluded.theirs, seen_at = excluded.seen_at
    RETURNING 1
)
SELECT count(*) AS drift_count FROM noted;
