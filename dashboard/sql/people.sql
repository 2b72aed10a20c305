-- People: who somebody is, who is there, and who fits a search.

-- Whoever an id is: of a user, old ids too. $1: kind. $2: value.
-- name: identity
SELECT
    i.id,
    i.kind::text AS kind,
    i.value,
    m.user_id AS owner_id,
    u.user_id
FROM windsor_dashboard.identities AS i
LEFT JOIN windsor_dashboard.members AS m ON m.identity_id = i.id
LEFT JOIN windsor_dashboard.users AS u ON u.id = m.user_id
WHERE i.kind = $1::text::windsor_private.identity_kind AND i.value = $2

-- What a visitor has said of themselves. $1: the identity.
-- name: traits_of_identity
SELECT
    CASE WHEN pg_column_size(i.traits) < 4194304 THEN i.traits ELSE '{}' END AS traits,
    CASE WHEN pg_column_size(i.traits) < 4194304 THEN i.trait_clocks ELSE '{}' END AS trait_clocks
FROM windsor_dashboard.identities AS i
WHERE i.id = $1

-- name: user
SELECT
    u.id,
    u.user_id,
    left(u.name, 300) AS person_name,
    left(u.email, 300) AS email,
    left(u.phone, 100) AS phone,
    left(u.avatar, 2001) AS avatar,
    u.group_id,
    left(g.name, 300) AS group_name,
    u.identified,
    u.identities_count,
    u.first_seen_at,
    u.last_seen_at,
    -- More than four megabytes of traits nobody reads on a page.
    CASE WHEN pg_column_size(u.traits) < 4194304 THEN u.traits ELSE '{}' END AS traits,
    CASE WHEN pg_column_size(u.traits) < 4194304 THEN u.trait_clocks ELSE '{}' END AS trait_clocks,
    'user' AS kind,
    u.user_id AS value
FROM windsor_dashboard.users AS u
LEFT JOIN windsor_dashboard.groups AS g ON g.group_id = u.group_id
WHERE u.id = $1

-- The identities of a user, with the call by which each is theirs. $1: the user. $2: how many.
-- name: identities_of_user
SELECT
    i.id,
    i.kind::text AS kind,
    i.value,
    i.claimed_at,
    i.claimed_message_id,
    c.type::text AS claimed_type,
    owner.value AS claimed_by_value,
    owner.id = i.id AS is_claimed_by_itself,
    s.first_at,
    s.last_at
FROM windsor_dashboard.members AS m
INNER JOIN windsor_dashboard.identities AS i ON i.id = m.identity_id
LEFT JOIN windsor_dashboard.identities AS owner ON owner.id = i.claimed_by
LEFT JOIN windsor_dashboard.seen AS s ON s.identity_id = i.id
LEFT JOIN LATERAL (
    SELECT c.type
    FROM windsor_dashboard.calls AS c
    WHERE
        c.identity_id = i.claimed_by
        AND c.occurred_at = i.claimed_at
        AND c.message_id = i.claimed_message_id
    LIMIT 1
) AS c ON true
WHERE m.user_id = $1
ORDER BY i.claimed_at NULLS LAST, i.id
LIMIT $2

-- name: identity_ids_of_user
SELECT m.identity_id FROM windsor_dashboard.members AS m WHERE m.user_id = $1 LIMIT $2

-- The aliases that concern some identities, newest first. $1: identities. $2: how many.
-- name: merges_of_user
SELECT DISTINCT
    al.occurred_at,
    al.message_id,
    previous.value AS previous_id,
    named.value AS user_id,
    al.undone_at
FROM unnest($1::bigint[]) AS one (identity_id)
CROSS JOIN LATERAL (
    SELECT al.* FROM windsor_dashboard.aliases AS al WHERE al.user_identity_id = one.identity_id
    UNION ALL
    SELECT al.* FROM windsor_dashboard.aliases AS al WHERE al.previous_identity_id = one.identity_id
) AS al
INNER JOIN windsor_dashboard.identities AS previous ON previous.id = al.previous_identity_id
INNER JOIN windsor_dashboard.identities AS named ON named.id = al.user_identity_id
ORDER BY al.occurred_at DESC
LIMIT $2

-- What a trait has been, newest first. $1: identities. $2: the key. $3: how many.
-- name: trait_history
SELECT
    c.occurred_at,
    c.message_id,
    left((c.told -> $2)::text, 2000) AS value
