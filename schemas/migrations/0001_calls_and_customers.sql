-- The log of calls, and the projections that are kept of it.
--
-- `windsor` holds the public views (docs/data-model.md); `windsor_private` the tables.
-- There are no foreign keys between hot tables: a check would lock the row that it looks at,
-- and `windsor verify` proves more than they could.

CREATE SCHEMA IF NOT EXISTS windsor;
CREATE SCHEMA IF NOT EXISTS windsor_private;

CREATE TYPE windsor_private.identity_kind AS ENUM ('user', 'anonymous', 'email', 'phone');
CREATE TYPE windsor_private.call_type AS ENUM (
    'identify', 'track', 'page', 'screen', 'group', 'alias'
);

-- The log ------------------------------------------------------------------------------------

-- A call is unique in its UTC week, by the hash of its message id, whatever its type: that is
-- why all six types share the weekly partitions. Each partition has a unique index of its own
-- on (message_key); the oldest one, which holds many weeks, on (message_key, week).
CREATE TABLE windsor_private.calls (
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    message_key uuid NOT NULL,
    identity_id bigint NOT NULL,
    anonymous_identity_id bigint,
    "offset" bigint NOT NULL,
    partition integer NOT NULL,
    type windsor_private.call_type NOT NULL,
    topic text NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    name text,
    category text,
    properties jsonb,
    context jsonb,
    traits jsonb,
    -- Of alias and group calls.
    previous_id text COLLATE "C",
    group_id text COLLATE "C",
    -- The contacts (identities) that an identify claims: fixed when it was decoded.
    claims bigint[]
) PARTITION BY RANGE (occurred_at);

-- Timelines: one user's identities, newest first.
CREATE INDEX calls_timeline ON windsor_private.calls (identity_id, occurred_at);
-- The feed: everything that is not a page, newest first. Arrival is almost in this order, so
-- the index grows at its right end.
CREATE INDEX calls_feed ON windsor_private.calls (occurred_at)
WHERE type IN ('track', 'screen');

-- Weeks are counted from Monday 1970-01-05, UTC.
CREATE FUNCTION windsor_private.week_of(at timestamptz) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN date_trunc('week', at AT TIME ZONE 'UTC')::date;

CREATE TABLE windsor_private.calls_bounds (
    -- Before this, all calls share one partition; from it on, each week has its own.
    weekly_from date NOT NULL,
    -- From this on, one partition again: no plausible clock is there.
    weekly_until date NOT NULL,
    -- Track, page and screen calls before this have been pruned by the retention.
    pruned_before date,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);

-- Make the partition of one week, if it is not there: built alone, then attached, since
-- PARTITION OF would lock the parent against everybody for the whole time.
CREATE FUNCTION windsor_private.ensure_week(week date) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    leaf text := 'calls_' || to_char(week, 'YYYY_MM_DD');
    lower_bound text := to_char(week, 'YYYY-MM-DD') || ' 00:00:00+00';
    upper_bound text := to_char(week + 7, 'YYYY-MM-DD') || ' 00:00:00+00';
BEGIN
    IF NOT EXISTS (
            SELECT FROM windsor_private.calls_bounds AS b
            WHERE week >= b.weekly_from AND week < b.weekly_until
        )
        OR to_regclass('windsor_private.' || leaf) IS NOT NULL THEN
        RETURN;
    END IF;
    -- One at a time. A table's lock, not an advisory one: taking it also lets us see what
    -- another session has just made.
    LOCK TABLE windsor_private.calls_bounds IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass('windsor_private.' || leaf) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format(
        'CREATE TABLE windsor_private.%I (LIKE windsor_private.calls INCLUDING DEFAULTS,'
        ' CONSTRAINT %I CHECK (occurred_at >= %L AND occurred_at < %L))',
        leaf, leaf || '_week', lower_bound, upper_bound
    );
    EXECUTE format(
        'CREATE UNIQUE INDEX %I ON windsor_private.%I (message_key)', leaf || '_once', leaf
    );
    EXECUTE format(
        'ALTER TABLE windsor_private.calls ATTACH PARTITION windsor_private.%I'
        ' FOR VALUES FROM (%L) TO (%L)',
        leaf, lower_bound, upper_bound
    );
