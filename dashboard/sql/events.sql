-- Events: the feed, and the timelines of people and groups. Each walks an index backwards and
-- stops at a bounded number of calls; what the walk did not reach, the next page goes on with.
-- A place in the feed is (occurred_at, message_key): pages are cut there, never by counting.

-- The feed. Only the keys of what is walked are read; the whole call for what is shown.
-- $1, $2: the place to go on from. $3: not before. $4: pages too. $5: how far to walk.
-- $6: category. $7: event name. $8: names that are hidden. $9: group. $10: how many to show.
-- $11, $12: names that the workspace has put into this category, and into others.
-- The last row has no call: it says how far the walk came, NULL at the end of all calls.
-- name: feed
WITH walked AS MATERIALIZED (
    SELECT w.*
    FROM (
        (
            SELECT c.occurred_at, c.message_key, c.identity_id, c.name, c.category
            FROM windsor_dashboard.calls AS c
            WHERE
                c.type IN ('track', 'screen')
                AND c.occurred_at <= $1
                AND (c.occurred_at, c.message_key) < ($1, $2)
                AND c.occurred_at >= $3
            ORDER BY c.occurred_at DESC, c.message_key DESC
            LIMIT $5
        )
        UNION ALL
        (
            SELECT c.occurred_at, c.message_key, c.identity_id, c.name, c.category
            FROM windsor_dashboard.calls AS c
            WHERE
                $4
                AND c.type IN ('identify', 'page', 'group', 'alias')
                AND c.type = 'page'
                AND c.occurred_at <= $1
                AND (c.occurred_at, c.message_key) < ($1, $2)
                AND c.occurred_at >= $3
            ORDER BY c.occurred_at DESC, c.message_key DESC
            LIMIT $5
        )
    ) AS w
    ORDER BY w.occurred_at DESC, w.message_key DESC
    LIMIT $5
),