FROM unnest($1::bigint[]) AS one (identity_id)
CROSS JOIN LATERAL (
    SELECT
        c.occurred_at,
        c.message_id,
        t.told
    FROM windsor_dashboard.calls AS c
    CROSS JOIN LATERAL (
        SELECT coalesce(nullif(c.traits, '{}'), c.context -> 'traits') AS told
    ) AS t
    WHERE c.identity_id = one.identity_id AND c.type = 'identify' AND t.told ? $2
    ORDER BY c.occurred_at DESC
    LIMIT $3
) AS c
ORDER BY c.occurred_at DESC, c.message_id DESC
LIMIT $3

-- Users by their last sighting, newest first: calls are walked backwards, and a user is met at
-- the call that is their last.
-- $1, $2: the place to go on from. $3: how far to walk. $4: group. $5: a trait that is there.
-- $6: its value. $7: an audience. $8: whether any value of that counts. $9: how many to show.
-- The last row has no user: it says how far the walk came; none at the end of all calls.
-- name: users_by_last_seen
WITH walked AS MATERIALIZED (
    SELECT w.*
    FROM (
        (
            SELECT c.occurred_at, c.message_key, c.identity_id
            FROM windsor_dashboard.calls AS c
            WHERE
                c.type IN ('track', 'screen')
                AND c.occurred_at <= $1
                AND (c.occurred_at, c.message_key) < ($1, $2)
            ORDER BY c.occurred_at DESC, c.message_key DESC
            LIMIT $3
        )
        UNION ALL
        (
            SELECT c.occurred_at, c.message_key, c.identity_id
            FROM windsor_dashboard.calls AS c
            WHERE
                c.type IN ('identify', 'page', 'group', 'alias')
                AND c.occurred_at <= $1
                AND (c.occurred_at, c.message_key) < ($1, $2)
            ORDER BY c.occurred_at DESC, c.message_key DESC
            LIMIT $3
        )
    ) AS w
    ORDER BY w.occurred_at DESC, w.message_key DESC
    LIMIT $3
),

met AS MATERIALIZED (
    SELECT DISTINCT ON (m.user_id)
        m.user_id AS id,
        w.occurred_at,
        w.message_key
    FROM walked AS w
    -- The last of its identity; what came by an email or phone is no sighting.
    INNER JOIN windsor_dashboard.seen AS s
        ON s.identity_id = w.identity_id AND s.last_at = w.occurred_at
    INNER JOIN windsor_dashboard.members AS m ON m.identity_id = w.identity_id
    ORDER BY m.user_id, w.occurred_at DESC, w.message_key DESC
),

-- In order before they are looked at, so that no more are than are shown.
in_order AS MATERIALIZED (
    SELECT met.*
    FROM met
    ORDER BY met.occurred_at DESC, met.message_key DESC
),

shown AS MATERIALIZED (
    SELECT
        o.id,
        o.occurred_at,
        o.message_key
    FROM in_order AS o
    WHERE
        o.occurred_at = (
            SELECT
                max((
                    SELECT s.last_at FROM windsor_dashboard.seen AS s
                    WHERE s.identity_id = m.identity_id
                ))
            FROM windsor_dashboard.members AS m
            WHERE m.user_id = o.id
        )
        -- Two calls of one moment may be on two pages: whoever was met on the one before is not
        -- met again.
        AND (
            o.occurred_at < $1
            OR NOT EXISTS (
                SELECT
                FROM windsor_dashboard.members AS m
                INNER JOIN windsor_dashboard.seen AS s
                    ON s.identity_id = m.identity_id AND s.last_at = $1
                CROSS JOIN LATERAL (
                    SELECT
                    FROM windsor_dashboard.calls AS c
                    WHERE
                        c.identity_id = m.identity_id
                        AND c.occurred_at = $1
                        AND c.message_key >= $2
                    LIMIT 1
                ) AS c
                WHERE m.user_id = o.id
            )
        )
        AND (
            ($4::text IS NULL AND $5::text IS NULL AND $7::text IS NULL)
            OR EXISTS (
                SELECT
                FROM windsor_dashboard.users AS u
                WHERE
                    u.id = o.id
                    AND ($4::text IS NULL OR u.group_id = $4)
                    AND (
                        $5::text IS NULL
                        OR (u.traits ? $5 AND ($6::text IS NULL OR u.traits ->> $5 = $6))
                    )
                    AND ($7::text IS NULL OR CASE
                        WHEN $8 THEN u.traits ? $7
                        ELSE u.traits -> $7 IN ('true'::jsonb, '"true"'::jsonb)
                    END)
            )
        )
    ORDER BY o.occurred_at DESC, o.message_key DESC
    LIMIT $9
),

reached AS (
    SELECT
        w.occurred_at,
        w.message_key,
        count(*) OVER () AS walked_count
    FROM walked AS w
    ORDER BY w.occurred_at, w.message_key
    LIMIT 1
)

