-- Which of the events that are not reported are to be billed. The service's tables are read and written by the service at
-- any moment; each decision is about what held when the event occurred, so what changes meanwhile changes none of them.
--
-- A counter's period that is no calendar month is one of Stripe's: the user was paying then. A calendar month, in the
-- service's convention, runs from the 1st at 00:00:00 to the month's last whole second (UTC).

-- name: accounts
-- The accounts, as far as they matter here. Times are kept within what can be reckoned with.
SELECT
    user_id, nullif(btrim(stripe_customer_id), '') AS customer,
    CASE WHEN current_period_start < '9000-01-01Z' THEN greatest(current_period_start, '1970-01-01Z') END
        AS current_period_start,
    CASE WHEN current_period_end < '9000-01-01Z' THEN greatest(current_period_end, '1970-01-01Z') END
        AS current_period_end,
    plan_code = ANY (CAST(:free_plans AS text[])) AS is_free
FROM billing_accounts

-- name: is_undecided
-- Whether an event with this row `send`, or none, is to be decided on. Written so that the server takes it for as likely
-- as not: of `IS NULL` it believes that it hardly ever holds, and sorts all of the backlog for each batch.
coalesce(send.state = 'blocked' AND send.looked_by IS DISTINCT FROM CAST(:run_id AS bigint), true)

-- name: undecided
-- The events to decide on, with their account: not reported, old enough, of a time that makes sense, and with no row in
-- maintenance.meter_sends but perhaps one that says `blocked`, which is tried anew by each run: what was in the way may be
-- gone.
SELECT
    event.id, event.user_id, event.occurred_at, event.pages, account.user_id AS account_id, account.customer,
    account.is_free, account.current_period_start, account.current_period_end
FROM usage_events AS event
LEFT JOIN (
    -- insert: accounts
) AS account ON account.user_id = event.user_id
LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
WHERE NOT event.stripe_reported
  AND event.occurred_at >= :since AND event.occurred_at < :before
  AND
  -- insert: is_undecided

-- name: paid_counter
-- For an event of `batch`, the counters of periods of Stripe's that cover it: when the first of them ends, and whether
-- there is one when whose period began no known subscription of the customer was running. One row in any case, and looked
-- up event by event: how many there are of how many nobody can tell the server.
SELECT
    min(least(counter.period_end, '9000-01-01Z')) AS period_end,
    bool_or(NOT EXISTS (
        SELECT 1 FROM span
        WHERE span.customer = batch.customer
          AND span.starts <= counter.period_start AND span.ends > counter.period_start
    )) AS is_anothers
FROM usage_counters AS counter
WHERE counter.user_id = batch.user_id AND counter.period_start <= batch.occurred_at AND counter.period_end > batch.occurred_at
  AND NOT (
      counter.period_start = date_trunc('month', counter.period_start, 'UTC')
      AND counter.period_end = counter.period_start + interval '1 month' - interval '1 second')

