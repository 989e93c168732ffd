-- Which of the events that are not reported are to be billed. The service's tables are read and written by the service at
-- any moment; each decision is about what held when the event occurred, so what changes meanwhile changes none of them.
--
-- A counter's period that is no calendar month is one of Stripe's: the user was paying then. A calendar month, in the
-- service's convention, runs from the 1st at 00:00:00 to the month's last whole second (UTC).

-- name: undecided
-- The events to decide on, with their account: not reported, old enough, of a time that makes sense, and with no row in
-- maintenance.meter_sends but perhaps one that says `blocked`, which is tried anew by each run: what was in the way may be
-- gone.
SELECT
    event.id, event.user_id, event.occurred_at, event.pages, account.user_id AS account_id, account.customer,
    account.is_free, account.current_period_start, account.current_period_end
FROM usage_events AS event
LEFT JOIN (
    SELECT
        user_id, nullif(btrim(stripe_customer_id), '') AS customer, current_period_start, current_period_end,
        plan_code = ANY (CAST(:free_plans AS text[])) AS is_free
    FROM billing_accounts
) AS account ON account.user_id = event.user_id
LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
WHERE NOT event.stripe_reported
  AND event.occurred_at >= :since AND event.occurred_at < :before
  AND (send.state IS NULL OR (send.state = 'blocked' AND send.looked_by IS DISTINCT FROM CAST(:run_id AS bigint)))

-- name: decided
-- The verdict on each event of `batch`. `ask` where it depends on subscriptions that were not read yet. Customers that
-- were asked about were paying in the given spans; nothing can be said about those that are unclear. A counter that says
-- that the user was paying, where no subscription of this customer was running when its period began, is another
-- customer's, which was replaced: that event is never one that is not to be billed.
-- An event past the end of the period on record belongs to the next one, of which Stripe has not told yet.
SELECT
    batch.*,
    coalesce(
        (SELECT min(counter.period_end) FROM paid_counter AS counter WHERE counter.id = batch.id),
        CASE
            WHEN batch.is_free OR batch.occurred_at < batch.current_period_start THEN least(
                (SELECT min(ends) FROM span
                 WHERE span.customer = batch.customer AND starts <= batch.occurred_at AND ends > batch.occurred_at),
                CASE WHEN batch.occurred_at < batch.current_period_start THEN batch.current_period_start END,
                batch.occurred_at + interval '31 days')
            WHEN batch.occurred_at < batch.current_period_end THEN batch.current_period_end
            ELSE batch.current_period_end + (batch.current_period_end - batch.current_period_start)
        END,
        batch.occurred_at + interval '31 days'
    ) AS period_end,
    CASE
        WHEN batch.pages = 0 THEN 'zero_pages'
        WHEN batch.account_id IS NULL THEN 'no_account'
        WHEN batch.customer IS NULL AND NOT batch.is_free THEN 'no_customer'
        WHEN NOT batch.is_free AND batch.occurred_at >= batch.current_period_start THEN 'billable'
        WHEN batch.customer IS NOT NULL AND batch.customer <> ALL (CAST(:asked AS text[])) THEN 'ask'
        WHEN batch.customer = ANY (CAST(:unclear AS text[])) THEN 'unclear'
        WHEN EXISTS (
            SELECT 1 FROM span
            WHERE span.customer = batch.customer AND starts <= batch.occurred_at AND ends > batch.occurred_at
        ) THEN 'billable'
        WHEN EXISTS (
            SELECT 1 FROM paid_counter AS counter
            WHERE counter.id = batch.id AND NOT EXISTS (
                SELECT 1 FROM span
                WHERE span.customer = batch.customer AND starts <= counter.period_start AND ends > counter.period_start)
        ) THEN 'was_paid'
        WHEN batch.customer IS NOT NULL THEN 'not_subscribed'
        ELSE 'free'
    END AS verdict
FROM batch

-- name: paid_counters
-- For each event of `batch`, the counters of periods of Stripe's that cover it.
SELECT batch.id, counter.period_start, counter.period_end
FROM batch
JOIN usage_counters AS counter
    ON counter.user_id = batch.user_id
    AND counter.period_start <= batch.occurred_at AND counter.period_end > batch.occurred_at
WHERE NOT (
    counter.period_start = date_trunc('month', counter.period_start, 'UTC')
    AND counter.period_end = counter.period_start + interval '1 month' - interval '1 second')

-- name: spans
-- When the customers that were asked about were paying.
SELECT customer, starts, coalesce(ends, 'infinity') AS ends
FROM unnest(
    CAST(:span_customers AS text[]), CAST(:span_starts AS timestamptz[]), CAST(:span_ends AS timestamptz[])
) AS spans (customer, starts, ends)