SELECT
    s.occurred_at,
    s.message_key,
    u.id,
    u.user_id,
    left(u.name, 300) AS person_name,
    left(u.email, 300) AS email,
    left(u.phone, 100) AS phone,
    left(u.avatar, 2001) AS avatar,
    u.group_id,
    left(g.name, 300) AS group_name,
    u.identified,
    u.first_seen_at,
    s.occurred_at AS last_seen_at
FROM shown AS s
INNER JOIN windsor_dashboard.users AS u ON u.id = s.id
LEFT JOIN windsor_dashboard.groups AS g ON g.group_id = u.group_id
UNION ALL
SELECT r.occurred_at, r.message_key, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM reached AS r
WHERE r.walked_count >= $3
ORDER BY occurred_at DESC, message_key DESC

-- Of some users those that fit, by their last sighting; as above, $1: ids of users.
-- $2, $3: the place to go on from: a time and a user. $4 to $8: as above. $9: how many to show.
-- name: users_among
SELECT
    u.id,
    u.user_id,
    left(u.name, 300) AS person_name,
    left(u.email, 300) AS email,
    left(u.phone, 100) AS phone,
    left(u.avatar, 2001) AS avatar,
    u.group_id,
    left(g.name, 300) AS group_name,
    u.identified,
    u.first_seen_at,
    u.last_seen_at
FROM unnest($1::bigint[]) AS one (id)
INNER JOIN windsor_dashboard.users AS u ON u.id = one.id
LEFT JOIN windsor_dashboard.groups AS g ON g.group_id = u.group_id
WHERE
    ($4::text IS NULL OR u.group_id = $4)
    AND ($5::text IS NULL OR (u.traits ? $5 AND ($6::text IS NULL OR u.traits ->> $5 = $6)))
    AND ($7::text IS NULL OR CASE
        WHEN $8 THEN u.traits ? $7
        ELSE u.traits -> $7 IN ('true'::jsonb, '"true"'::jsonb)
    END)
    AND (coalesce(u.last_seen_at, '0001-01-01'), u.id) < ($2, $3)
ORDER BY coalesce(u.last_seen_at, '0001-01-01') DESC, u.id DESC
LIMIT $9

-- Users with an id or contact that begins so, old ones too. $1: beginnings. $2: their ends.
-- $3: how many of each.
-- name: users_by_identity
SELECT DISTINCT f.user_id AS id
FROM unnest($1::text[], $2::text[]) AS p (from_value, to_value)
CROSS JOIN unnest(enum_range(NULL::windsor_private.identity_kind)) AS k (kind)
CROSS JOIN LATERAL (
    SELECT m.user_id
    FROM (
        SELECT i.id
        FROM windsor_dashboard.identities AS i
        WHERE i.kind = k.kind AND i.value >= p.from_value AND i.value < p.to_value
        ORDER BY i.value
        LIMIT $3
    ) AS i
    INNER JOIN windsor_dashboard.members AS m ON m.identity_id = i.id
) AS f

-- Users with such words in their name. $1: a text search query. $2: how many.
-- name: users_by_name
SELECT u.id
FROM windsor_dashboard.users AS u
WHERE to_tsvector('simple', u.name_searched) @@ to_tsquery('simple', $1)
LIMIT $2

-- Users of a group, as many as are asked for. $1: the group. $2: how many.
-- name: users_of_group
SELECT u.id FROM windsor_dashboard.users AS u WHERE u.group_id = $1 LIMIT $2

-- name: users_count
SELECT count(*) FROM windsor_dashboard.users

-- name: identified_count
SELECT count(*) FROM windsor_dashboard.users AS u WHERE u.identified

-- All that fit, for a file: some at a time, in the order of the keys. $1 to $5: as $4 to $8 above.
-- $6: of these users alone; of all where NULL. $7: the last key before. $8: how many.
-- name: users_export
SELECT
    u.id,
    u.user_id,
    u.email,
    u.name,
    u.phone,
    u.group_id,
    u.identified,
    u.first_seen_at,
    u.last_seen_at,
    u.traits
FROM windsor_dashboard.users AS u
WHERE
    ($1::text IS NULL OR u.group_id = $1)
    AND ($2::text IS NULL OR (u.traits ? $2 AND ($3::text IS NULL OR u.traits ->> $2 = $3)))
    AND ($4::text IS NULL OR CASE
        WHEN $5 THEN u.traits ? $4
        ELSE u.traits -> $4 IN ('true'::jsonb, '"true"'::jsonb)
    END)
    AND ($6::bigint[] IS NULL OR u.id = ANY($6))
    AND u.id > $7
ORDER BY u.id
LIMIT $8

-- name: audiences
SELECT a.name, a.computation_class, a.synced_at, a.is_trait
FROM windsor_dashboard.audiences AS a
ORDER BY a.name
LIMIT $1
