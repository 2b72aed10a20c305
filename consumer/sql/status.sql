-- What `windsor status` asks of the database.

-- name: projections
SELECT
    (SELECT max(version) FROM windsor_private.migrations) AS schema_version,
    (SELECT count(*) FROM windsor_private.users) AS users,
    (
        SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
        FROM pg_inherits AS i
        INNER JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'windsor_private.calls'::regclass
    ) AS calls_estimate,
    (
        SELECT count(*) FROM windsor_private.dead_letters
        WHERE replayed_at IS NULL AND discarded_at IS NULL
    ) AS dead_letters,
    (SELECT pruned_before::text FROM windsor_private.calls_bounds) AS pruned_before

-- By the index of the feed, in which the newest event is the last entry.
-- name: newest_event
SELECT c.received_at
FROM windsor_private.calls AS c
WHERE c.type IN ('track', 'screen')
ORDER BY c.occurred_at DESC
LIMIT 1

-- Asked only where there are no events, and with them few calls.
-- name: newest_call
SELECT max(c.received_at) FROM windsor_private.calls AS c

-- name: now
SELECT now()
