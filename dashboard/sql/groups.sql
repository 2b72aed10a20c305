-- Groups and audiences.

-- Groups by id. $1: after this id. $2: words in the name, or a beginning of the id; all where NULL.
-- $3: how many are looked at. $4: how many to show.
-- The last row has no name: it says how far the look came.
-- name: groups
WITH looked AS MATERIALIZED (
    SELECT g.group_id, g.name
    FROM windsor_dashboard.groups AS g
    WHERE g.group_id > $1
    ORDER BY g.group_id
    LIMIT $3
),

shown AS MATERIALIZED (
    SELECT l.group_id, l.name
    FROM looked AS l
    WHERE
        $2::text IS NULL
        OR strpos(lower(left(l.name, 200)), lower($2)) > 0
        OR starts_with(l.group_id, $2)
    ORDER BY l.group_id
    LIMIT $4
)

SELECT
    g.group_id,
    left(g.name, 300) AS name,
    windsor_dashboard.when_small(g.traits) AS traits,
    g.members_count
FROM shown AS s
INNER JOIN windsor_dashboard.groups AS g ON g.group_id = s.group_id
UNION ALL
SELECT max(l.group_id), NULL, NULL, NULL
FROM looked AS l
HAVING count(*) >= $3
ORDER BY group_id

-- name: group
SELECT
    g.group_id,
    left(g.name, 300) AS name,
    left(g.traits::text, 200000) AS traits,
    g.members_count
FROM windsor_dashboard.groups AS g
WHERE g.group_id = $1

-- name: audience
SELECT a.name, a.computation_class, a.synced_at, a.is_trait
FROM windsor_dashboard.audiences AS a
WHERE a.name = $1

-- Every user is looked at. $1: the audience.
-- name: audience_members_count
SELECT a.members_count FROM windsor.audiences AS a WHERE a.name = $1

-- What the last calls said of an audience, newest first. $1: its name. $2: how far to walk.
-- The last row has no value: it says how far the walk came; none at the end of all calls.
-- name: audience_calls
WITH walked AS MATERIALIZED (
    SELECT
        c.occurred_at,
        c.message_key,
        c.identity_id,
        windsor_dashboard.when_small(c.traits) -> $1 AS value
    FROM windsor_dashboard.calls AS c
    WHERE c.type IN ('identify', 'page', 'group', 'alias')
    ORDER BY c.occurred_at DESC
    LIMIT $2
),

reached AS (
    SELECT min(w.occurred_at) AS occurred_at
    FROM walked AS w
    HAVING count(*) >= $2
)

SELECT
    w.occurred_at,
    left(w.value::text, 100) AS value,
    u.id,
    u.user_id,
    left(u.name, 300) AS person_name,
    left(u.email, 300) AS email,
    left(u.phone, 100) AS phone,
    left(u.avatar, 2001) AS avatar,
    i.kind::text AS kind,
    i.value AS identity_value
FROM walked AS w
INNER JOIN windsor_dashboard.identities AS i ON i.id = w.identity_id
LEFT JOIN windsor_dashboard.members AS m ON m.identity_id = w.identity_id
LEFT JOIN windsor_dashboard.users AS u ON u.id = m.user_id
WHERE w.value IS NOT NULL
UNION ALL
SELECT r.occurred_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM reached AS r
ORDER BY occurred_at DESC
