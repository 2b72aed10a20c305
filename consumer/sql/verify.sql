-- Every projection, recomputed from the log of calls alone, into temporary tables; then what
-- differs. One statement each, in one snapshot. The clock of a call is (occurred_at,
-- message_id COLLATE "C").

-- Before the snapshot is taken: no week is pruned between it and the first look at the calls.
-- name: hold_weeks
LOCK TABLE ONLY windsor_private.calls IN ACCESS SHARE MODE

-- What workers remember of identities holds no more after a repair.
-- name: begin_epoch
UPDATE windsor_private.history SET epoch = epoch + 1

-- name: lock_batches
SELECT pg_advisory_xact_lock(hashtext('windsor.batches'))

-- Aliases of differing ids that are not undone, and their identities.
-- name: expected_aliases
CREATE TEMP TABLE expected_aliases ON COMMIT DROP AS
SELECT
    c.occurred_at,
    c.message_id,
    previous.id AS previous_identity_id,
    c.identity_id AS user_identity_id
FROM windsor_private.calls AS c
INNER JOIN windsor_private.identities AS named ON named.id = c.identity_id
LEFT JOIN windsor_private.identities AS previous
    ON previous.kind = 'user' AND previous.value = c.previous_id
WHERE c.type = 'alias' AND c.previous_id <> named.value

-- Every claim that any call makes: of users (by themselves), visitors and contacts.
-- name: expected_claims
CREATE TEMP TABLE expected_claims ON COMMIT DROP AS
WITH claims AS (
    SELECT i.id AS identity_id, i.kind, i.id AS claimed_by, c.occurred_at, c.message_id
    FROM windsor_private.calls AS c
    INNER JOIN windsor_private.identities AS i ON i.id = c.identity_id AND i.kind = 'user'
    UNION ALL
    SELECT i.id, i.kind, CASE i.kind WHEN 'user' THEN i.id ELSE c.identity_id END,
        c.occurred_at, c.message_id
    FROM windsor_private.calls AS c
    INNER JOIN windsor_private.identities AS i
        ON i.kind IN ('user', 'anonymous') AND i.value = c.previous_id
    WHERE c.type = 'alias'
    UNION ALL
    SELECT c.anonymous_identity_id, 'anonymous', c.identity_id, c.occurred_at, c.message_id
    FROM windsor_private.calls AS c
    INNER JOIN windsor_private.identities AS i ON i.id = c.identity_id AND i.kind = 'user'
    WHERE c.anonymous_identity_id IS NOT NULL
    UNION ALL
    SELECT contact.id, 'email', c.identity_id, c.occurred_at, c.message_id
    FROM windsor_private.calls AS c
    CROSS JOIN LATERAL unnest(c.claims) AS contact (id)
    WHERE c.type = 'identify'
)

(
    SELECT DISTINCT ON (identity_id) identity_id, claimed_by, occurred_at, message_id
    FROM claims
    WHERE kind IN ('user', 'anonymous')
    ORDER BY identity_id, occurred_at, message_id COLLATE "C"
)
UNION ALL
(
    SELECT DISTINCT ON (identity_id) identity_id, claimed_by, occurred_at, message_id
    FROM claims
    WHERE kind IN ('email', 'phone')
    ORDER BY identity_id, occurred_at DESC, message_id COLLATE "C" DESC
)

-- name: expected_traits
CREATE TEMP TABLE expected_traits ON COMMIT DROP AS
SELECT
    n.identity_id,
    coalesce(jsonb_object_agg(n.key, n.value) FILTER (WHERE n.value <> 'null'), '{}') AS traits,
    jsonb_object_agg(
        n.key,
        jsonb_build_array((extract(EPOCH FROM n.occurred_at) * 1000000)::bigint, n.message_id)
    ) AS trait_clocks
FROM (
    SELECT DISTINCT ON (c.identity_id, t.key)
        c.identity_id, t.key, t.value, c.occurred_at, c.message_id
    FROM windsor_private.calls AS c
    CROSS JOIN LATERAL jsonb_each(c.traits) AS t
    WHERE c.type = 'identify'
    ORDER BY c.identity_id, t.key, c.occurred_at DESC, c.message_id COLLATE "C" DESC
) AS n
GROUP BY n.identity_id