END
$$;

-- Weekly from two years back at the time of this migration, for twenty years.
INSERT INTO windsor_private.calls_bounds (weekly_from, weekly_until)
VALUES (
    windsor_private.week_of(now()) - 7 * 104,
    windsor_private.week_of(now()) + 7 * 1040
);

DO $$
DECLARE
    bounds windsor_private.calls_bounds := (
        SELECT b FROM windsor_private.calls_bounds AS b
    );
BEGIN
    EXECUTE format(
        'CREATE TABLE windsor_private.calls_old PARTITION OF windsor_private.calls'
        ' FOR VALUES FROM (MINVALUE) TO (%L)',
        to_char(bounds.weekly_from, 'YYYY-MM-DD') || ' 00:00:00+00'
    );
    EXECUTE format(
        'CREATE TABLE windsor_private.calls_far PARTITION OF windsor_private.calls'
        ' FOR VALUES FROM (%L) TO (MAXVALUE)',
        to_char(bounds.weekly_until, 'YYYY-MM-DD') || ' 00:00:00+00'
    );
    FOR ahead IN -2..4 LOOP
        PERFORM windsor_private.ensure_week(windsor_private.week_of(now()) + 7 * ahead);
    END LOOP;
END
$$;

CREATE UNIQUE INDEX calls_old_once ON windsor_private.calls_old (
    message_key, windsor_private.week_of(occurred_at)
);
CREATE UNIQUE INDEX calls_far_once ON windsor_private.calls_far (
    message_key, windsor_private.week_of(occurred_at)
);

-- Identities: the state is kept here, users are its join -----------------------------------------

-- An identity is anything that a call can point at. Each register below takes the greatest or
-- the least clock of the calls that set it, so the order of writing does not matter:
--   claimed_*  user: the least call naming it (claimed by itself); anonymous: the least claim;
--              email, phone: the greatest claim
--   group_*    the greatest group call
--   traits     each key's greatest identify; a key in trait_clocks alone is a tombstone
-- trait_clocks maps a key to [microseconds, message id]; json, since only whole ones are read
-- and written, which takes half of jsonb's time.
CREATE TABLE windsor_private.identities (
    -- Reserved by the batch; a session takes a thousand from the sequence at a time.
    id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1000) PRIMARY KEY,
    claimed_by bigint,
    claimed_at timestamptz,
    group_at timestamptz,
    kind windsor_private.identity_kind NOT NULL,
    -- Shown in windsor.user_ids: false while named by a previousId alone.
    listed boolean NOT NULL DEFAULT false,
    identified boolean NOT NULL DEFAULT false,
    value text COLLATE "C" NOT NULL,
    claimed_message_id text COLLATE "C",
    group_id text COLLATE "C",
    group_message_id text COLLATE "C",
    traits jsonb NOT NULL DEFAULT '{}',
    trait_clocks json NOT NULL DEFAULT '{}',
    UNIQUE (kind, value)
) WITH (fillfactor = 80);

-- Whose an identity is. Apart from `identities` because it is guarded by the user's row lock,
-- not the identity's: a merge moves members without locking their identities.
CREATE TABLE windsor_private.members (
    identity_id bigint PRIMARY KEY,
    user_id bigint NOT NULL
);
CREATE INDEX members_of_user ON windsor_private.members (user_id);

-- Changes with nearly every call: narrow, unindexed but for its key, with room to stay HOT.
CREATE TABLE windsor_private.seen (
    identity_id bigint PRIMARY KEY,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL
) WITH (fillfactor = 70);

-- The join of all identities of a user. `id` is the id of one of its user identities.
CREATE TABLE windsor_private.users (
    id bigint PRIMARY KEY,
    group_at timestamptz,
    -- The greatest alias that merged something into this user; later ones need no replay.
    merged_at timestamptz,
    identities_count integer NOT NULL,
    identified boolean NOT NULL DEFAULT false,
    user_id text COLLATE "C" NOT NULL,
    group_id text COLLATE "C",
    group_message_id text COLLATE "C",
    merged_message_id text COLLATE "C",
    traits jsonb NOT NULL DEFAULT '{}',
    trait_clocks json NOT NULL DEFAULT '{}'
) WITH (fillfactor = 80);
CREATE INDEX users_by_user_id ON windsor_private.users (user_id);
CREATE INDEX users_by_group ON windsor_private.users (group_id) WHERE group_id IS NOT NULL;

