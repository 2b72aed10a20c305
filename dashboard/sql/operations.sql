-- Dead letters and health.

-- Dead letters, newest first. $1: before this id. $2: reason. $3: closed ones too.
-- $4: how many are looked at. $5: how many to show.
-- The last row has no reason: it says how far the look came.
-- name: dead_letters
WITH looked AS MATERIALIZED (
    SELECT d.id, d.reason, d.replayed_at, d.discarded_at
    FROM windsor_dashboard.dead_letters AS d
    WHERE d.id < $1
    ORDER BY d.id DESC
    LIMIT $4
),

shown AS MATERIALIZED (
    SELECT l.id
    FROM looked AS l
    WHERE
        ($2::text IS NULL OR l.reason = $2)
        AND ($3 OR (l.replayed_at IS NULL AND l.discarded_at IS NULL))
    ORDER BY l.id DESC
    LIMIT $5
)

SELECT
    d.id,
    d.topic,
    d.partition,
    d."offset",
    d.position,
    d.record_timestamp,
    d.reason,
    left(d.detail, 500) AS detail,
    d.failed_at,
    d.replayed_at,
    d.discarded_at
FROM shown AS s
INNER JOIN windsor_dashboard.dead_letters AS d ON d.id = s.id
UNION ALL
SELECT min(l.id), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM looked AS l
HAVING count(*) >= $4
ORDER BY id DESC

-- Open ones by reason, of the last so many. $1: how many.
-- name: dead_letters_by_reason
SELECT l.reason, count(*) AS letters
FROM (
    SELECT d.reason, d.replayed_at, d.discarded_at
    FROM windsor_dashboard.dead_letters AS d
    ORDER BY d.id DESC
    LIMIT $1
) AS l
WHERE l.replayed_at IS NULL AND l.discarded_at IS NULL
GROUP BY l.reason
ORDER BY letters DESC, l.reason

-- One letter; of what is long the beginning. $1: its id. $2: how many bytes.
-- name: dead_letter
SELECT
    d.id,
    d.topic,
    d.partition,
    d."offset",
    d.position,
    d.record_timestamp,
    d.reason,
    left(d.detail, 2000) AS detail,
    substring(d.key FROM 1 FOR 2000) AS key,
    substring(d.value FROM 1 FOR $2) AS value,
    octet_length(d.value) AS value_bytes,
    left(d.headers::text, 10000) AS headers,
    d.failed_at,
    d.replayed_at,
    d.discarded_at
FROM windsor_dashboard.dead_letters AS d
WHERE d.id = $1

-- Events by minute, of the last so many. $1: since. $2: how many.
-- name: events_by_minute
SELECT date_bin('1 minute', c.occurred_at, '2000-01-01') AS minute, count(*) AS events
FROM (
    SELECT c.occurred_at
    FROM windsor_dashboard.calls AS c
    WHERE c.type IN ('track', 'screen') AND c.occurred_at >= $1 AND c.occurred_at <= now()
    ORDER BY c.occurred_at DESC
    LIMIT $2
) AS c
GROUP BY 1
ORDER BY 1

-- name: newest_event
SELECT c.occurred_at, c.received_at
FROM windsor_dashboard.calls AS c
WHERE c.type IN ('track', 'screen') AND c.occurred_at <= now()
ORDER BY c.occurred_at DESC
LIMIT 1

-- name: storage
SELECT sum(s.calls_estimate)::bigint AS calls, sum(s.bytes)::bigint AS bytes
FROM windsor_dashboard.storage AS s

-- name: schema_version
SELECT max(m.version) AS version FROM windsor_private.migrations AS m

-- A token's hash, where the token may read. $1: the id of its source.
-- name: reading_token
SELECT s.token_hash
FROM windsor_private.sources AS s
WHERE s.source_id = $1 AND s.revoked_at IS NULL AND s.may_read

-- name: let_read
UPDATE windsor_private.sources SET may_read = true WHERE source_id = $1

-- name: reading_sources
SELECT s.source_id FROM windsor_private.sources AS s WHERE s.may_read