-- name: expected_identities
CREATE TEMP TABLE expected_identities ON COMMIT DROP AS
WITH grouped AS (
    SELECT DISTINCT ON (identity_id) identity_id, group_id, occurred_at, message_id
    FROM windsor_private.calls
    WHERE type = 'group'
    ORDER BY identity_id, occurred_at DESC, message_id COLLATE "C" DESC
),

listed AS (
    SELECT identity_id, bool_or(type = 'identify') AS has_identify
    FROM windsor_private.calls
    GROUP BY identity_id
),

carried AS (
    SELECT DISTINCT anonymous_identity_id AS identity_id
    FROM windsor_private.calls
    WHERE anonymous_identity_id IS NOT NULL
)

SELECT
    i.id,
    CASE
        WHEN i.kind = 'anonymous' THEN carried.identity_id IS NOT NULL
        ELSE listed.identity_id IS NOT NULL OR c.identity_id IS NOT NULL
    END AS listed,
    coalesce(listed.has_identify AND i.kind = 'user', false) AS identified,
    c.claimed_by,
    c.occurred_at AS claimed_at,
    c.message_id AS claimed_message_id,
    g.group_id,
    g.occurred_at AS group_at,
    g.message_id AS group_message_id,
    coalesce(t.traits, '{}') AS traits,
    coalesce(t.trait_clocks, '{}') AS trait_clocks
FROM windsor_private.identities AS i
LEFT JOIN listed ON listed.identity_id = i.id
LEFT JOIN carried ON carried.identity_id = i.id
LEFT JOIN expected_claims AS c ON c.identity_id = i.id
LEFT JOIN grouped AS g ON g.identity_id = i.id
LEFT JOIN expected_traits AS t ON t.identity_id = i.id

-- What retention has pruned left its trace in the registers: from before then it is taken as
-- given, and from then on the calls that set it must be there.
-- name: keep_pruned
UPDATE expected_identities AS e
SET
    listed = e.listed OR i.listed,
    claimed_by = CASE WHEN i.older THEN i.claimed_by ELSE e.claimed_by END,
    claimed_at = CASE WHEN i.older THEN i.claimed_at ELSE e.claimed_at END,
    claimed_message_id = CASE WHEN i.older THEN i.claimed_message_id ELSE e.claimed_message_id END
FROM (
    SELECT
        i.id,
        i.listed,
        i.claimed_by,
        i.claimed_at,
        i.claimed_message_id,
        coalesce(
            i.kind IN ('user', 'anonymous')
            AND i.claimed_at < b.pruned_before::timestamp AT TIME ZONE 'UTC'
            AND (
                stale.claimed_at IS NULL
                OR (i.claimed_at, i.claimed_message_id)
                < (stale.claimed_at, stale.claimed_message_id COLLATE "C")
            ),
            false
        ) AS older
    FROM windsor_private.identities AS i
    INNER JOIN expected_identities AS stale ON stale.id = i.id
    CROSS JOIN windsor_private.calls_bounds AS b
    WHERE b.pruned_before IS NOT NULL
) AS i
WHERE i.id = e.id AND (i.older OR i.listed)

-- Aliases that are not undone, nor their pair (an SDK sends an alias again at every login), in
-- clock order. Streamed, since there may be many to one merge.
-- name: merging_aliases
SELECT a.occurred_at, a.message_id, a.previous_identity_id, a.user_identity_id
FROM expected_aliases AS a
WHERE
    a.previous_identity_id IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM windsor_private.aliases AS undone
        WHERE
            undone.previous_identity_id = a.previous_identity_id
            AND undone.user_identity_id = a.user_identity_id
            AND undone.undone_at IS NOT NULL
    )
ORDER BY a.occurred_at, a.message_id

-- The users that merges make: of each identity that takes part its root, which is the identity
-- whose value is the merged name, and the last alias that merged anything.
-- name: create_components
CREATE TEMP TABLE components (
    identity_id bigint PRIMARY KEY,
    root_id bigint NOT NULL,
    merged_at timestamptz NOT NULL,
    merged_message_id text COLLATE "C" NOT NULL
) ON COMMIT DROP

