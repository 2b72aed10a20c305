-- The statements of one batch: those up to `stored_calls` run before or at the beginning of its
-- transaction, the others in this order; `rejoin_users`, which has a file of its own, comes
-- after `rename_users`. Every transaction locks in this order, and by id within a step, so none
-- waits in a circle. A batch costs no more than these statements, whatever it holds; what it has
-- nothing for is left out.

-- Whose ids are known; those that are not there get an id reserved for them. Runs before the
-- transaction: an identity's id never changes, and a register that is read too early only makes
-- us lock a row for nothing.
-- name: find_identities
SELECT
    wanted.place,
    i.id,
    i.listed,
    i.identified,
    i.claimed_at,
    CASE WHEN i.id IS NULL THEN nextval('windsor_private.identities_id_seq') END AS reserved_id
FROM unnest($1::windsor_private.identity_kind[], $2::text[])
WITH ORDINALITY AS wanted (kind, value, place)
LEFT JOIN windsor_private.identities AS i
    ON i.kind = wanted.kind AND i.value = wanted.value

-- name: ensure_week
SELECT windsor_private.ensure_week($1::date)

-- Held to the end of the transaction; an operator's command that rewrites history holds off
-- all batches. Gives which history it is: what is remembered from before it holds no more.
-- name: enter_batches
SELECT windsor_private.enter_batches()

-- name: history_now
SELECT windsor_private.history_now()

-- name: server_now
SELECT extract(EPOCH FROM clock_timestamp())::float8

-- Which calls are stored already. Asked only while duplicates are being met.
-- name: stored_calls
SELECT k.place
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[])
WITH ORDINALITY AS k (message_key, week_start, week_end, place)
WHERE EXISTS (
    SELECT FROM windsor_private.calls AS c
    WHERE
        c.message_key = k.message_key
        AND c.occurred_at >= k.week_start
        AND c.occurred_at < k.week_end
)

-- New identities, where they are few; many are copied. Their ids were reserved above.
-- name: insert_identities
INSERT INTO windsor_private.identities (
    id, listed, identified, claimed_by, claimed_at, claimed_message_id,
    group_id, group_at, group_message_id, traits, trait_clocks, kind, value
) OVERRIDING SYSTEM VALUE
SELECT
    n.id,
    n.listed,
    n.identified,
    n.claimed_by,
    n.claimed_at,
    n.claimed_message_id,
    n.group_id,
    n.group_at,
    n.group_message_id,
    n.traits,
    n.trait_clocks,
    n.kind,
    n.value
FROM unnest(
    $1::bigint[], $2::boolean[], $3::boolean[], $4::bigint[], $5::timestamptz[], $6::text[],
    $7::text[], $8::timestamptz[], $9::text[], $10::jsonb[], $11::json[],
    $12::windsor_private.identity_kind[], $13::text[]
) WITH ORDINALITY AS n (
    id, listed, identified, claimed_by, claimed_at, claimed_message_id,
    group_id, group_at, group_message_id, traits, trait_clocks, kind, value, place
)
ORDER BY n.place

-- Here the calls are copied.

-- name: lock_identities
SELECT
    i.id,
    i.kind::text AS kind,
    i.value,
    i.listed,
    i.identified,
    i.claimed_by,
    i.claimed_at,
    i.claimed_message_id,
    i.group_id,
    i.group_at,
    i.group_message_id,
    i.traits,
    i.trait_clocks
FROM windsor_private.identities AS i
WHERE i.id = ANY($1::bigint[])
ORDER BY i.id
FOR NO KEY UPDATE

-- Of many identities whose claims were made again by the same users, less is written than all
-- their columns.
-- name: update_claim_clocks
UPDATE windsor_private.identities AS i
SET claimed_at = n.claimed_at, claimed_message_id = n.claimed_message_id
FROM unnest($1::bigint[], $2::timestamptz[], $3::text[])
AS n (id, claimed_at, claimed_message_id)
WHERE i.id = n.id

