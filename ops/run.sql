-- What is recorded of runs by hand.

-- name: record_action
-- Who did what, with which arguments.
INSERT INTO maintenance.operator_actions (at, by, action, arguments)
VALUES (:at, :by, :action, CAST(:arguments AS jsonb));
