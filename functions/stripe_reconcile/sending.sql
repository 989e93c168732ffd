-- How events travel: every attempt is on record before it is made, and what came of it after.
--
-- What may be sent now (`ready`):
--   a pending event that nobody can have sent without our knowing: it occurred after the takeover, and not so long ago
--   that a restored database could have forgotten an earlier send which Stripe has forgotten, too;
--   a pending event that this run has looked for at Stripe and found to be absent;
--   an event in doubt whose identifier Stripe is sure to know still: since the first attempt, or since the event itself
--   where the service may have sent it before us.

-- name: ready
-- The condition above, on a row `send`. No run tries a row twice. What was frozen for another meter is left to a person:
-- this one's words may be others.
send.tried_by IS DISTINCT FROM CAST(:run_id AS bigint)
AND coalesce(send.event_name, :event_name) = :event_name
AND (
    (send.state = 'pending' AND (
        send.occurred_at >= :blind_after
        OR (send.looked_by = :run_id AND send.absent_since IS NOT NULL)))
    OR (send.state = 'in_doubt' AND send.known_since > :known_after)
)

-- name: customers_ready
-- The customers with something to send, the soonest invoice first, then those whose invoice is closed already; of a
-- shard's range of hashes only, if one is given.
SELECT send.stripe_customer_id AS customer
FROM maintenance.meter_sends AS send
WHERE state IN ('pending', 'in_doubt') AND stripe_customer_id <> ALL (CAST(:under_way AS text[]))
  AND
  -- insert: is_of_shard
  AND
  -- insert: ready
GROUP BY send.stripe_customer_id
ORDER BY min(CASE WHEN send.invoice_closes_at <= :now THEN 1 ELSE 0 END), min(send.invoice_closes_at), 1
LIMIT :size;

-- name: lock_next
-- Choose the next events of some customers, so many of each, and lock those that are still to be reported.
-- `locked` are the service's rows that are there, not reported, and ours until the transaction ends.
WITH chosen AS MATERIALIZED (
    SELECT next.usage_event_id
    FROM unnest(CAST(:customers AS text[]), CAST(:rooms AS integer[])) AS lane (customer, room)
    CROSS JOIN LATERAL (
        SELECT send.usage_event_id
        FROM maintenance.meter_sends AS send
        WHERE send.stripe_customer_id = lane.customer AND send.state IN ('pending', 'in_doubt')
          AND
          -- insert: ready
        ORDER BY send.occurred_at
        LIMIT lane.room
    ) AS next
), locked AS MATERIALIZED (
    SELECT id FROM usage_events
    WHERE id = ANY (ARRAY(SELECT usage_event_id FROM chosen)) AND NOT stripe_reported
    FOR UPDATE SKIP LOCKED
)
SELECT CAST(chosen.usage_event_id AS text) AS key, locked.id IS NOT NULL AS is_locked
FROM chosen
LEFT JOIN locked ON locked.id = chosen.usage_event_id;

-- name: forget_gone
-- What was never frozen and is no longer there, or was reported by the service meanwhile, is not ours any more.
DELETE FROM maintenance.meter_sends AS send
WHERE send.usage_event_id = ANY (CAST(:chosen AS uuid[])) AND send.usage_event_id <> ALL (CAST(:locked AS uuid[]))
  AND send.state = 'pending'
  AND CASE
      WHEN EXISTS (SELECT 1 FROM usage_events AS event WHERE event.id = send.usage_event_id)
      THEN NOT EXISTS (
          SELECT 1 FROM usage_events AS event WHERE event.id = send.usage_event_id AND NOT event.stripe_reported)
      ELSE send.event_name IS NULL
  END;

-- name: intend
-- Freeze what is sent and put the attempt on record, before it is made. A send that was frozen before goes its way although
-- its event is gone. The others that were chosen are left as they are: somebody holds them, or the service has reported
-- them itself.
UPDATE maintenance.meter_sends AS send
SET tried_by = :run_id,
    state = CASE WHEN going.id IS NULL THEN send.state ELSE 'sending' END,
    event_name = CASE WHEN going.id IS NULL THEN send.event_name ELSE coalesce(send.event_name, :event_name) END,
    attempts = send.attempts + CASE WHEN going.id IS NULL THEN 0 ELSE 1 END,
    first_sent_at = CASE WHEN going.id IS NULL THEN send.first_sent_at ELSE coalesce(send.first_sent_at, :at) END,
    -- The service may have sent it when it occurred, under the same identifier; unless that was just looked for in vain.
    known_since = CASE
        WHEN going.id IS NULL THEN send.known_since
        WHEN send.looked_by = :run_id AND send.absent_since IS NOT NULL THEN coalesce(send.known_since, :at)
        ELSE coalesce(send.known_since, send.occurred_at)
    END,
    last_sent_at = CASE WHEN going.id IS NULL THEN send.last_sent_at ELSE :at END,
    -- What was seen before a send says nothing about what was sent.
    absent_since = CASE WHEN going.id IS NULL THEN send.absent_since END
FROM maintenance.meter_sends AS before
LEFT JOIN LATERAL (
    SELECT before.usage_event_id AS id
    WHERE before.usage_event_id = ANY (CAST(:locked AS uuid[]))
       OR (before.event_name IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM usage_events AS event WHERE event.id = before.usage_event_id))
) AS going ON true
-- What another shard has just found refused is not sent any more.
WHERE send.usage_event_id = ANY (CAST(:chosen AS uuid[])) AND before.usage_event_id = send.usage_event_id
  AND send.state IN ('pending', 'in_doubt')
RETURNING
    CAST(send.usage_event_id AS text) AS key, send.stripe_customer_id AS customer, send.event_name, send.identifier,
    send.occurred_at, send.value, before.first_sent_at IS NOT NULL AS doubtful, going.id IS NOT NULL AS is_going;
