-- Whose database this is.

-- name: bound
-- What it is bound to.
SELECT instance, database, bucket, livemode FROM maintenance.identity;

-- name: bound_held
-- The same, held until the transaction ends, so that only one binds it anew at a time.
SELECT instance, database, bucket, livemode FROM maintenance.identity FOR UPDATE;

-- name: adopt
-- Bind it anew. Lateness counts from now on.
UPDATE maintenance.identity
SET instance = :instance, database = :database, bucket = :bucket, livemode = :livemode, stripe_account = NULL,
    bound_at = :now;
