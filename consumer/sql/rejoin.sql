-- Users as the join of their identities, from what is stored. Used when an identity leaves a
-- user, where the join cannot be undone by what is left of it. Of a member without own traits they
-- are its user's: then nobody else has brought any.

-- $1: ids of users.
-- name: rejoin_users
WITH mine AS (
    SELECT
        m.user_id,
        i.kind,
        i.identified,
        i.group_id,
        i.group_at,
        i.group_message_id,
        CASE i.kind WHEN 'user' THEN coalesce(m.traits, u.traits) ELSE i.traits END AS traits,
        CASE i.kind
            WHEN 'user' THEN coalesce(m.trait_clocks, u.trait_clocks) ELSE i.trait_clocks
        END AS trait_clocks
    FROM windsor_private.members AS m
    INNER JOIN windsor_private.identities AS i ON i.id = m.identity_id
    INNER JOIN windsor_private.users AS u ON u.id = m.user_id
    WHERE m.user_id = ANY($1::bigint[])
),

newest AS (
    SELECT DISTINCT ON (mine.user_id, c.key)
        mine.user_id,
        c.key,
        c.value AS clock,
        mine.traits -> c.key AS value,
        mine.traits ? c.key AS is_set
    FROM mine
    CROSS JOIN LATERAL json_each(mine.trait_clocks) AS c
    ORDER BY
        mine.user_id,
        c.key,
        (c.value ->> 0)::bigint DESC,
        (c.value ->> 1) COLLATE "C" DESC
),

traits AS (
    SELECT
        n.user_id,
        coalesce(jsonb_object_agg(n.key, n.value) FILTER (WHERE n.is_set), '{}') AS traits,
        json_object_agg(n.key, n.clock) AS trait_clocks
    FROM newest AS n
    GROUP BY n.user_id
),

grouped AS (
    SELECT DISTINCT ON (mine.user_id)
        mine.user_id, mine.group_id, mine.group_at, mine.group_message_id
    FROM mine
    WHERE mine.group_id IS NOT NULL
    ORDER BY mine.user_id, mine.group_at DESC, mine.group_message_id DESC
),

counted AS (
    SELECT
        mine.user_id,
        count(*) AS identities_count,
        bool_or(mine.identified AND mine.kind = 'user') AS identified
    FROM mine
    GROUP BY mine.user_id
)

UPDATE windsor_private.users AS u
SET
    identities_count = counted.identities_count,
    identified = counted.identified,
    group_id = grouped.group_id,
    group_at = grouped.group_at,
    group_message_id = grouped.group_message_id,
    traits = coalesce(traits.traits, '{}'),
    trait_clocks = coalesce(traits.trait_clocks, '{}')
FROM counted
LEFT JOIN traits ON traits.user_id = counted.user_id
LEFT JOIN grouped ON grouped.user_id = counted.user_id
WHERE u.id = counted.user_id