-- Lock the users of identities, by id, and give them: one row for each identity that is a
-- member. Only with the locks held is it settled whose identities are; were users merged
-- meanwhile, the locks are given back and it begins again, since a lock on a lesser id would be
-- out of order.
CREATE FUNCTION windsor_private.lock_users_of(identities bigint [])
RETURNS TABLE (
    identity_id bigint,
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
    expected windsor_private.members[];
    found windsor_private.members[];
BEGIN
    FOR attempt IN 1..10 LOOP
        BEGIN
            expected := array(
                SELECT m FROM windsor_private.members AS m
                WHERE m.identity_id = ANY(identities) ORDER BY m.identity_id
            );
            PERFORM FROM windsor_private.users AS u
            WHERE u.id = ANY(array(SELECT m.user_id FROM unnest(expected) AS m))
            ORDER BY u.id
            FOR UPDATE;
            found := array(
                SELECT m FROM windsor_private.members AS m
                WHERE m.identity_id = ANY(identities) ORDER BY m.identity_id
            );
            IF found = expected THEN
                RETURN QUERY
                SELECT
                    m.identity_id, u.id, u.user_id, u.identities_count, u.identified,
                    u.group_id, u.group_at, u.group_message_id,
                    u.merged_at, u.merged_message_id, u.traits, u.trait_clocks
                FROM unnest(found) AS m
                INNER JOIN windsor_private.users AS u ON u.id = m.user_id;
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

CREATE TABLE windsor_private.aliases (
    occurred_at timestamptz NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    previous_identity_id bigint NOT NULL,
    user_identity_id bigint NOT NULL,
    undone_at timestamptz,
    PRIMARY KEY (occurred_at, message_id)
);
CREATE INDEX aliases_of_user ON windsor_private.aliases (user_identity_id);
CREATE INDEX aliases_of_previous ON windsor_private.aliases (previous_identity_id);

CREATE TABLE windsor_private.groups (
    group_id text COLLATE "C" PRIMARY KEY,
    traits jsonb NOT NULL DEFAULT '{}',
    trait_clocks json NOT NULL DEFAULT '{}'
);

CREATE TABLE windsor_private.audiences (
    name text COLLATE "C" PRIMARY KEY,
    computation_class text,
    synced_at timestamptz NOT NULL,
    synced_message_id text COLLATE "C" NOT NULL
);

CREATE TABLE windsor_private.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    position integer NOT NULL,
    record_timestamp timestamptz,
    reason text NOT NULL,
    detail text NOT NULL,
    key bytea,
    value bytea,
    -- SHA-256: a topic that is made again uses its offsets again.
    value_hash bytea NOT NULL,
    headers jsonb NOT NULL DEFAULT '[]',
    failed_at timestamptz NOT NULL DEFAULT now(),
    replayed_at timestamptz,
    discarded_at timestamptz,
    UNIQUE (topic, partition, "offset", position, value_hash)
);

-- What workers remember of identities holds within an epoch. An operator's command that
-- rewrites history (a repair, an erasure) begins the next one, in its own transaction.
CREATE TABLE windsor_private.history (
    epoch bigint NOT NULL DEFAULT 0,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
INSERT INTO windsor_private.history DEFAULT VALUES;

-- Which history this is: the epoch, and the start of the server. After a failover or a restore
-- another server answers, which may lack what was committed last on the one before.
CREATE FUNCTION windsor_private.history_now() RETURNS text
LANGUAGE sql STABLE
RETURN (
    SELECT h.epoch || ' ' || extract(EPOCH FROM pg_postmaster_start_time())
    FROM windsor_private.history AS h
);

-- A batch takes part until its transaction ends; gives the history, read only once no command
-- that begins another epoch is in the way.
CREATE FUNCTION windsor_private.join_batches() RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('windsor.batches'));
    RETURN windsor_private.history_now();
