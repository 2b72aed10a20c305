-- Sources and their tokens: `dashboard.tokens` and `dashboard.sources`.

-- name: add
INSERT INTO windsor_private.sources (source_id, name, token_hash, calls_per_second_max)
VALUES ($1, $2, $3, $4)
RETURNING source_id, name, calls_per_second_max, created_at, last_used_at, revoked_at

-- Those in use first, each group by age.
-- name: list
SELECT source_id, name, calls_per_second_max, created_at, last_used_at, revoked_at
FROM windsor_private.sources_shown
ORDER BY revoked_at NULLS FIRST, created_at, source_id

-- By id, or by the name of one that is in use. Revoked before: as it was.
-- name: revoke
UPDATE windsor_private.sources
SET revoked_at = coalesce(revoked_at, now())
WHERE source_id = $1 OR (name = $1 AND revoked_at IS NULL)
RETURNING source_id, name, calls_per_second_max, created_at, last_used_at, revoked_at

-- What the endpoint checks tokens against.
-- name: known
SELECT source_id, name, token_hash, calls_per_second_max, revoked_at IS NOT NULL AS revoked
FROM windsor_private.sources

-- Several replicas report: the latest use stands.
-- name: used
UPDATE windsor_private.sources AS s
SET last_used_at = greatest(s.last_used_at, u.used_at)
FROM unnest($1::text [], $2::timestamptz []) AS u (source_id, used_at)
WHERE s.source_id = u.source_id