-- name: fill_components
INSERT INTO components
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::text[])

-- A user identity that merges with none is its own root.
-- name: expected_members
CREATE TEMP TABLE expected_members ON COMMIT DROP AS
SELECT e.id AS identity_id, coalesce(c.root_id, e.claimed_by) AS root_id
FROM expected_identities AS e
-- What a pruned call left may name a user that is no more.
INNER JOIN expected_identities AS claimant
    ON claimant.id = e.claimed_by AND claimant.claimed_by = claimant.id
LEFT JOIN components AS c ON c.identity_id = e.claimed_by

-- The stored user of each expected root, where one of its identities has one. Which identity
-- lends a user its id is our own affair; who belongs together is not.
-- name: expected_roots
CREATE TEMP TABLE expected_roots ON COMMIT DROP AS
SELECT DISTINCT ON (e.root_id)
    e.root_id,
    m.user_id
FROM expected_members AS e
INNER JOIN windsor_private.members AS m ON m.identity_id = e.identity_id
INNER JOIN expected_members AS owner
    ON owner.identity_id = m.user_id AND owner.root_id = e.root_id
ORDER BY e.root_id, m.user_id

-- name: expected_users
CREATE TEMP TABLE expected_users ON COMMIT DROP AS
WITH mine AS (
    SELECT m.root_id, e.*, i.kind, i.value
    FROM expected_members AS m
    INNER JOIN expected_identities AS e ON e.id = m.identity_id
    INNER JOIN windsor_private.identities AS i ON i.id = e.id
),

newest AS (
    SELECT DISTINCT ON (mine.root_id, c.key)
        mine.root_id,
        c.key,
        c.value AS clock,
        mine.traits -> c.key AS value,
        mine.traits ? c.key AS is_set
    FROM mine
    CROSS JOIN LATERAL jsonb_each(mine.trait_clocks) AS c
    ORDER BY
        mine.root_id, c.key, (c.value ->> 0)::bigint DESC, (c.value ->> 1) COLLATE "C" DESC
),

traits AS (
    SELECT
        n.root_id,
        coalesce(jsonb_object_agg(n.key, n.value) FILTER (WHERE n.is_set), '{}') AS traits,
        jsonb_object_agg(n.key, n.clock) AS trait_clocks
    FROM newest AS n
    GROUP BY n.root_id
),

grouped AS (
    SELECT DISTINCT ON (root_id) root_id, group_id, group_at, group_message_id
    FROM mine
    WHERE group_id IS NOT NULL
    ORDER BY root_id, group_at DESC, group_message_id COLLATE "C" DESC
)

SELECT
    coalesce(r.user_id, mine.root_id) AS id,
    max(mine.value) FILTER (WHERE mine.id = mine.root_id) AS user_id,
    count(*)::integer AS identities_count,
    bool_or(mine.identified) AS identified,
    g.group_id,
    g.group_at,
    g.group_message_id,
    coalesce(t.traits, '{}') AS traits,
    coalesce(t.trait_clocks, '{}') AS trait_clocks,
    max(c.merged_at) AS merged_at,
    max(c.merged_message_id) AS merged_message_id
FROM mine
LEFT JOIN expected_roots AS r ON r.root_id = mine.root_id
LEFT JOIN components AS c ON c.identity_id = mine.id
LEFT JOIN traits AS t ON t.root_id = mine.root_id
LEFT JOIN grouped AS g ON g.root_id = mine.root_id
GROUP BY
    mine.root_id, r.user_id, g.group_id, g.group_at, g.group_message_id, t.traits, t.trait_clocks

-- What user identities have set themselves, and whether those may be left to their user: as long as
-- nobody else has set any.
-- name: expected_own_traits
CREATE TEMP TABLE expected_own_traits ON COMMIT DROP AS
SELECT
    e.id AS identity_id,
    e.traits,
    e.trait_clocks,
    expected.merged_at IS NULL AND stored.merged_at IS NULL
    AND expected.trait_clocks = e.trait_clocks AS are_users
