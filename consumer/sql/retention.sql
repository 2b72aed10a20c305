-- The upkeep of the weeks of calls. The work is done by functions (schemas/migrations), since
-- the names of partitions are no parameters of a statement.

-- One worker does it; the lock goes with its connection.
-- name: try_alone
SELECT pg_try_advisory_lock(hashtext('windsor.upkeep'))

-- name: ensure_week_ahead
SELECT windsor_private.ensure_week(windsor_private.week_of($1) + 7 * $2::integer)

-- name: abandon_prunings
SELECT windsor_private.abandon_prunings()

-- name: prunable
SELECT p.leaf, p.until FROM windsor_private.prunable($1) AS p

-- name: begin_pruning
SELECT b.epoch, b.blocks FROM windsor_private.begin_pruning($1, $2) AS b

-- name: copy_kept
SELECT windsor_private.copy_kept($1, $2, $3, $4)

-- A transaction's number after all that was copied; as text, since it is compared on the server.
-- name: mark
SELECT pg_current_xact_id()::xid::text

-- name: has_older_snapshots
SELECT windsor_private.has_older_snapshots($1::text::xid)

-- name: end_pruning
SELECT windsor_private.end_pruning($1, $2, $3, $4)
