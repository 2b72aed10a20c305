-- What `windsor dead-letters` asks and marks. Pages by key: nothing here reads a value unless
-- it is asked for by id.

-- The letters of a selection; each condition counts where it is given.
-- $1 ids, $2 reason, $3 topic, $4 partition, $5 offset, $6 failed since, $7 failed before,
-- $8 whether closed ones too, $9 the newest id, $10 not replayed since.
-- name: selected
SELECT
    d.id,
    d.topic,
    d.partition,
    d."offset",
    d.position,
    d.reason,
    d.detail,
    d.value_hash,
    coalesce(octet_length(d.value), 0) AS value_bytes,
    d.record_timestamp,
    d.failed_at,
    d.replayed_at,
    d.discarded_at
FROM windsor_private.dead_letters AS d
WHERE
    ($1::bigint[] IS NULL OR d.id = ANY($1))
    AND ($2::text IS NULL OR d.reason = $2)
    AND ($3::text IS NULL OR d.topic = $3)
    AND ($4::integer IS NULL OR d.partition = $4)
    AND ($5::bigint IS NULL OR d."offset" = $5)
    AND ($6::timestamptz IS NULL OR d.failed_at >= $6)
    AND ($7::timestamptz IS NULL OR d.failed_at < $7)
    AND ($8::boolean OR (d.replayed_at IS NULL AND d.discarded_at IS NULL))
    AND ($9::bigint IS NULL OR d.id <= $9)
    AND ($10::timestamptz IS NULL OR d.replayed_at IS NULL OR d.replayed_at < $10)

-- One page of a selection, oldest first: at most $12 after the id $11.
-- name: page
SELECT s.* FROM selected AS s WHERE s.id > $11::bigint ORDER BY s.id LIMIT $12::bigint

-- What a selection holds, by topic and reason, and in all (where the topic is null). A record
-- with several letters counts once.
-- name: counts
SELECT
    l.topic,
    l.reason,
    count(*) AS letters,
    count(DISTINCT (l.topic, l.partition, l."offset", l.value_hash)) AS records
FROM (
    SELECT s.* FROM selected AS s WHERE s.id > $11::bigint ORDER BY s.id LIMIT $12::bigint
) AS l
GROUP BY GROUPING SETS ((l.topic, l.reason), ())
ORDER BY l.topic NULLS FIRST, letters DESC, l.reason

-- Where a replay begins: letters that it makes itself are newer.
-- name: bounds
SELECT coalesce(max(d.id), 0) AS newest_id, now() AS now
FROM windsor_private.dead_letters AS d

-- name: existing
SELECT d.id FROM windsor_private.dead_letters AS d WHERE d.id = ANY($1::bigint[])

-- The records of letters, raw.
-- name: records
SELECT
    d.id,
    d.topic,
    d.partition,
    d."offset",
    coalesce((extract(EPOCH FROM d.record_timestamp) * 1000)::bigint, -1) AS timestamp_ms,
    d.key,
    d.value,
    d.headers
FROM windsor_private.dead_letters AS d
WHERE d.id = ANY($1::bigint[])

-- Other letters of the same value, newest first: what became of it when it was replayed.
-- name: same_value
SELECT d.id
FROM windsor_private.dead_letters AS d
WHERE d.topic = $1 AND d.value_hash = $2 AND d.id <> $3
ORDER BY d.id DESC
LIMIT $4

-- A record was sent again whole, so with it every letter of it that was not discarded; $5 are
-- those that were selected, whatever their state.
-- name: mark_replayed
UPDATE windsor_private.dead_letters AS d
SET replayed_at = now()
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bytea[])
    AS r (topic, partition, kafka_offset, value_hash)
WHERE
    d.topic = r.topic
    AND d.partition = r.partition
    AND d."offset" = r.kafka_offset
    AND d.value_hash = r.value_hash
    AND (d.discarded_at IS NULL OR d.id = ANY($5::bigint[]))

-- name: mark_discarded
UPDATE windsor_private.dead_letters AS d
SET discarded_at = now()
WHERE d.id = ANY($1::bigint[]) AND d.replayed_at IS NULL AND d.discarded_at IS NULL
RETURNING d.id