-- name: update_identities
UPDATE windsor_private.identities AS i
SET
    listed = n.listed,
    identified = n.identified,
    claimed_by = n.claimed_by,
    claimed_at = n.claimed_at,
    claimed_message_id = n.claimed_message_id,
    group_id = n.group_id,
    group_at = n.group_at,
    group_message_id = n.group_message_id,
    traits = n.traits,
    trait_clocks = n.trait_clocks
FROM unnest(
    $1::bigint[], $2::boolean[], $3::boolean[], $4::bigint[], $5::timestamptz[], $6::text[],
    $7::text[], $8::timestamptz[], $9::text[], $10::jsonb[], $11::json[]
) AS n (
    id, listed, identified, claimed_by, claimed_at, claimed_message_id,
    group_id, group_at, group_message_id, traits, trait_clocks
)
WHERE i.id = n.id

-- name: lock_members
SELECT
    identity_id,
    own_traits,
    own_trait_clocks,
    id,
    user_id,
    identities_count,
    identified,
    group_id,
    group_at,
    group_message_id,
    merged_at,
    merged_message_id,
    traits,
    trait_clocks
FROM windsor_private.lock_members($1::bigint[])

-- name: delete_users
DELETE FROM windsor_private.users WHERE id = ANY($1::bigint[])

-- name: move_members
UPDATE windsor_private.members AS m
SET user_id = gone.root
FROM unnest($1::bigint[], $2::bigint[]) AS gone (user_id, root)
WHERE m.user_id = gone.user_id

-- Here many new members are copied.

-- name: put_members
INSERT INTO windsor_private.members (identity_id, user_id)
SELECT moved.identity_id, moved.user_id
FROM unnest($1::bigint[], $2::bigint[]) AS moved (identity_id, user_id)
ORDER BY moved.identity_id
ON CONFLICT (identity_id) DO UPDATE SET user_id = excluded.user_id

-- Of members, what they have set themselves, where others too have set traits of their user.
-- name: put_own_traits
UPDATE windsor_private.members AS m
SET traits = n.traits, trait_clocks = n.trait_clocks
FROM unnest($1::bigint[], $2::jsonb[], $3::json[]) AS n (identity_id, traits, trait_clocks)
WHERE m.identity_id = n.identity_id

-- Here many new users are copied.

-- Users of whom nothing but traits change, where they are many.
-- name: update_user_traits
UPDATE windsor_private.users AS u
SET traits = n.traits, trait_clocks = n.trait_clocks
FROM unnest($1::bigint[], $2::jsonb[], $3::json[]) AS n (id, traits, trait_clocks)
WHERE u.id = n.id

-- name: put_users
INSERT INTO windsor_private.users (
    id, user_id, identities_count, identified, group_id, group_at, group_message_id,
    merged_at, merged_message_id, traits, trait_clocks
)
SELECT
    n.id,
    n.user_id,
    n.identities_count,
    n.identified,
    n.group_id,
    n.group_at,
    n.group_message_id,
    n.merged_at,
    n.merged_message_id,
    n.traits,
    n.trait_clocks
FROM unnest(
    $1::bigint[], $2::text[], $3::integer[], $4::boolean[], $5::text[], $6::timestamptz[],
    $7::text[], $8::timestamptz[], $9::text[], $10::jsonb[], $11::json[]
) AS n (
    id, user_id, identities_count, identified, group_id, group_at, group_message_id,
    merged_at, merged_message_id, traits, trait_clocks
)
ON CONFLICT (id) DO UPDATE SET
    user_id = excluded.user_id,
    identities_count = excluded.identities_count,
    identified = excluded.identified,
    group_id = excluded.group_id,
    group_at = excluded.group_at,
    group_message_id = excluded.group_message_id,
    merged_at = excluded.merged_at,
    merged_message_id = excluded.merged_message_id,
    traits = excluded.traits,
    trait_clocks = excluded.trait_clocks

