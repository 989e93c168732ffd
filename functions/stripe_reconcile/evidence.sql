-- Events that must not be sent blindly: Stripe's sums are asked first.
--
-- In question (`open_question`): an event in doubt whose identifier Stripe may have forgotten; and one that we have not
-- sent, and somebody else may have, or we before the database was restored to an older state. The sums are those of one
-- meter: what was frozen for another one cannot be looked for there.

-- name: open_question
-- The condition above, on a row `send`. No run looks for a row twice.
send.looked_by IS DISTINCT FROM CAST(:run_id AS bigint)
AND coalesce(send.event_name, :event_name) = :event_name
AND (
    (send.state = 'pending' AND send.occurred_at < :blind_after AND send.occurred_at < :settled_before)
    OR (send.state = 'in_doubt' AND (send.known_since IS NULL OR send.known_since <= :known_after))
)

-- name: customers_in_question
-- The customers with something in question, the soonest invoice first, then those whose invoice is closed already; of a
-- shard's range of hashes only, if one is given.
SELECT send.stripe_customer_id AS customer
FROM maintenance.meter_sends AS send
WHERE state IN ('pending', 'in_doubt') AND stripe_customer_id <> ALL (CAST(:passed_by AS text[]))
  AND
  -- insert: is_of_shard
  AND
  -- insert: open_question
GROUP BY send.stripe_customer_id
ORDER BY min(CASE WHEN send.invoice_closes_at <= :now THEN 1 ELSE 0 END), min(send.invoice_closes_at), 1
LIMIT :size;

-- name: questions
-- The oldest events in question of some customers: so many of each, and no more than one read of hours can cover. Where
-- the service's row is gone, others may be gone with it.
SELECT
    customer.id AS customer, CAST(chosen.usage_event_id AS text) AS key, chosen.user_id, chosen.occurred_at,
    chosen.value AS pages, event.id IS NULL AS is_gone
FROM unnest(CAST(:customers AS text[])) AS customer (id)
CROSS JOIN LATERAL (
    SELECT send.*, min(send.occurred_at) OVER () AS oldest
    FROM (
        SELECT send.usage_event_id, send.user_id, send.occurred_at, send.value
        FROM maintenance.meter_sends AS send
        WHERE send.stripe_customer_id = customer.id AND send.state IN ('pending', 'in_doubt')
          AND
          -- insert: open_question
        ORDER BY send.occurred_at
        LIMIT :most
    ) AS send
) AS chosen
LEFT JOIN usage_events AS event ON event.id = chosen.usage_event_id
WHERE chosen.occurred_at < chosen.oldest + CAST(:span AS interval)
ORDER BY customer.id, chosen.occurred_at;

-- name: surroundings
-- All other pages of the customers in the given times, by minute. Ours that were accepted stand in their own minute, unless
-- Stripe had them before: then the service may have sent them, seconds later. Those that the service has marked stand in
-- their minute or the next. Fresh, and not sure yet: sent within the last hour; the sums lag. Not sure: not decided yet or
-- under way; and what a user has used who has another customer now. Of this meter only, as far as that is known: what the
-- service has marked says nothing of its meter.
WITH wanted AS (
    SELECT * FROM unnest(
        CAST(:customers AS text[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])
    ) AS wanted (customer, starts, ends)
), wanted_user AS (
    SELECT wanted.customer, account.user_id, true AS is_its_customer
    FROM wanted
    JOIN billing_accounts AS account ON btrim(account.stripe_customer_id) = wanted.customer
    UNION
    SELECT asked.customer, asked.user_id, false
    FROM unnest(CAST(:asked_customers AS text[]), CAST(:asked_users AS text[])) AS asked (customer, user_id)
    WHERE NOT EXISTS (
        SELECT 1 FROM billing_accounts AS account
        WHERE account.user_id = asked.user_id AND btrim(account.stripe_customer_id) = asked.customer)
), ours AS (
    SELECT
        wanted.customer, send.occurred_at, send.value AS pages,
        send.state = 'accepted' AND send.error_code IS NULL AS is_exact,
        send.state = 'accepted' AND coalesce(send.last_sent_at <= :settled_before, true) AS is_sure,
        send.state IN ('pending', 'sending')
            OR (send.state = 'in_doubt' AND send.known_since > :known_after)
            OR (send.state = 'accepted' AND coalesce(send.last_sent_at > :settled_before, false)) AS is_fresh
    FROM wanted
    JOIN maintenance.meter_sends AS send
        ON send.stripe_customer_id = wanted.customer AND send.occurred_at >= wanted.starts
        AND send.occurred_at < wanted.ends
    WHERE send.state IN ('pending', 'sending', 'in_doubt', 'accepted')
      AND coalesce(send.event_name, :event_name) = :event_name
      AND send.usage_event_id <> ALL (CAST(:asked AS uuid[]))
), theirs AS (
    SELECT
        wanted.customer, event.occurred_at, event.pages, false AS is_exact,
        event.stripe_reported AND wanted_user.is_its_customer AND event.occurred_at < :settled_before AS is_sure,
        event.occurred_at >= :settled_before AS is_fresh
    FROM wanted
    JOIN wanted_user ON wanted_user.customer = wanted.customer
    JOIN usage_events AS event
        ON event.user_id = wanted_user.user_id AND event.occurred_at >= wanted.starts
        AND event.occurred_at < wanted.ends
    LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
    WHERE event.pages > 0 AND (send.usage_event_id IS NULL OR send.state = 'blocked')
      AND (NOT event.stripe_reported OR event.stripe_record_id IS NOT NULL)
)
SELECT
    customer, date_trunc('minute', occurred_at) AS minute, is_exact, is_sure, is_fresh, sum(pages) AS pages