FROM expected_members AS m
INNER JOIN expected_identities AS e ON e.id = m.identity_id
INNER JOIN windsor_private.identities AS i ON i.id = e.id AND i.kind = 'user'
LEFT JOIN expected_roots AS r ON r.root_id = m.root_id
INNER JOIN expected_users AS expected ON expected.id = coalesce(r.user_id, m.root_id)
LEFT JOIN windsor_private.users AS stored ON stored.id = expected.id

-- name: expected_seen
CREATE TEMP TABLE expected_seen ON COMMIT DROP AS
SELECT c.identity_id, min(c.occurred_at) AS first_at, max(c.occurred_at) AS last_at
FROM windsor_private.calls AS c
INNER JOIN windsor_private.identities AS i
    ON i.id = c.identity_id AND i.kind IN ('user', 'anonymous')
GROUP BY c.identity_id

-- name: keep_pruned_seen
UPDATE expected_seen AS e
SET
    first_at = CASE WHEN s.first_at < s.pruned_at THEN least(e.first_at, s.first_at)
        ELSE e.first_at END,
    last_at = CASE WHEN s.last_at < s.pruned_at THEN greatest(e.last_at, s.last_at)
        ELSE e.last_at END
FROM (
    SELECT s.*, b.pruned_before::timestamp AT TIME ZONE 'UTC' AS pruned_at
    FROM windsor_private.seen AS s
    CROSS JOIN windsor_private.calls_bounds AS b
    WHERE b.pruned_before IS NOT NULL
) AS s
WHERE s.identity_id = e.identity_id

-- name: keep_pruned_only_seen
INSERT INTO expected_seen
SELECT
    s.identity_id,
    s.first_at,
    CASE WHEN s.last_at < b.pruned_before::timestamp AT TIME ZONE 'UTC' THEN s.last_at
        ELSE s.first_at END
FROM windsor_private.seen AS s
CROSS JOIN windsor_private.calls_bounds AS b
WHERE
    s.first_at < b.pruned_before::timestamp AT TIME ZONE 'UTC'
    AND NOT EXISTS (SELECT FROM expected_seen AS e WHERE e.identity_id = s.identity_id)

-- name: expected_groups
CREATE TEMP TABLE expected_groups ON COMMIT DROP AS
WITH newest AS (
    SELECT DISTINCT ON (c.group_id, t.key)
        c.group_id, t.key, t.value, c.occurred_at, c.message_id
    FROM windsor_private.calls AS c
    CROSS JOIN LATERAL jsonb_each(c.traits) AS t
    WHERE c.type = 'group'
    ORDER BY c.group_id, t.key, c.occurred_at DESC, c.message_id COLLATE "C" DESC
)

SELECT
    g.group_id,
    coalesce(jsonb_object_agg(n.key, n.value) FILTER (WHERE n.value <> 'null'), '{}') AS traits,
    coalesce(
        jsonb_object_agg(
            n.key,
            jsonb_build_array(
                (extract(EPOCH FROM n.occurred_at) * 1000000)::bigint, n.message_id
            )
        ) FILTER (WHERE n.key IS NOT NULL),
        '{}'
    ) AS trait_clocks
FROM (SELECT DISTINCT group_id FROM windsor_private.calls WHERE type = 'group') AS g
LEFT JOIN newest AS n ON n.group_id = g.group_id
GROUP BY g.group_id

-- name: expected_audiences
CREATE TEMP TABLE expected_audiences ON COMMIT DROP AS
SELECT DISTINCT ON (a.name)
    a.name, a.computation_class, a.occurred_at AS synced_at, a.message_id AS synced_message_id
FROM (
    SELECT
        CASE
            WHEN
                jsonb_typeof(p.personas -> 'computation_key') = 'string'
                AND c.traits ? (p.personas ->> 'computation_key')
                THEN p.personas ->> 'computation_key'
            ELSE (
                SELECT min(k.key) FROM jsonb_object_keys(c.traits) AS k (key)
                WHERE k.key <> 'email'
                HAVING count(*) = 1
            )
        END COLLATE "C" AS name,
        CASE
            WHEN jsonb_typeof(p.personas -> 'computation_class') = 'string'
                THEN p.personas ->> 'computation_class'
        END AS computation_class,
        c.occurred_at,
        c.message_id
    FROM windsor_private.calls AS c
    CROSS JOIN LATERAL (SELECT c.context -> 'personas' AS personas) AS p
    WHERE
        c.type = 'identify'
        AND jsonb_typeof(p.personas) = 'object'
        AND jsonb_typeof(c.traits) = 'object'
) AS a
-- The longest that an index takes; a longer one is a trait like any other.
WHERE length(a.name) <= 512
ORDER BY a.name, a.occurred_at DESC, a.message_id COLLATE "C" DESC

