-- A user is the join of its identities; this joins it anew from what they hold. Needed only
-- when an identity leaves a user (joining in can be done from the two rows alone), and after
-- an operator's unmerge. The callers hold the users' row locks, or the batches' lock.

-- $1: ids of users. Writes everything but the name and the last merge, which depend on the
-- order of aliases. Ids that are no user change nothing.
-- name: rejoin_users
WITH wanted AS (
    SELECT DISTINCT w.id FROM unnest($1::bigint[]) AS w (id)
),

member AS (
    SELECT
        m.user_id,
        i.kind,
        i.identified,
        i.group_id,
        i.group_at,
        i.group_message_id,
        i.traits,
        i.trait_clocks
    FROM wanted
    INNER JOIN windsor_private.members AS m ON m.user_id = wanted.id
    INNER JOIN windsor_private.identities AS i ON i.id = m.identity_id
),

counted AS (
    SELECT
        member.user_id,
        count(*)::integer AS identities_count,
        bool_or(member.identified AND member.kind = 'user') AS identified
    FROM member
    GROUP BY member.user_id
),

newest_group AS (
    SELECT DISTINCT ON (member.user_id)
        member.user_id,
        member.group_id,
        member.group_at,
        member.group_message_id
    FROM member
    WHERE member.group_id IS NOT NULL
    ORDER BY member.user_id, member.group_at DESC, member.group_message_id DESC
),

newest_trait AS (
    SELECT DISTINCT ON (member.user_id, c.key COLLATE "C")
        member.user_id,
        c.key,
        c.clock,
        -- NULL for a tombstone, which wins by clock like any other value.
        member.traits -> c.key AS value
    FROM member
    CROSS JOIN LATERAL jsonb_each(member.trait_clocks) AS c (key, clock)
    ORDER BY
        member.user_id,
        c.key COLLATE "C",
        (c.clock ->> 0)::bigint DESC,
        (c.clock ->> 1) COLLATE "C" DESC
),

traits AS (
    SELECT
        t.user_id,
        jsonb_object_agg(t.key, t.value) FILTER (WHERE t.value IS NOT NULL) AS traits,
        jsonb_object_agg(t.key, t.clock) AS trait_clocks
    FROM newest_trait AS t
    GROUP BY t.user_id
)

UPDATE windsor_private.users AS u
SET
    identities_count = coalesce(counted.identities_count, 0),
    identified = coalesce(counted.identified, false),
    group_id = newest_group.group_id,
    group_at = newest_group.group_at,
    group_message_id = newest_group.group_message_id,
    traits = coalesce(traits.traits, '{}'),
    trait_clocks = coalesce(traits.trait_clocks, '{}')
FROM wanted
LEFT JOIN counted ON counted.user_id = wanted.id
LEFT JOIN newest_group ON newest_group.user_id = wanted.id
LEFT JOIN traits ON traits.user_id = wanted.id
WHERE u.id = wanted.id
