-- What Stripe took first and refused later.

-- name: cursor
-- Up to when the reports were read.
SELECT value FROM maintenance.cursors WHERE name = 'stripe_refusals';

-- name: move_cursor
-- Remember up to when they were read. It only ever rises.
INSERT INTO maintenance.cursors AS cursor (name, value) VALUES ('stripe_refusals', :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
WHERE CAST(cursor.value AS timestamptz) < CAST(excluded.value AS timestamptz);

-- name: refuse_ours
-- Dead letters of what we sent, or were about to, or the service under the event's own id. What left after the report was
-- made, under the same identifier, it does not speak of; but a repetition that Stripe dropped, as it does for a day, is
-- what the report speaks of.
WITH named AS (
    SELECT * FROM unnest(
        CAST(:identifiers AS text[]), CAST(:codes AS text[]), CAST(:messages AS text[])
    ) AS named (identifier, code, message)
), refused AS (
    UPDATE maintenance.meter_sends AS send
    SET state = 'rejected', error_code = named.code, error_message = named.message, accepted_at = NULL, verified_at = NULL
    FROM named
    WHERE send.identifier = named.identifier AND send.state IN ('pending', 'blocked', 'sending', 'in_doubt', 'accepted')
      AND (
          send.last_sent_at IS NULL OR send.last_sent_at <= :left_before
          OR (send.known_since <= :left_before AND send.last_sent_at < send.known_since + interval '24 hours')
          -- No identifier leaves before its event occurs, so that Stripe took one of its sendings and dropped the others.
          OR send.last_sent_at < send.occurred_at + interval '23 hours')
    RETURNING send.value
)
SELECT count(*) AS refused_count, coalesce(sum(value), 0) AS refused_pages FROM refused;

-- name: refuse_theirs
-- Dead letters of what the service itself sent: by the event's own id where the record is named after it, marked or not,
-- and otherwise (no ids given) by the record, for which all of the table is read. Gives what was found.
WITH named AS (
    SELECT * FROM unnest(
        CAST(:identifiers AS text[]), CAST(:codes AS text[]), CAST(:messages AS text[])
    ) AS named (identifier, code, message)
), refused AS (
    INSERT INTO maintenance.meter_sends
        (usage_event_id, user_id, stripe_customer_id, identifier, occurred_at, value, state, error_code, error_message)
    SELECT
        event.id, event.user_id, account.stripe_customer_id, named.identifier, event.occurred_at, event.pages,
        'rejected', named.code, named.message
    FROM usage_events AS event
    JOIN named ON CASE
        WHEN CAST(:ids AS uuid[]) IS NULL THEN event.stripe_reported AND event.stripe_record_id = named.identifier
        ELSE CAST(event.id AS text) = lower(split_part(named.identifier, ':', 1))
            AND (NOT event.stripe_reported OR event.stripe_record_id = named.identifier)
    END
    LEFT JOIN billing_accounts AS account ON account.user_id = event.user_id
    WHERE (CAST(:ids AS uuid[]) IS NULL OR event.id = ANY (CAST(:ids AS uuid[])))
    ON CONFLICT DO NOTHING
    RETURNING identifier, value
)
SELECT
    count(*) AS refused_count, coalesce(sum(value), 0) AS refused_pages,
    coalesce(array_agg(identifier), '{}') AS identifiers
FROM refused;

-- name: known_refusals
-- Which of the identifiers stand on dead letters already.
SELECT identifier FROM maintenance.meter_sends
WHERE identifier = ANY (CAST(:identifiers AS text[])) AND state = 'rejected';
