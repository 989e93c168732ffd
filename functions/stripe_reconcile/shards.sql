-- What the statements of several files have in common; it is read before each of them.

-- name: is_of_shard
-- (a condition) On a row of maintenance.meter_sends: its customer is in a shard's range of hashes, if one is given.
(CAST(:lowest_hash AS integer) IS NULL
 OR hashtext(stripe_customer_id) BETWEEN CAST(:lowest_hash AS integer) AND CAST(:highest_hash AS integer))
