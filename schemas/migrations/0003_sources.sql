-- Who may send calls to the endpoint: a source each, with its token.

CREATE TABLE windsor_private.sources (
    -- The public half of the token, by which it is looked up.
    source_id text COLLATE "C" PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    -- SHA-256 of the whole token. Its secret half is random, 160 bits: nothing slower is needed.
    token_hash bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    -- Of this source alone; the dashboard's setting where null.
    calls_per_second_max integer CHECK (calls_per_second_max > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- To within some seconds: replicas report now and then.
    last_used_at timestamptz,
    revoked_at timestamptz
);

-- A name may be given again once its token is revoked.
CREATE UNIQUE INDEX sources_name ON windsor_private.sources (name) WHERE revoked_at IS NULL;

-- Every replica hears of a change as soon as it is committed, whoever made it.
CREATE FUNCTION windsor_private.tell_of_sources() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('windsor_sources', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER told
AFTER INSERT OR DELETE OR UPDATE OF token_hash, calls_per_second_max, revoked_at
ON windsor_private.sources
FOR EACH STATEMENT EXECUTE FUNCTION windsor_private.tell_of_sources();

-- What people are shown: all but the hash.
CREATE VIEW windsor_private.sources_shown AS
SELECT source_id, name, calls_per_second_max, created_at, last_used_at, revoked_at
FROM windsor_private.sources;
