-- What came of events is noted: in our table, and in the service's row of the event.

-- name: adopt_orphans
-- Attempts of a run that died on the way: nobody knows what came of them. Of a shard's customers alone, where a shard
-- asks: the others may be under way.
UPDATE maintenance.meter_sends SET state = 'in_doubt'
WHERE state = 'sending'
  AND
  -- insert: is_of_shard
;

-- name: note_accepted
-- Stripe has these. Late: sent by us after the invoice of their period was closed.
WITH accepted AS (
    UPDATE maintenance.meter_sends
    SET state = 'accepted', accepted_at = :at, absent_since = NULL, error_message = NULL,
        late = coalesce(last_sent_at > invoice_closes_at, false),
        error_code = CASE WHEN usage_event_id = ANY (CAST(:existed AS uuid[])) THEN 'existed' END
    WHERE usage_event_id = ANY (CAST(:keys AS uuid[])) AND state IN ('pending', 'sending', 'in_doubt')
    RETURNING value, late
)
SELECT
    count(*) AS success_count, coalesce(sum(value), 0) AS success_pages,
    count(*) FILTER (WHERE late) AS late_count, coalesce(sum(value) FILTER (WHERE late), 0) AS late_pages
FROM accepted;

-- name: mark_reported
-- Mark the service's events that Stripe has. One that the service holds at this moment is marked by the next run.
-- With no keys given: all that are accepted and not marked yet, so many at most.
WITH mine AS MATERIALIZED (
    SELECT event.id, send.identifier
    FROM usage_events AS event
    JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
    WHERE NOT event.stripe_reported AND send.state = 'accepted'
      AND (CAST(:keys AS uuid[]) IS NULL OR event.id = ANY (CAST(:keys AS uuid[])))
    LIMIT :size
    FOR UPDATE OF event SKIP LOCKED
)
UPDATE usage_events AS event
SET stripe_reported = true, stripe_record_id = mine.identifier
FROM mine
WHERE event.id = mine.id AND NOT event.stripe_reported;

-- name: forget_blocked
-- What could not be told whether to bill, and is gone, or was reported by the service meanwhile.
DELETE FROM maintenance.meter_sends AS send
WHERE send.state = 'blocked'
  AND NOT EXISTS (SELECT 1 FROM usage_events AS event WHERE event.id = send.usage_event_id AND NOT event.stripe_reported);

-- name: unmark_rejected
-- What Stripe refused after all is not reported. One that the service holds at this moment waits for the next run.
WITH mine AS MATERIALIZED (
    SELECT event.id, send.identifier
    FROM maintenance.meter_sends AS send
    JOIN usage_events AS event ON event.id = send.usage_event_id
    WHERE send.state = 'rejected' AND event.stripe_reported AND event.stripe_record_id = send.identifier
    FOR UPDATE OF event SKIP LOCKED
)
UPDATE usage_events AS event
SET stripe_reported = false, stripe_record_id = NULL
FROM mine
WHERE event.id = mine.id AND event.stripe_record_id = mine.identifier;

-- name: note_foreign_records
-- Accepted from us, and on record as reported under another name or as not billable: perhaps billed twice. For a person.
-- With no keys given: of all that were not verified yet.
INSERT INTO maintenance.drift
    (stripe_customer_id, period_start, period_end, usage_event_id, ours, theirs, reason, seen_at)
SELECT
    send.stripe_customer_id, date_trunc('minute', send.occurred_at), date_trunc('minute', send.occurred_at) + interval '1 minute',
    send.usage_event_id, send.value,
    CAST(send.value AS bigint) * CASE WHEN event.stripe_record_id IS NULL THEN 1 ELSE 2 END,
    'foreign_record', :at
FROM maintenance.meter_sends AS send
JOIN usage_events AS event ON event.id = send.usage_event_id
WHERE (CAST(:keys AS uuid[]) IS NULL OR send.usage_event_id = ANY (CAST(:keys AS uuid[])))
  AND send.state = 'accepted' AND send.verified_at IS NULL
  AND event.stripe_reported AND event.stripe_record_id IS DISTINCT FROM send.identifier
ON CONFLICT DO NOTHING;

-- name: note_others
-- What became of the rest: refused for good, or too old, or in doubt; with Stripe's code and text where there are any.
WITH ended AS (
    SELECT * FROM unnest(
        CAST(:keys AS uuid[]), CAST(:states AS text[]), CAST(:codes AS text[]), CAST(:messages AS text[])
    ) AS ended (key, state, code, message)
), settled AS (
    UPDATE maintenance.meter_sends AS send
    SET state = ended.state, error_code = ended.code, error_message = ended.message
    FROM ended
    WHERE send.usage_event_id = ended.key AND send.state = 'sending'
    RETURNING send.state, send.value
)
SELECT
    count(*) FILTER (WHERE state = 'rejected') AS rejected_count,
    coalesce(sum(value) FILTER (WHERE state = 'rejected'), 0) AS rejected_pages,
    count(*) FILTER (WHERE state = 'expired') AS expired_count,
    coalesce(sum(value) FILTER (WHERE state = 'expired'), 0) AS expired_pages
FROM settled;

-- name: take_back
-- The attempt on record was not made. What had never been sent before is as it was; the rest is in doubt as before.
UPDATE maintenance.meter_sends AS send
SET attempts = attempts - 1,
    state = CASE WHEN usage_event_id = ANY (CAST(:fresh AS uuid[])) THEN 'pending' ELSE 'in_doubt' END,
    event_name = CASE
        WHEN usage_event_id = ANY (CAST(:fresh AS uuid[])) AND identifier = CAST(usage_event_id AS text) THEN NULL
        ELSE event_name
    END,
    first_sent_at = CASE WHEN usage_event_id = ANY (CAST(:fresh AS uuid[])) THEN NULL ELSE first_sent_at END,
    known_since = CASE WHEN usage_event_id = ANY (CAST(:fresh AS uuid[])) THEN NULL ELSE known_since END,
    last_sent_at = CASE WHEN usage_event_id = ANY (CAST(:fresh AS uuid[])) THEN NULL ELSE last_sent_at END
WHERE usage_event_id = ANY (CAST(:keys AS uuid[])) AND state = 'sending';
