-- What waits for this job, and for people.

-- name: waiting
-- Waiting: not reported, old enough, and not known to be in anybody's way yet. Dead letters: refused by Stripe, or too old
-- for it. Each in events and pages.
WITH unreported AS (
    SELECT event.pages, event.occurred_at
    FROM usage_events AS event
    LEFT JOIN maintenance.meter_sends AS send ON send.usage_event_id = event.id
    WHERE NOT event.stripe_reported AND event.occurred_at < :before
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
    (SELECT count(*) FROM maintenance.drift WHERE resolved_at IS NULL) AS unresolved_drift_count
FROM undecided;

-- name: open_sends
-- For a dry run: what is decided already and on its way, and how much of it Stripe's sums would be asked about first.
SELECT
    count(*) AS events, coalesce(sum(value), 0) AS pages, count(DISTINCT stripe_customer_id) AS customers,
    count(*) FILTER (WHERE
        (first_sent_at IS NULL AND occurred_at < :blind_after) OR first_sent_at <= :known_after) AS to_prove
FROM maintenance.meter_sends
WHERE state IN ('pending', 'sending', 'in_doubt');