-- name: decided
-- The verdict on each event of `batch`. `ask` where it depends on subscriptions that were not read yet. Customers that
-- were asked about were paying in the given spans; nothing can be said about those that are unclear. A counter that says
-- that the user was paying, where no subscription of this customer was running when its period began, is another
-- customer's, which was replaced: that event is never one that is not to be billed.
-- An event past the end of the period on record belongs to the next one, of which Stripe has not told yet.
SELECT
    batch.*,
    coalesce(
        paid_counter.period_end,
        CASE
            WHEN batch.is_free OR batch.occurred_at < batch.current_period_start THEN least(
                paying.ends,
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
        WHEN length(batch.customer) > 255 THEN 'no_such_customer'
        WHEN batch.customer IS NULL AND NOT batch.is_free THEN 'no_customer'
        WHEN NOT batch.is_free AND batch.occurred_at >= batch.current_period_start THEN 'billable'
        WHEN batch.customer IS NOT NULL AND batch.customer <> ALL (CAST(:asked AS text[])) THEN 'ask'
        WHEN batch.customer = ANY (CAST(:unclear AS text[])) THEN 'unclear'
        WHEN paying.ends IS NOT NULL THEN 'billable'
        WHEN paid_counter.is_anothers THEN 'was_paid'
        WHEN batch.customer IS NOT NULL THEN 'not_subscribed'
        ELSE 'free'
    END AS verdict
FROM batch
CROSS JOIN LATERAL (
    -- insert: paid_counter
) AS paid_counter
CROSS JOIN LATERAL (
    SELECT min(span.ends) AS ends
    FROM span
    WHERE span.customer = batch.customer AND span.starts <= batch.occurred_at AND span.ends > batch.occurred_at
) AS paying

-- name: spans
-- When the customers that were asked about were paying.
SELECT customer, starts, coalesce(ends, 'infinity') AS ends
FROM unnest(
    CAST(:span_customers AS text[]), CAST(:span_starts AS timestamptz[]), CAST(:span_ends AS timestamptz[])
) AS spans (customer, starts, ends)

-- name: next_undecided
-- The events to decide on after the last one, in the order of their time: of all, or with `only_asked` of the users whose
-- customers were asked about. Accounts and what is on record are looked up event by event (LATERAL … LIMIT 1), so that the
-- partial index gives the events in their order and nothing beyond the batch is read.
SELECT
    event.id, event.user_id, event.occurred_at, event.pages, account.user_id AS account_id, account.customer,
    account.is_free, account.current_period_start, account.current_period_end
FROM usage_events AS event
LEFT JOIN LATERAL (
    SELECT * FROM (
        -- insert: accounts
    ) AS accounts
    WHERE accounts.user_id = event.user_id
    LIMIT 1
) AS account ON true
LEFT JOIN LATERAL (
    SELECT state, looked_by FROM maintenance.meter_sends WHERE usage_event_id = event.id LIMIT 1
) AS send ON true
WHERE NOT event.stripe_reported
  AND event.occurred_at >= :after AND event.occurred_at < :before
  AND (event.occurred_at, event.id) > (:after, CAST(:after_id AS uuid))
  AND (NOT CAST(:only_asked AS boolean) OR event.user_id = ANY (CAST(:asked_users AS text[])))
  AND
  -- insert: is_undecided
ORDER BY event.occurred_at, event.id

-- name: next_key
-- The next event alone: to know which one to pass by when it does not go through by itself.
SELECT occurred_at AS last_at, CAST(id AS text) AS last_id FROM (
    -- insert: next_undecided
) AS next
LIMIT 1;

-- name: classify_batch
-- Decide the next events. Not to be billed: marked as reported, with no record of Stripe's, so many (`room`) at most. To be
-- billed: `pending`. Not to be told: `blocked`, with the reason. What Stripe must be asked about is passed by. Events that
-- the service holds at this moment are skipped; the next run finds them.
WITH batch AS MATERIALIZED (
    -- insert: next_undecided
    LIMIT :size
    FOR UPDATE OF event SKIP LOCKED
), span AS MATERIALIZED (
    -- insert: spans
), decided AS MATERIALIZED (
    -- insert: decided
), marked AS (
    UPDATE usage_events AS event
    SET stripe_reported = true, stripe_record_id = NULL
    WHERE event.id = ANY (ARRAY(
            SELECT id FROM decided WHERE verdict IN ('zero_pages', 'free', 'not_subscribed')
            ORDER BY occurred_at, id LIMIT :room))
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
        id, user_id, CASE WHEN length(customer) <= 255 THEN customer END, CAST(id AS text), occurred_at, pages,
        CASE verdict WHEN 'billable' THEN 'pending' ELSE 'blocked' END,
        period_end + CAST(:grace AS interval),
        nullif(verdict, 'billable'),
        CASE WHEN verdict <> 'billable' THEN CAST(:run_id AS bigint) END
    FROM decided
    WHERE verdict IN ('billable', 'no_account', 'no_customer', 'no_such_customer', 'unclear', 'was_paid')
    ON CONFLICT (usage_event_id) DO UPDATE
    SET state = excluded.state, stripe_customer_id = excluded.stripe_customer_id,
        invoice_closes_at = excluded.invoice_closes_at, error_code = excluded.error_code, looked_by = excluded.looked_by
    WHERE send.state = 'blocked'
)
SELECT
    count(*) AS found,
    (SELECT occurred_at FROM batch ORDER BY occurred_at DESC, id DESC LIMIT 1) AS last_at,
    (SELECT CAST(id AS text) FROM batch ORDER BY occurred_at DESC, id DESC LIMIT 1) AS last_id,
    count(marked.id) FILTER (WHERE verdict = 'zero_pages') AS zero_pages_count,
    count(marked.id) FILTER (WHERE verdict = 'free') AS free_count,
    coalesce(sum(pages) FILTER (WHERE verdict = 'free' AND marked.id IS NOT NULL), 0) AS free_pages,
    count(marked.id) FILTER (WHERE verdict = 'not_subscribed') AS not_subscribed_count,
    coalesce(sum(pages) FILTER (WHERE verdict = 'not_subscribed' AND marked.id IS NOT NULL), 0) AS not_subscribed_pages
FROM decided
LEFT JOIN marked ON marked.id = decided.id;

-- name: customers_to_ask
-- The next customers whose subscriptions must be read: those whose invoice is closed soonest first, then those whose
-- invoice is closed, then the free ones; of a shard's range of hashes only, if one is given.
WITH batch AS (
    -- insert: undecided
)
SELECT customer, array_agg(DISTINCT user_id) AS users
FROM batch
WHERE pages > 0 AND length(customer) <= 255
  AND (is_free OR current_period_start IS NULL OR occurred_at < current_period_start)
  AND customer <> ALL (CAST(:passed_by AS text[]))
  AND (CAST(:lowest_hash AS integer) IS NULL
       OR hashtext(customer) BETWEEN CAST(:lowest_hash AS integer) AND CAST(:highest_hash AS integer))
GROUP BY customer
ORDER BY
    min(CASE WHEN is_free THEN 2 WHEN current_period_start + CAST(:grace AS interval) <= :now THEN 1 ELSE 0 END),
    min(current_period_start), customer
LIMIT :size;

-- name: would_classify
-- For a dry run: the verdicts on all events, with what is on its way already, and how many of those to be billed Stripe's
-- sums would be asked about first. Nothing is locked and nothing written.
WITH batch AS MATERIALIZED (
    -- insert: undecided
), span AS MATERIALIZED (
    -- insert: spans
), decided AS MATERIALIZED (
    -- insert: decided
), told AS (
    SELECT verdict, pages, customer, occurred_at < :blind_after AS must_be_proven FROM decided
    UNION ALL
    SELECT
        'billable', value, stripe_customer_id,
        (first_sent_at IS NULL AND occurred_at < :blind_after) OR coalesce(known_since <= :known_after, false)
    FROM maintenance.meter_sends
    WHERE state IN ('pending', 'sending', 'in_doubt')
)
SELECT
    verdict, count(*) AS events, sum(pages) AS pages, count(DISTINCT customer) AS customers,
    count(*) FILTER (WHERE must_be_proven) AS to_prove
FROM told
GROUP BY verdict
ORDER BY verdict;
