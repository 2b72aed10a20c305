-- A user identity never leaves its user but by an operator's hand, and nearly always it alone has set
-- its user's traits: they are stored once, with the user, and guarded by its lock. So an identify of a
-- known user locks, reads and writes one row instead of two. Only where a merge or a visitor brings other
-- traits too are a member's own kept beside whose it is, so that a user can always be joined anew.
--
-- Traits of what may move, or be nobody's yet (visitors, contacts), stay with the identity.
-- docs/decisions/0008-traits-of-users-once.md.

-- Workers are between two batches; what they remember holds no more. One of an older version, which
-- would write a user's traits to where they were, fails from here on until it is replaced: what each of
-- its batches calls first has another name now.
SELECT pg_advisory_xact_lock(hashtext('windsor.batches'));
UPDATE windsor_private.history SET epoch = epoch + 1;
-- squawk-ignore ban-drop-function
DROP FUNCTION windsor_private.join_batches();

-- A batch takes part until its transaction ends; gives the history, read only once no command
-- that begins another epoch is in the way.
CREATE FUNCTION windsor_private.enter_batches() RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('windsor.batches'));
    RETURN windsor_private.history_now();
END
$$;

-- Room on each page for every row to change once and grow by a quarter, as by a new trait with its clock:
-- with half of it free a sixth of them moved.
ALTER TABLE windsor_private.users SET (fillfactor = 45);

-- All identities are rewritten before any lock that readers would wait for.
CREATE TEMP TABLE own_traits ON COMMIT DROP AS
SELECT
    i.id AS identity_id,
    i.traits,
    i.trait_clocks
FROM windsor_private.identities AS i
INNER JOIN windsor_private.members AS m ON m.identity_id = i.id
INNER JOIN windsor_private.users AS u ON u.id = m.user_id
WHERE
    i.kind = 'user'
    AND (u.merged_at IS NOT NULL OR u.trait_clocks::jsonb <> i.trait_clocks::jsonb);

UPDATE windsor_private.identities
SET traits = '{}', trait_clocks = '{}'
WHERE kind = 'user' AND trait_clocks::text <> '{}';

-- Of user identities alone. Null: they are its user's.
ALTER TABLE windsor_private.members ADD COLUMN traits jsonb;
ALTER TABLE windsor_private.members ADD COLUMN trait_clocks json;

UPDATE windsor_private.members AS m
SET traits = own.traits, trait_clocks = own.trait_clocks
FROM own_traits AS own
WHERE m.identity_id = own.identity_id;

-- squawk-ignore ban-drop-function
DROP FUNCTION windsor_private.lock_users_of(bigint []);

-- Lock the users of identities, by id, and give them with the own traits of each: one row for each
-- identity that is a member. Only with the locks held is it settled whose identities are; were users
-- merged meanwhile, the locks are given back and it begins again, since a lock on a lesser id would be
-- out of order.
CREATE FUNCTION windsor_private.lock_members(identities bigint [])
RETURNS TABLE (
    identity_id bigint,
    own_traits jsonb,
    own_trait_clocks json,
    id bigint,
    user_id text,
    identities_count integer,
    identified boolean,
    group_id text,
    group_at timestamptz,
    group_message_id text,
    merged_at timestamptz,
    merged_message_id text,
    traits jsonb,
    trait_clocks json
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    members bigint[];
    users bigint[];
    members_now bigint[];
    users_now bigint[];
BEGIN
    FOR attempt IN 1..10 LOOP
        BEGIN
            SELECT
                array_agg(m.identity_id ORDER BY m.identity_id),
                array_agg(m.user_id ORDER BY m.identity_id)
            INTO members, users
            FROM windsor_private.members AS m
            WHERE m.identity_id = ANY(identities);
            PERFORM FROM windsor_private.users AS u
            WHERE u.id = ANY(users)
            ORDER BY u.id
            FOR UPDATE;
            SELECT
                array_agg(m.identity_id ORDER BY m.identity_id),
                array_agg(m.user_id ORDER BY m.identity_id)
            INTO members_now, users_now
            FROM windsor_private.members AS m
            WHERE m.identity_id = ANY(identities);
            IF
                members_now IS NOT DISTINCT FROM members
                AND users_now IS NOT DISTINCT FROM users
            THEN
                -- Not of `identities`: what became a member just now is not locked.
                RETURN QUERY
                SELECT
                    m.identity_id, m.traits, m.trait_clocks,
                    u.id, u.user_id, u.identities_count, u.identified,
                    u.group_id, u.group_at, u.group_message_id,
                    u.merged_at, u.merged_message_id, u.traits, u.trait_clocks
                FROM windsor_private.members AS m
                INNER JOIN windsor_private.users AS u ON u.id = m.user_id
                WHERE m.identity_id = ANY(members);
                RETURN;
            END IF;
            RAISE EXCEPTION USING errcode = 'WD001';
        EXCEPTION WHEN SQLSTATE 'WD001' THEN
            NULL; -- The block's locks are given back.
        END;
    END LOOP;
    RAISE EXCEPTION 'users went on being merged' USING errcode = 'serialization_failure';
END
$$;
