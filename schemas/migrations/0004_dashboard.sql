-- What the dashboard's pages read, the names that people hide, and the role that may do so.
--
-- A page asks by index and for a bounded number of rows, whatever the tables hold: a walk along
-- an index of the calls in the order of time, or one look-up for each row that it shows. The
-- views are thin, so that the role which reads them needs no right on a table behind them.

CREATE SCHEMA windsor_dashboard;

-- The calls that calls_feed leaves out, newest first: pages, where hidden events are shown, and
-- whatever else may be somebody's last sighting. As cheap to keep: it grows at its right end.
CREATE INDEX calls_rest ON windsor_private.calls (occurred_at)
WHERE type IN ('identify', 'page', 'group', 'alias');

-- What a user can be found by, beside their ids and contacts: all spellings of their name. A
-- column of its own, since an update stays HOT while no indexed column changes its value: a name
-- seldom does, where some trait always does.
ALTER TABLE windsor_private.users ADD COLUMN name_searched text GENERATED ALWAYS AS (
    left(
        coalesce(traits ->> 'name' || ' ', '')
        || coalesce(traits ->> 'firstName' || ' ', '') || coalesce(traits ->> 'lastName' || ' ', '')
        || coalesce(traits ->> 'first_name' || ' ', '') || coalesce(traits ->> 'last_name', ''),
        200
    )
) STORED;

CREATE INDEX users_by_name ON windsor_private.users
USING gin (to_tsvector('simple', name_searched));

-- Event names that nobody wants to see in the feed, until they are shown again.
CREATE TABLE windsor_private.hidden_names (
    name text COLLATE "C" PRIMARY KEY,
    hidden_at timestamptz NOT NULL DEFAULT now()
);

-- Whether a source's token may also read, under /api/. A token in a web page or an app is known to
-- everybody who looks at it: those must not.
ALTER TABLE windsor_private.sources ADD COLUMN may_read boolean NOT NULL DEFAULT false;

-- The views ------------------------------------------------------------------------------------

-- Properties, context and traits may be half a megabyte; the feed shows a line. What is larger
-- than this is fetched for the one event that somebody opens.
CREATE FUNCTION windsor_dashboard.when_small(value jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN pg_column_size(value) <= 8192 THEN value END;

CREATE VIEW windsor_dashboard.calls AS
SELECT
    c.occurred_at,
    c.received_at,
    c.message_key,
    c.message_id,
    c.identity_id,
    c.anonymous_identity_id,
    c.type,
    c.name,
    c.category,
    c.properties,
    c.context,
    c.traits,
    c.group_id,
    c.topic,
    c.partition,
    c."offset"
FROM windsor_private.calls AS c;

CREATE VIEW windsor_dashboard.identities AS
SELECT
    i.id,
    i.kind,
    i.value,
    i.claimed_by,
    i.claimed_at,
    i.claimed_message_id,
    i.listed,
    i.group_id,
    i.traits,
    i.trait_clocks
FROM windsor_private.identities AS i;

CREATE VIEW windsor_dashboard.members AS
SELECT
    m.identity_id,
    m.user_id
FROM windsor_private.members AS m;

CREATE VIEW windsor_dashboard.seen AS
SELECT
    s.identity_id,
    s.first_at,
    s.last_at
FROM windsor_private.seen AS s;

-- As `windsor.users`, with the key that the other tables know a user by.
CREATE VIEW windsor_dashboard.users AS
SELECT
    u.id,
    u.user_id,
    coalesce(
        windsor_private.trait_text(u.traits, 'email'),
        CASE WHEN position('@' IN u.user_id) > 0 THEN u.user_id END
    ) AS email,
    coalesce(
        windsor_private.trait_text(u.traits, 'name'),
        nullif(
            concat_ws(
                ' ',
                windsor_private.trait_text(u.traits, u.trait_clocks, 'firstName', 'first_name'),
                windsor_private.trait_text(u.traits, u.trait_clocks, 'lastName', 'last_name')
            ),
            ''
        )
    ) AS name,
    windsor_private.trait_text(u.traits, 'phone') AS phone,
    windsor_private.trait_text(u.traits, 'avatar') AS avatar,
    u.group_id,
    u.identified,
    u.identities_count,
    u.traits,
    u.trait_clocks,
    u.name_searched,
    (
        SELECT
            min((
                SELECT s.first_at FROM windsor_private.seen AS s
                WHERE s.identity_id = m.identity_id
            ))
        FROM windsor_private.members AS m
        WHERE m.user_id = u.id
    ) AS first_seen_at,
    (
        SELECT
            max((
                SELECT s.last_at FROM windsor_private.seen AS s
                WHERE s.identity_id = m.identity_id
            ))
        FROM windsor_private.members AS m
        WHERE m.user_id = u.id
    ) AS last_seen_at
FROM windsor_private.users AS u;

CREATE VIEW windsor_dashboard.aliases AS
SELECT
    al.occurred_at,
    al.message_id,
    al.previous_identity_id,
    al.user_identity_id,
    al.undone_at
FROM windsor_private.aliases AS al;

CREATE VIEW windsor_dashboard.groups AS
SELECT
    g.group_id,
    g.traits,
    coalesce(windsor_private.trait_text(g.traits, 'name'), g.group_id) AS name,
    (
        SELECT count(*) FROM windsor_private.users AS u
        WHERE u.group_id = g.group_id
    ) AS members_count
FROM windsor_private.groups AS g;

-- Without the number of members, for which every user is looked at.
CREATE VIEW windsor_dashboard.audiences AS
SELECT
    a.name,
    a.computation_class,
    a.synced_at,
    a.computation_class = 'trait' OR a.computation_class LIKE '%\_trait' AS is_trait
FROM windsor_private.audiences AS a;

CREATE VIEW windsor_dashboard.dead_letters AS
SELECT
    d.id,
    d.topic,
    d.partition,
    d."offset",
    d.position,
    d.record_timestamp,
    d.reason,
    d.detail,
    d.key,
    d.value,
    d.headers,
    d.failed_at,
    d.replayed_at,
    d.discarded_at
FROM windsor_private.dead_letters AS d;

CREATE VIEW windsor_dashboard.hidden_names AS
SELECT
    h.name,
    h.hidden_at
FROM windsor_private.hidden_names AS h;

CREATE VIEW windsor_dashboard.storage AS
SELECT
    c.relname AS partition,
    greatest(c.reltuples, 0)::bigint AS calls_estimate,
    pg_total_relation_size(c.oid) AS bytes
FROM pg_inherits AS i
INNER JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'windsor_private.calls'::regclass;

-- The role -------------------------------------------------------------------------------------

-- The dashboard takes this role where its login may; schemas/grants.sql says what it may do. Roles
-- belong to the whole server: another database may have made it, at this very moment too. Where we
-- may not make roles, deploy/roles.sql does.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'windsor_dashboard') THEN
        CREATE ROLE windsor_dashboard NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'no right to make the role windsor_dashboard: the pages use the login''s own';
END
$$;