-- name: classify_batch
-- Decide the next events, in the order of their time: of all, or with `only_asked` of the customers that were asked
-- about. Not to be billed: marked as reported, with no record of Stripe's. To be billed: `pending`. Not to be told:
-- `blocked`, with the reason. What Stripe must be asked about is passed by. Events that the service holds at this moment
-- are skipped; the next run finds them.
WITH batch AS MATERIALIZED (
    -- insert: undecided
      AND (event.occurred_at, event.id) > (:after, CAST(:after_id AS uuid))
      AND (NOT CAST(:only_asked AS boolean) OR account.customer = ANY (CAST(:asked AS text[])))
    ORDER BY event.occurred_at, event.id
    LIMIT :size
    FOR UPDATE OF event SKIP LOCKED
), span AS MATERIALIZED (
    -- insert: spans
), paid_counter AS MATERIALIZED (
    -- insert: paid_counters
), decided AS MATERIALIZED (
    -- insert: decided
), marked AS (
    UPDATE usage_events AS event
    SET stripe_reported = true, stripe_record_id = NULL
    WHERE event.id = ANY (ARRAY(SELECT id FROM decided WHERE verdict IN ('zero_pages', 'free', 'not_subscribed')))
      AND NOT event.stripe_reported
    RETURNING event.id
), unblocked AS (
    DELETE FROM maintenance.meter_sends
    WHERE state = 'blocked' AND usage_event_id = ANY (ARRAY(SELECT id FROM marked))
), kept AS (
    INSERT INTO maintenance.meter_sends AS send
        (usage_event_id, user_id, stripe_customer_id, identifier, occurred_at, value, state, invoice_closes_at,
         error_code, looked_by)
    SELECT
        id, user_id, customer, CAST(id AS text), occurred_at, pages,
        CASE verdict WHEN 'billable' THEN 'pending' ELSE 'blocked' END,
        period_end + CAST(:grace AS interval),
        nullif(verdict, 'billable'),
        CASE WHEN verdict <> 'billable' THEN CAST(:run_id AS bigint) END
    FROM decided
    WHERE verdict IN ('billable', 'no_account', 'no_customer', 'unclear', 'was_paid')
    ON CONFLICT (usage_event_id) DO UPDATE
    SET state = excluded.state, stripe_customer_id = excluded.stripe_customer_id,
        invoice_closes_at = excluded.invoice_closes_at, error_code = excluded.error_code, looked_by = excluded.looked_by
    WHERE send.state = 'blocked'
)
SELECT
    count(*) AS found,
    (SELECT occurred_at FROM batch ORDER BY occurred_at DESC, id DESC LIMIT 1) AS last_at,
    (SELECT CAST(id AS text) FROM batch ORDER BY occurred_at DESC, id DESC LIMIT 1) AS last_id,
    count(*) FILTER (WHERE verdict = 'zero_pages') AS zero_pages_count,
    count(*) FILTER (WHERE verdict = 'free') AS free_count,
    coalesce(sum(pages) FILTER (WHERE verdict = 'free'), 0) AS free_pages,
    count(*) FILTER (WHERE verdict = 'not_subscribed') AS not_subscribed_count,
    coalesce(sum(pages) FILTER (WHERE verdict = 'not_subscribed'), 0) AS not_subscribed_pages
FROM decided;

-- name: customers_to_ask
-- The next customers whose subscriptions must be read: those whose invoice is closed soonest first, then those whose
-- invoice is closed, then the free ones.
WITH batch AS (
    -- insert: undecided
)
SELECT customer
FROM batch
WHERE pages > 0 AND customer IS NOT NULL
  AND (is_free OR current_period_start IS NULL OR occurred_at < current_period_start)
  AND customer <> ALL (CAST(:passed_by AS text[]))
GROUP BY customer
ORDER BY
    min(CASE WHEN is_free THEN 2 WHEN current_period_start + CAST(:grace AS interval) <= :now THEN 1 ELSE 0 END),
    min(current_period_start), customer
LIMIT :size;

-- name: would_classify
-- For a dry run: the verdicts on all events, and how many of those to be billed Stripe's sums would be asked about first.
-- Nothing is locked and nothing written.
WITH batch AS MATERIALIZED (
    -- insert: undecided
), span AS MATERIALIZED (
    -- insert: spans
), paid_counter AS MATERIALIZED (
    -- insert: paid_counters
), decided AS MATERIALIZED (
    -- insert: decided
)
SELECT
    verdict, count(*) AS events, sum(pages) AS pages, count(DISTINCT customer) AS customers,
    count(*) FILTER (WHERE occurred_at < :blind_after) AS to_prove
FROM decided
GROUP BY verdict
ORDER BY verdict;