shown AS MATERIALIZED (
    SELECT w.*
    FROM walked AS w
    WHERE
        (
            $6::text IS NULL
            OR w.name = ANY($11::text[])
            OR (w.category = $6 AND coalesce(NOT w.name = ANY($12::text[]), true))
        )
        AND ($7::text IS NULL OR w.name = $7)
        AND (w.name IS NULL OR NOT w.name = ANY($8::text[]))
        AND (
            $9::text IS NULL
            OR $9 = (
                SELECT u.group_id
                FROM windsor_dashboard.members AS m
                INNER JOIN windsor_dashboard.users AS u ON u.id = m.user_id
                WHERE m.identity_id = w.identity_id
            )
        )
    ORDER BY w.occurred_at DESC, w.message_key DESC
    LIMIT $10
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
    c.received_at,
    c.message_id,
    c.type::text AS type,
    left(c.name, 1000) AS name,
    c.category,
    windsor_dashboard.when_small(c.properties) AS properties,
    windsor_dashboard.when_small(c.context) AS context,
    c.identity_id,
    i.kind::text AS kind,
    i.value,
    u.user_id,
    left(u.name, 300) AS person_name,
    left(u.email, 300) AS email,
    left(u.phone, 100) AS phone,
    left(u.avatar, 2001) AS avatar,
    u.group_id,
    left(g.name, 300) AS group_name
FROM shown AS s
CROSS JOIN LATERAL (
    SELECT c.*
    FROM windsor_dashboard.calls AS c
    WHERE
        c.identity_id = s.identity_id
        AND c.occurred_at = s.occurred_at
        AND c.message_key = s.message_key
    LIMIT 1
) AS c
INNER JOIN windsor_dashboard.identities AS i ON i.id = s.identity_id
LEFT JOIN windsor_dashboard.members AS m ON m.identity_id = s.identity_id
LEFT JOIN windsor_dashboard.users AS u ON u.id = m.user_id
LEFT JOIN windsor_dashboard.groups AS g ON g.group_id = u.group_id
UNION ALL
SELECT
    r.occurred_at, r.message_key, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL
FROM reached AS r
WHERE r.walked_count >= $5
ORDER BY occurred_at DESC, message_key DESC

-- The timeline of some identities: of one person, or of a small group's.
-- $1: ids of identities. $2, $3: the place to go on from. $4: not before. $5: types.
-- $6: category. $7: event name. $8: names that are hidden. $9: how many to show.
-- $10, $11: as $11, $12 above.
-- name: timeline
WITH found AS MATERIALIZED (
    SELECT c.*
    FROM unnest($1::bigint[]) AS one (identity_id)
    CROSS JOIN LATERAL (
        SELECT c.*
        FROM windsor_dashboard.calls AS c
        WHERE
            c.identity_id = one.identity_id
            AND c.occurred_at <= $2
            AND (c.occurred_at, c.message_key) < ($2, $3)
            AND c.occurred_at >= $4
            AND c.type::text = ANY($5::text[])
            AND (
                $6::text IS NULL
                OR c.name = ANY($10::text[])
                OR (c.category = $6 AND coalesce(NOT c.name = ANY($11::text[]), true))
            )
            AND ($7::text IS NULL OR c.name = $7)
            AND (c.name IS NULL OR NOT c.name = ANY($8::text[]))
        ORDER BY c.occurred_at DESC, c.message_key DESC
        LIMIT $9
    ) AS c
    ORDER BY c.occurred_at DESC, c.message_key DESC
    LIMIT $9
)

SELECT
    c.occurred_at,
    c.message_key,
    c.received_at,
    c.message_id,
    c.type::text AS type,
    left(c.name, 1000) AS name,
    c.category,
    windsor_dashboard.when_small(c.properties) AS properties,
    windsor_dashboard.when_small(c.context) AS context,
    windsor_dashboard.when_small(c.traits) AS traits,
    c.group_id AS named_group_id,
    c.identity_id,
    i.kind::text AS kind,
    i.value,
    u.user_id,
    left(u.name, 300) AS person_name,
    left(u.email, 300) AS email,
    left(u.phone, 100) AS phone,
    left(u.avatar, 2001) AS avatar,
    u.group_id,
    left(g.name, 300) AS group_name
FROM found AS c
INNER JOIN windsor_dashboard.identities AS i ON i.id = c.identity_id
LEFT JOIN windsor_dashboard.members AS m ON m.identity_id = c.identity_id
LEFT JOIN windsor_dashboard.users AS u ON u.id = m.user_id
LEFT JOIN windsor_dashboard.groups AS g ON g.group_id = u.group_id
ORDER BY c.occurred_at DESC, c.message_key DESC

-- One event, whole. $1: its time. $2: its key. $3: its identity.
-- name: event
SELECT
    c.occurred_at,
    c.received_at,
    c.message_id,
    c.type::text AS type,
    left(c.name, 1000) AS name,
    c.category,
    c.topic,
    c.partition,
    c."offset",
    left(c.properties::text, 20000) AS properties,
    left(c.context::text, 20000) AS context,
    left(c.traits::text, 20000) AS traits,
    c.group_id AS named_group_id,
    i.kind::text AS kind,
    i.value
FROM windsor_dashboard.calls AS c
INNER JOIN windsor_dashboard.identities AS i ON i.id = c.identity_id
WHERE
    c.identity_id = $3
    AND c.occurred_at = $1
    AND c.message_key = $2
LIMIT 1

-- The identities of a group's members, some more than are asked for one by one.
-- $1: the group. $2: how many at most.
-- name: identities_of_group
SELECT m.identity_id
FROM (
    SELECT u.id FROM windsor_dashboard.users AS u
    WHERE u.group_id = $1
    LIMIT $2
) AS u
INNER JOIN windsor_dashboard.members AS m ON m.user_id = u.id
LIMIT $2

-- name: hidden_names
SELECT h.name, h.hidden_at FROM windsor_dashboard.hidden_names AS h ORDER BY h.name LIMIT 1000

-- name: hide_name
INSERT INTO windsor_private.hidden_names (name) VALUES ($1) ON CONFLICT DO NOTHING

-- name: show_name
DELETE FROM windsor_private.hidden_names WHERE name = $1