END
$$;

-- The public views -------------------------------------------------------------------------------

-- A trait as text, absent where it is none. Of two spellings the greater clock wins, and the
-- first one a tie.
CREATE FUNCTION windsor_private.trait_clock_after(a json, b json) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN a IS NULL THEN false
    WHEN b IS NULL THEN true
    ELSE ((a ->> 0)::bigint, (a ->> 1) COLLATE "C") > ((b ->> 0)::bigint, (b ->> 1) COLLATE "C")
END;

CREATE FUNCTION windsor_private.trait_text(traits jsonb, key text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(traits -> key) = 'string' THEN traits ->> key END;

CREATE FUNCTION windsor_private.trait_text(traits jsonb, clocks json, camel text, snake text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN windsor_private.trait_text(
    traits,
    CASE
        -- A look at the text spares most rows from being parsed.
        WHEN
            strpos(clocks::text, snake) > 0
            AND windsor_private.trait_clock_after(clocks -> snake, clocks -> camel)
            THEN snake
        ELSE camel
    END
);

CREATE VIEW windsor.users AS
SELECT
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
    u.traits,
    u.identified,
    -- Subqueries within subqueries: whatever the planner believes of the tables, it looks each
    -- identity up by its key, and never reads all sightings for each user.
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

CREATE VIEW windsor.user_ids AS
SELECT
    i.kind::text AS kind,
    i.value,
    u.user_id,
    i.claimed_message_id AS message_id,
    i.claimed_at AS since
FROM windsor_private.identities AS i
LEFT JOIN windsor_private.members AS m ON m.identity_id = i.id
LEFT JOIN windsor_private.users AS u ON u.id = m.user_id
WHERE i.listed;

CREATE VIEW windsor.groups AS
SELECT
    g.group_id,
    g.traits,
    (
        SELECT count(*) FROM windsor_private.users AS u
        WHERE u.group_id = g.group_id
    ) AS members_count
FROM windsor_private.groups AS g;

CREATE VIEW windsor.feed AS
SELECT
    c.message_id,
    u.user_id,
    a.value AS anonymous_id,
    c.type::text AS type,
    c.name,
    c.category,
    CASE c.type
        WHEN 'page' THEN coalesce('Viewed page ' || c.name, 'Viewed a page')
        WHEN 'screen' THEN coalesce('Viewed screen ' || c.name, 'Viewed a screen')
        ELSE c.name
    END AS summary,
    c.type = 'page' AS hidden,
    c.occurred_at,
    c.received_at,
    c.properties,
    c.context,
    c.topic,
    c.partition,
    c."offset"
FROM windsor_private.calls AS c
LEFT JOIN windsor_private.members AS m ON m.identity_id = c.identity_id
LEFT JOIN windsor_private.users AS u ON u.id = m.user_id
LEFT JOIN windsor_private.identities AS a ON a.id = c.anonymous_identity_id
WHERE c.type IN ('track', 'page', 'screen');

CREATE VIEW windsor.audiences AS
SELECT
    a.name,
    a.computation_class,
    (
        SELECT count(*) FROM windsor_private.users AS u
        WHERE
            CASE
                WHEN a.computation_class = 'trait' OR a.computation_class LIKE '%\_trait'
                    THEN u.traits ? a.name
                ELSE u.traits -> a.name IN ('true'::jsonb, '"true"'::jsonb)
            END
    ) AS members_count,
    a.synced_at AS last_synced_at
FROM windsor_private.audiences AS a;

CREATE VIEW windsor.merges AS
SELECT
    al.message_id,
    previous.value AS previous_id,
    named.value AS user_id,
    al.occurred_at,
    al.undone_at
FROM windsor_private.aliases AS al
INNER JOIN windsor_private.identities AS previous ON previous.id = al.previous_identity_id
INNER JOIN windsor_private.identities AS named ON named.id = al.user_identity_id;

CREATE VIEW windsor.dead_letters AS
SELECT
    topic,
    partition,
    "offset",
    position,
    record_timestamp,
    reason,
    detail,
    key,
    value,
    headers,
    failed_at,
    replayed_at,
    discarded_at
FROM windsor_private.dead_letters;