-- What differs ----------------------------------------------------------------------------

-- `id` is that of a row, or a message's, group's or audience's name: never a person's.
-- name: create_differing
CREATE TEMP TABLE differing (projection text NOT NULL, id text NOT NULL) ON COMMIT DROP

-- name: differing_identities
INSERT INTO differing
SELECT 'identities', e.id::text FROM expected_identities AS e
INNER JOIN windsor_private.identities AS i ON i.id = e.id
WHERE
    (i.listed, i.identified, i.claimed_by, i.claimed_at, i.claimed_message_id)
    IS DISTINCT FROM (e.listed, e.identified, e.claimed_by, e.claimed_at, e.claimed_message_id)
    OR (i.group_id, i.group_at, i.group_message_id)
    IS DISTINCT FROM (e.group_id, e.group_at, e.group_message_id)
    OR (i.traits, i.trait_clocks::jsonb) IS DISTINCT FROM (
        CASE i.kind WHEN 'user' THEN '{}' ELSE e.traits END,
        CASE i.kind WHEN 'user' THEN '{}' ELSE e.trait_clocks END
    )

-- Calls know identities by id: of one whose row is gone nobody can tell who it was.
-- name: differing_lost_identities
INSERT INTO differing
SELECT 'lost identities', known.id::text
FROM (
    SELECT c.identity_id AS id FROM windsor_private.calls AS c
    UNION
    SELECT c.anonymous_identity_id FROM windsor_private.calls AS c
    WHERE c.anonymous_identity_id IS NOT NULL
    UNION
    SELECT contact.id FROM windsor_private.calls AS c
    CROSS JOIN LATERAL unnest(c.claims) AS contact (id)
    WHERE c.type = 'identify'
) AS known
WHERE NOT EXISTS (SELECT FROM windsor_private.identities AS i WHERE i.id = known.id)

-- name: differing_members
INSERT INTO differing
SELECT 'members', coalesce(e.identity_id, m.identity_id)::text
FROM (
    SELECT e.identity_id, coalesce(r.user_id, e.root_id) AS user_id
    FROM expected_members AS e
    LEFT JOIN expected_roots AS r ON r.root_id = e.root_id
) AS e
FULL JOIN windsor_private.members AS m ON m.identity_id = e.identity_id
LEFT JOIN expected_own_traits AS own ON own.identity_id = e.identity_id
WHERE
    e.user_id IS DISTINCT FROM m.user_id
    OR CASE
        WHEN m.traits IS NULL AND m.trait_clocks IS NULL THEN NOT own.are_users
        ELSE (m.traits, m.trait_clocks::jsonb) IS DISTINCT FROM (own.traits, own.trait_clocks)
    END

-- The last merge may be set too late (then some replay of names is for nothing), never too
-- early.
-- name: differing_users
INSERT INTO differing
SELECT 'users', coalesce(e.id, u.id)::text
FROM expected_users AS e
FULL JOIN windsor_private.users AS u ON u.id = e.id
WHERE
    (u.user_id, u.identities_count, u.identified, u.group_id, u.group_at, u.group_message_id)
    IS DISTINCT FROM
    (e.user_id, e.identities_count, e.identified, e.group_id, e.group_at, e.group_message_id)
    OR (u.traits, u.trait_clocks::jsonb) IS DISTINCT FROM (e.traits, e.trait_clocks)
    OR (
        e.merged_at IS NOT NULL
        AND ((u.merged_at, u.merged_message_id) >= (e.merged_at, e.merged_message_id))
        IS NOT TRUE
    )

-- name: differing_seen
INSERT INTO differing
SELECT 'seen', coalesce(e.identity_id, s.identity_id)::text
FROM expected_seen AS e
FULL JOIN windsor_private.seen AS s ON s.identity_id = e.identity_id
WHERE (e.first_at, e.last_at) IS DISTINCT FROM (s.first_at, s.last_at)