-- name: insert_aliases
INSERT INTO windsor_private.aliases (
    occurred_at, message_id, previous_identity_id, user_identity_id
)
SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::bigint[], $4::bigint[])

-- All aliases of users in which one arrived late, for a replay of their names.
-- name: aliases_of
SELECT
    m.user_id,
    a.occurred_at,
    a.message_id,
    a.previous_identity_id,
    a.user_identity_id
FROM windsor_private.members AS m
INNER JOIN windsor_private.aliases AS a ON a.user_identity_id = m.identity_id
WHERE m.user_id = ANY($1::bigint[]) AND a.undone_at IS NULL

-- name: rename_users
UPDATE windsor_private.users AS u
SET user_id = named.value, merged_at = n.merged_at, merged_message_id = n.merged_message_id
FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::text[])
AS n (id, named_by, merged_at, merged_message_id)
INNER JOIN windsor_private.identities AS named ON named.id = n.named_by
WHERE u.id = n.id

-- name: put_seen
INSERT INTO windsor_private.seen AS s (identity_id, first_at, last_at)
SELECT n.identity_id, n.first_at, n.last_at
FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[])
AS n (identity_id, first_at, last_at)
ORDER BY n.identity_id
ON CONFLICT (identity_id) DO UPDATE SET
    first_at = least(s.first_at, excluded.first_at),
    last_at = greatest(s.last_at, excluded.last_at)
WHERE excluded.first_at < s.first_at OR excluded.last_at > s.last_at

-- name: insert_groups
INSERT INTO windsor_private.groups (group_id)
SELECT n.group_id FROM unnest($1::text[]) AS n (group_id)
ORDER BY n.group_id COLLATE "C"
ON CONFLICT (group_id) DO NOTHING

-- name: lock_groups
SELECT g.group_id, g.traits, g.trait_clocks
FROM windsor_private.groups AS g
WHERE g.group_id = ANY($1::text[])
ORDER BY g.group_id
FOR NO KEY UPDATE

-- name: update_groups
UPDATE windsor_private.groups AS g
SET traits = n.traits, trait_clocks = n.trait_clocks
FROM unnest($1::text[], $2::jsonb[], $3::json[]) AS n (group_id, traits, trait_clocks)
WHERE g.group_id = n.group_id

-- name: put_audiences
INSERT INTO windsor_private.audiences AS a (
    name, computation_class, synced_at, synced_message_id
)
SELECT n.name, n.computation_class, n.synced_at, n.synced_message_id
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[])
AS n (name, computation_class, synced_at, synced_message_id)
ORDER BY n.name COLLATE "C"
ON CONFLICT (name) DO UPDATE SET
    computation_class = excluded.computation_class,
    synced_at = excluded.synced_at,
    synced_message_id = excluded.synced_message_id
WHERE (excluded.synced_at, excluded.synced_message_id) > (a.synced_at, a.synced_message_id)

-- name: insert_dead_letters
INSERT INTO windsor_private.dead_letters (
    topic, partition, "offset", position, record_timestamp, reason, detail,
    key, value, value_hash, headers
)
SELECT
    n.topic, n.partition, n.kafka_offset, n.position, n.record_timestamp, n.reason, n.detail,
    n.key, n.value, sha256(coalesce(n.value, ''::bytea)), n.headers
FROM unnest(
    $1::text[], $2::integer[], $3::bigint[], $4::integer[], $5::timestamptz[],
    $6::text[], $7::text[], $8::bytea[], $9::bytea[], $10::jsonb[]
) AS n (
    topic, partition, kafka_offset, position, record_timestamp,
    reason, detail, key, value, headers
)
ORDER BY n.topic, n.partition, n.kafka_offset, n.position
ON CONFLICT (topic, partition, "offset", position, value_hash) DO NOTHING