FROM (SELECT * FROM ours UNION ALL SELECT * FROM theirs) AS around
GROUP BY 1, 2, 3, 4, 5
ORDER BY customer, minute;

-- name: note_absent
-- Stripe does not have these. One that we have not sent may be sent by this run, unless it is too old for Stripe: then it
-- is `expired`, for a person to decide about. One that we have sent must be found absent a second time, a day later; then
-- it is sent anew, under the next identifier, because its own may be known to Stripe after all. If the service has
-- reported it meanwhile, it is not ours any more.
WITH absent AS MATERIALIZED (
    SELECT
        send.usage_event_id, send.first_sent_at IS NOT NULL AS was_sent,
        send.first_sent_at IS NULL OR send.absent_since <= :a_day_ago AS is_proven,
        send.occurred_at < :oldest_sendable AS is_too_old,
        EXISTS (
            SELECT 1 FROM usage_events AS event WHERE event.id = send.usage_event_id AND event.stripe_reported
        ) AS is_reported
    FROM maintenance.meter_sends AS send
    WHERE send.usage_event_id = ANY (CAST(:keys AS uuid[])) AND send.state IN ('pending', 'in_doubt')
    FOR UPDATE
), forgotten AS (
    DELETE FROM maintenance.meter_sends
    WHERE usage_event_id = ANY (ARRAY(SELECT usage_event_id FROM absent WHERE is_proven AND is_reported))
), noted AS (
    UPDATE maintenance.meter_sends AS send
    SET looked_by = :run_id,
        absent_since = coalesce(send.absent_since, :at),
        state = CASE
            WHEN is_proven AND is_too_old THEN 'expired'
            WHEN is_proven THEN 'pending'
            ELSE send.state
        END,
        identifier = CASE
            WHEN is_proven AND NOT is_too_old AND was_sent THEN
                split_part(send.identifier, ':', 1) || ':'
                || (coalesce(nullif(split_part(send.identifier, ':', 2), ''), '1')::integer + 1)
            ELSE send.identifier
        END,
        first_sent_at = CASE WHEN is_proven THEN NULL ELSE send.first_sent_at END,
        known_since = CASE WHEN is_proven THEN NULL ELSE send.known_since END
    FROM absent
    WHERE send.usage_event_id = absent.usage_event_id AND NOT (is_proven AND is_reported)
    RETURNING send.state, send.value
)
SELECT
    count(*) FILTER (WHERE state = 'expired') AS expired_count,
    coalesce(sum(value) FILTER (WHERE state = 'expired'), 0) AS expired_pages
FROM noted;

-- name: note_unclear
-- The sums fit neither: nobody knows whether Stripe has it. Looks that find an event absent must follow one another
-- without such a one between them.
UPDATE maintenance.meter_sends
SET state = 'in_doubt', looked_by = :run_id, absent_since = NULL
WHERE usage_event_id = ANY (CAST(:keys AS uuid[])) AND state IN ('pending', 'in_doubt');

-- name: note_open
-- The sums will say more in an hour. Nothing changes, and this run does not look again.
UPDATE maintenance.meter_sends
SET looked_by = :run_id
WHERE usage_event_id = ANY (CAST(:keys AS uuid[])) AND state IN ('pending', 'in_doubt');