-- name: differing_groups
INSERT INTO differing
SELECT 'groups', coalesce(e.group_id, g.group_id)
FROM expected_groups AS e
FULL JOIN windsor_private.groups AS g ON g.group_id = e.group_id
WHERE (e.traits, e.trait_clocks) IS DISTINCT FROM (g.traits, g.trait_clocks::jsonb)

-- name: differing_audiences
INSERT INTO differing
SELECT 'audiences', coalesce(e.name, a.name)
FROM expected_audiences AS e
FULL JOIN windsor_private.audiences AS a ON a.name = e.name
WHERE
    (e.computation_class, e.synced_at, e.synced_message_id)
    IS DISTINCT FROM (a.computation_class, a.synced_at, a.synced_message_id)

-- name: differing_aliases
INSERT INTO differing
SELECT 'aliases', coalesce(e.message_id, a.message_id)
FROM expected_aliases AS e
FULL JOIN windsor_private.aliases AS a
    ON a.occurred_at = e.occurred_at AND a.message_id = e.message_id
WHERE
    (e.previous_identity_id, e.user_identity_id)
    IS DISTINCT FROM (a.previous_identity_id, a.user_identity_id)

-- $1: how many examples of each.
-- name: summary
SELECT
    d.projection,
    count(*) AS rows_count,
    array_agg(d.id ORDER BY d.place) FILTER (WHERE d.place <= $1) AS examples
FROM (
    SELECT
        projection,
        id,
        row_number() OVER (PARTITION BY projection ORDER BY length(id), id COLLATE "C") AS place
    FROM differing
) AS d
GROUP BY d.projection

-- Repair ----------------------------------------------------------------------------------

-- An alias' previous id is a user, and names a visitor.
-- name: repair_missing_identities
INSERT INTO windsor_private.identities (kind, value)
SELECT k.kind, c.previous_id
FROM windsor_private.calls AS c
CROSS JOIN (VALUES ('user'::windsor_private.identity_kind), ('anonymous')) AS k (kind)
WHERE
    c.type = 'alias'
    AND NOT EXISTS (
        SELECT FROM windsor_private.identities AS i
        WHERE i.kind = k.kind AND i.value = c.previous_id
    )
GROUP BY k.kind, c.previous_id
ON CONFLICT (kind, value) DO NOTHING

-- name: repair_identities
UPDATE windsor_private.identities AS i
SET
    listed = e.listed,
    identified = e.identified,
    claimed_by = e.claimed_by,
    claimed_at = e.claimed_at,
    claimed_message_id = e.claimed_message_id,
    group_id = e.group_id,
    group_at = e.group_at,
    group_message_id = e.group_message_id,
    traits = CASE i.kind WHEN 'user' THEN '{}' ELSE e.traits END,
    trait_clocks = CASE i.kind WHEN 'user' THEN '{}' ELSE e.trait_clocks::json END
FROM expected_identities AS e
INNER JOIN differing AS d ON d.projection = 'identities' AND d.id = e.id::text
WHERE i.id = e.id

-- name: repair_drop_members
DELETE FROM windsor_private.members AS m
WHERE NOT EXISTS (SELECT FROM expected_members AS e WHERE e.identity_id = m.identity_id)

-- name: repair_members
INSERT INTO windsor_private.members (identity_id, user_id, traits, trait_clocks)
SELECT
    e.identity_id,
    coalesce(r.user_id, e.root_id),
    CASE WHEN NOT own.are_users THEN own.traits END,
    CASE WHEN NOT own.are_users THEN own.trait_clocks::json END
FROM expected_members AS e
INNER JOIN differing AS d ON d.projection = 'members' AND d.id = e.identity_id::text
LEFT JOIN expected_roots AS r ON r.root_id = e.root_id
LEFT JOIN expected_own_traits AS own ON own.identity_id = e.identity_id
ON CONFLICT (identity_id) DO UPDATE SET
    user_id = excluded.user_id,
    traits = excluded.traits,
    trait_clocks = excluded.trait_clocks

