-- What an operator sees and does of the usage that is on its way to Stripe.

-- name: backlog
-- What waits, the oldest first: events that are not reported and old enough, with where they are on their way; and sends
-- that were frozen and go their way although their event is gone.
WITH waiting AS (
    SELECT
        event.id, event.user_id,
        coalesce(send.stripe_customer_id, nullif(btrim(account.stripe_customer_id), '')) AS customer,
        event.occurred_at, event.pages, coalesce(send.state, 'undecided') AS state, send.error_code,
        send.error_message, coalesce(send.attempts, 0) AS attempts, send.last_sent_at
    FROM usage_events AS event
    LEFT JOIN billing_accounts AS account ON account.user_id = event.user_id
    LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
    WHERE NOT event.stripe_reported AND event.occurred_at >= '1970-01-01Z' AND event.occurred_at < :before
      AND (send.state IS NULL OR send.state IN ('pending', 'sending', 'in_doubt', 'blocked'))
    UNION ALL
    SELECT
        send.usage_event_id, send.user_id, send.stripe_customer_id, send.occurred_at, send.value, send.state,
        send.error_code, send.error_message, send.attempts, send.last_sent_at
    FROM maintenance.meter_sends AS send
    WHERE send.state <> 'accepted' AND send.state IN ('pending', 'sending', 'in_doubt')
      AND NOT EXISTS (
          SELECT 1 FROM usage_events AS event WHERE event.id = send.usage_event_id AND NOT event.stripe_reported)
)
SELECT
    CAST(id AS text) AS event, user_id AS "user", customer, occurred_at, pages, state,
    CAST(floor(extract(epoch FROM CAST(:now AS timestamptz) - occurred_at) / 60) AS bigint) AS age_minutes,
    error_code, error_message, attempts, last_sent_at
FROM waiting
ORDER BY waiting.occurred_at, waiting.id
LIMIT :limit;

-- name: dead_letters
-- What is not sent any more, the oldest first: refused by Stripe, or too old for it.
SELECT
    CAST(usage_event_id AS text) AS event, user_id AS "user", stripe_customer_id AS customer, occurred_at, value AS pages,
    state, CAST(floor(extract(epoch FROM CAST(:now AS timestamptz) - occurred_at) / 60) AS bigint) AS age_minutes,
    error_code, error_message, identifier, attempts, last_sent_at
FROM maintenance.meter_sends
WHERE state <> 'accepted' AND state IN ('rejected', 'expired')
ORDER BY meter_sends.occurred_at, usage_event_id
LIMIT :limit;

-- name: drift
-- Where our pages and Stripe's differ, the latest first: as long as it lasts, or with `all` what is resolved too.
SELECT
    id, stripe_customer_id AS customer, period_start, period_end, CAST(usage_event_id AS text) AS event, ours, theirs,
    reason, seen_at, resolved_at
FROM maintenance.drift
WHERE resolved_at IS NULL OR CAST(:all AS boolean)
ORDER BY seen_at DESC, id DESC
LIMIT :limit;

-- name: keep_runs_out
-- Let no transaction of the job write until this one ends: each holds its fence, shared. So nothing is being sent, and
-- nothing of what is looked at here changes under it.
SELECT run_id FROM maintenance.fences WHERE job = :job ORDER BY shard FOR NO KEY UPDATE;

-- name: on_their_way
-- Where some events are on their way, and what the service's rows say of them.
SELECT
    CAST(send.usage_event_id AS text) AS event, send.state, send.stripe_customer_id AS customer, send.value AS pages,
    send.identifier, send.error_code, event.id IS NOT NULL AS is_there, coalesce(event.stripe_reported, false) AS is_reported,
    coalesce(event.stripe_record_id = send.identifier, false) AS is_our_mark
FROM maintenance.meter_sends AS send
LEFT JOIN usage_events AS event ON event.id = send.usage_event_id
WHERE send.usage_event_id = ANY (CAST(:events AS uuid[]))
ORDER BY send.usage_event_id
FOR UPDATE OF send;

-- name: decide_anew
-- Let the next run decide about refused events as if nobody had: `blocked` is what each run decides anew. Stripe has said
-- that it does not have them, but it may keep their identifiers taken: they get the next one. What was frozen is forgotten,
-- so that they can go to another customer; how often they were tried is not.
UPDATE maintenance.meter_sends
SET state = 'blocked', error_code = 'retry', error_message = NULL,
    identifier = CAST(usage_event_id AS text) || ':'
        || (coalesce(CAST(substring(identifier FROM '^[0-9a-fA-F-]{36}:([0-9]{1,6})$') AS integer), 1) + 1),
    event_name = NULL, first_sent_at = NULL, known_since = NULL, last_sent_at = NULL, absent_since = NULL
WHERE usage_event_id = ANY (CAST(:events AS uuid[])) AND state = 'rejected';

-- name: waive
-- Never bill these, and keep them on record with what was in their way.
UPDATE maintenance.meter_sends
SET state = 'waived'
WHERE usage_event_id = ANY (CAST(:events AS uuid[])) AND state IN ('rejected', 'expired', 'blocked', 'in_doubt');

-- name: customers
-- The customers to hold against Stripe's sums: one, or those with pages accepted lately first, and then all others.
SELECT customer
FROM (
    SELECT btrim(stripe_customer_id) AS customer, CAST(NULL AS timestamptz) AS accepted_at
    FROM billing_accounts
    WHERE btrim(stripe_customer_id) <> ''
    UNION ALL
    SELECT stripe_customer_id, accepted_at FROM maintenance.meter_sends WHERE state = 'accepted'
) AS known
WHERE CAST(:customer AS text) IS NULL OR customer = :customer
GROUP BY customer
ORDER BY max(accepted_at) DESC NULLS LAST, customer
LIMIT :limit;
