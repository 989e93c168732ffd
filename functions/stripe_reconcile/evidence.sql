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
    OR (send.state = 'in_doubt' AND (send.first_sent_at IS NULL OR send.first_sent_at <= :known_after))
)

-- name: customers_in_question
-- The customers with something in question, the soonest invoice first, then those whose invoice is closed already.
SELECT send.stripe_customer_id AS customer
FROM maintenance.meter_sends AS send
WHERE state IN ('pending', 'in_doubt') AND stripe_customer_id <> ALL (CAST(:passed_by AS text[]))
  AND
  -- insert: open_question
GROUP BY send.stripe_customer_id
ORDER BY min(CASE WHEN send.invoice_closes_at <= :now THEN 1 ELSE 0 END), min(send.invoice_closes_at), 1
LIMIT :size;

-- name: questions
-- The oldest events in question of some customers, so many of each at most, and all others of theirs that may stand at
-- Stripe in the same time without our knowing. Where the service's row is gone, others may be gone with it.
WITH asked AS MATERIALIZED (
    SELECT customer.id AS customer, chosen.usage_event_id, chosen.occurred_at
    FROM unnest(CAST(:customers AS text[])) AS customer (id)
    CROSS JOIN LATERAL (
        SELECT send.usage_event_id, send.occurred_at
        FROM maintenance.meter_sends AS send
        WHERE send.stripe_customer_id = customer.id AND send.state IN ('pending', 'in_doubt')
          AND
          -- insert: open_question
        ORDER BY send.occurred_at
        LIMIT :most
    ) AS chosen
), range AS (
    SELECT customer, min(occurred_at) - interval '2 hours' AS starts, max(occurred_at) + interval '2 hours' AS ends
    FROM asked
    GROUP BY customer
)
SELECT
    send.stripe_customer_id AS customer, CAST(send.usage_event_id AS text) AS key, send.user_id, send.occurred_at,
    send.value AS pages, asked.usage_event_id IS NOT NULL AS is_asked, event.id IS NULL AS is_gone
FROM range
JOIN maintenance.meter_sends AS send
    ON send.stripe_customer_id = range.customer AND send.state IN ('pending', 'sending', 'in_doubt')
    AND send.occurred_at BETWEEN range.starts AND range.ends
LEFT JOIN asked ON asked.usage_event_id = send.usage_event_id
LEFT JOIN usage_events AS event ON event.id = send.usage_event_id
ORDER BY send.stripe_customer_id, send.occurred_at;

-- name: known_pages
-- Pages known to be accepted at Stripe, by customer and minute: ours, and those that the service has marked as reported
-- itself. Ours stand at Stripe in their own minute, unless Stripe had them before: then the service may have sent them.
WITH wanted AS (
    SELECT * FROM unnest(
        CAST(:customers AS text[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])
    ) AS wanted (customer, starts, ends)
), ours AS (
    SELECT
        wanted.customer, date_trunc('minute', send.occurred_at) AS minute, send.value AS pages,
        send.error_code IS NULL AS is_exact
    FROM wanted
    JOIN maintenance.meter_sends AS send
        ON send.stripe_customer_id = wanted.customer AND send.state = 'accepted'
        AND send.occurred_at BETWEEN wanted.starts AND wanted.ends
), theirs AS (
    SELECT
        wanted.customer, date_trunc('minute', event.occurred_at) AS minute, event.pages, false AS is_exact
    FROM wanted
    JOIN billing_accounts AS account ON btrim(account.stripe_customer_id) = wanted.customer
    JOIN usage_events AS event
        ON event.user_id = account.user_id AND event.occurred_at BETWEEN wanted.starts AND wanted.ends
    WHERE event.stripe_reported AND event.stripe_record_id IS NOT NULL AND event.pages > 0
      AND NOT EXISTS (SELECT 1 FROM maintenance.meter_sends AS send WHERE send.usage_event_id = event.id)
)
SELECT customer, minute, is_exact, sum(pages) AS pages
FROM (SELECT * FROM ours UNION ALL SELECT * FROM theirs) AS known
GROUP BY customer, minute, is_exact
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
        first_sent_at = CASE WHEN is_proven THEN NULL ELSE send.first_sent_at END
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
