-- What waits for this job, and for people.

-- name: waiting
-- Waiting: not reported, old enough, and not known to be in anybody's way yet. Dead letters: refused by Stripe, or too old
-- for it. Each in events and pages. Misdated: not reported, and of a time that cannot be.
WITH unreported AS (
    SELECT event.pages, event.occurred_at
    FROM usage_events AS event
    LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
    WHERE NOT event.stripe_reported AND event.occurred_at >= '1970-01-01Z' AND event.occurred_at < :before
      AND (send.state IS NULL OR send.state IN ('pending', 'sending'))
), undecided AS (
    SELECT state, count(*) AS events, sum(value) AS pages
    FROM maintenance.meter_sends
    WHERE state <> 'accepted' AND state IN ('in_doubt', 'blocked', 'rejected', 'expired')
    GROUP BY state
)
SELECT
    (SELECT count(*) FROM unreported) AS waiting_count,
    (SELECT coalesce(sum(pages), 0) FROM unreported) AS waiting_pages,
    (SELECT coalesce(floor(extract(epoch FROM CAST(:now AS timestamptz) - min(occurred_at)) / 60), 0) FROM unreported)
        AS oldest_waiting_minutes,
    coalesce(sum(events) FILTER (WHERE state = 'in_doubt'), 0) AS in_doubt_count,
    coalesce(sum(pages) FILTER (WHERE state = 'in_doubt'), 0) AS in_doubt_pages,
    coalesce(sum(events) FILTER (WHERE state = 'blocked'), 0) AS blocked_count,
    coalesce(sum(pages) FILTER (WHERE state = 'blocked'), 0) AS blocked_pages,
    coalesce(sum(events) FILTER (WHERE state IN ('rejected', 'expired')), 0) AS dead_letter_count,
    coalesce(sum(pages) FILTER (WHERE state IN ('rejected', 'expired')), 0) AS dead_letter_pages,
    (SELECT count(*) FROM usage_events
     WHERE NOT stripe_reported
       AND (occurred_at < '1970-01-01Z' OR occurred_at > CAST(:now AS timestamptz) + interval '1 day')) AS misdated_count,
    (SELECT count(*) FROM maintenance.drift WHERE resolved_at IS NULL) AS unresolved_drift_count
FROM undecided;