-- name: repair_drop_users
DELETE FROM windsor_private.users AS u
WHERE NOT EXISTS (SELECT FROM expected_users AS e WHERE e.id = u.id)

-- name: repair_users
INSERT INTO windsor_private.users AS u (
    id, user_id, identities_count, identified, group_id, group_at, group_message_id,
    traits, trait_clocks, merged_at, merged_message_id
)
SELECT
    e.id, e.user_id, e.identities_count, e.identified, e.group_id, e.group_at, e.group_message_id,
    e.traits, e.trait_clocks::json, e.merged_at, e.merged_message_id
FROM expected_users AS e
INNER JOIN differing AS d ON d.projection = 'users' AND d.id = e.id::text
ON CONFLICT (id) DO UPDATE SET
    user_id = excluded.user_id,
    identities_count = excluded.identities_count,
    identified = excluded.identified,
    group_id = excluded.group_id,
    group_at = excluded.group_at,
    group_message_id = excluded.group_message_id,
    traits = excluded.traits,
    trait_clocks = excluded.trait_clocks,
    merged_at = excluded.merged_at,
    merged_message_id = excluded.merged_message_id

-- name: repair_drop_seen
DELETE FROM windsor_private.seen AS s
WHERE NOT EXISTS (SELECT FROM expected_seen AS e WHERE e.identity_id = s.identity_id)

-- name: repair_seen
INSERT INTO windsor_private.seen (identity_id, first_at, last_at)
SELECT e.identity_id, e.first_at, e.last_at
FROM expected_seen AS e
INNER JOIN differing AS d ON d.projection = 'seen' AND d.id = e.identity_id::text
ON CONFLICT (identity_id) DO UPDATE SET
    first_at = excluded.first_at, last_at = excluded.last_at

-- name: repair_drop_groups
DELETE FROM windsor_private.groups AS g
WHERE NOT EXISTS (SELECT FROM expected_groups AS e WHERE e.group_id = g.group_id)

-- name: repair_groups
INSERT INTO windsor_private.groups (group_id, traits, trait_clocks)
SELECT e.group_id, e.traits, e.trait_clocks::json
FROM expected_groups AS e
INNER JOIN differing AS d ON d.projection = 'groups' AND d.id = e.group_id
ON CONFLICT (group_id) DO UPDATE SET
    traits = excluded.traits, trait_clocks = excluded.trait_clocks

-- name: repair_drop_audiences
DELETE FROM windsor_private.audiences AS a
WHERE NOT EXISTS (SELECT FROM expected_audiences AS e WHERE e.name = a.name)

-- name: repair_audiences
INSERT INTO windsor_private.audiences (name, computation_class, synced_at, synced_message_id)
SELECT e.name, e.computation_class, e.synced_at, e.synced_message_id
FROM expected_audiences AS e
INNER JOIN differing AS d ON d.projection = 'audiences' AND d.id = e.name
ON CONFLICT (name) DO UPDATE SET
    computation_class = excluded.computation_class,
    synced_at = excluded.synced_at,
    synced_message_id = excluded.synced_message_id

-- name: repair_drop_aliases
DELETE FROM windsor_private.aliases AS a
WHERE NOT EXISTS (
    SELECT FROM expected_aliases AS e
    WHERE e.occurred_at = a.occurred_at AND e.message_id = a.message_id
)

-- An operator's undoing is of the pair, so an alias that was missing is undone like the others.
-- name: repair_aliases
INSERT INTO windsor_private.aliases (
    occurred_at, message_id, previous_identity_id, user_identity_id, undone_at
)
SELECT
    e.occurred_at,
    e.message_id,
    e.previous_identity_id,
    e.user_identity_id,
    (
        SELECT min(undone.undone_at) FROM windsor_private.aliases AS undone
        WHERE
            undone.previous_identity_id = e.previous_identity_id
            AND undone.user_identity_id = e.user_identity_id
    )
FROM expected_aliases AS e
WHERE EXISTS (
    SELECT FROM differing AS d WHERE d.projection = 'aliases' AND d.id = e.message_id
)
ON CONFLICT (occurred_at, message_id) DO UPDATE SET
    previous_identity_id = excluded.previous_identity_id,
    user_identity_id = excluded.user_identity_id
