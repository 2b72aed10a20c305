-- Pruning a week: what the retention drops goes with its partition, and what stays is put in a
-- fresh one of the same bounds, which replaces it. Workers go on writing meanwhile:
--
--   begin_pruning   the fresh partition, empty and beside the parent, and a trigger that
--                   repeats into it what is written to the old one from now on
--   copy_kept       what was there before, some blocks at a time
--   end_pruning     the fresh one for the old one, in one short transaction
--
-- Each is a transaction of its own; the old partition is whole until the last one. After a
-- crash `abandon_prunings` takes away what is half done, and the week is begun again.
--
-- Only inserts are repeated: calls are never updated, and an operator's command that deletes
-- some begins another epoch of history, by which end_pruning knows.

-- What the retention drops; all else of the log stays.
CREATE FUNCTION windsor_private.expires(type windsor_private.call_type) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN type IN ('track', 'page', 'screen');

-- Partitions with something to drop before the cutoff, oldest first; `until` is the end of the
-- partition or the cutoff. One that was pruned has an index of what is to be dropped, so that
-- it costs nothing to see that nothing came since.
CREATE FUNCTION windsor_private.prunable(cutoff timestamptz)
RETURNS TABLE (leaf text, until timestamptz)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    is_due boolean;
BEGIN
    FOR leaf, until IN
        SELECT p.leaf, least(p.upper_bound, cutoff)
        FROM (
            -- MINVALUE and MAXVALUE have no quotes: NULL.
            SELECT
                c.relname::text AS leaf,
                substring(b.bounds FROM 'FROM \(''([^'']+)')::timestamptz AS lower_bound,
                substring(b.bounds FROM 'TO \(''([^'']+)')::timestamptz AS upper_bound
            FROM pg_inherits AS i
            INNER JOIN pg_class AS c ON c.oid = i.inhrelid
            CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b (bounds)
            WHERE i.inhparent = 'windsor_private.calls'::regclass
        ) AS p
        WHERE p.lower_bound IS NULL OR p.lower_bound < cutoff
        ORDER BY p.lower_bound NULLS FIRST
    LOOP
        is_due := true;
        IF windsor_private.was_pruned(leaf) THEN
            EXECUTE format(
                'SELECT EXISTS (SELECT FROM windsor_private.%I AS c'
                ' WHERE windsor_private.expires(c.type) AND c.occurred_at < $1)', leaf
            ) INTO is_due USING until;
        END IF;
        IF is_due THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION windsor_private.was_pruned(leaf text) RETURNS boolean
LANGUAGE sql STABLE
RETURN EXISTS (
    SELECT FROM pg_index AS i
    WHERE
        i.indrelid = to_regclass('windsor_private.' || quote_ident(leaf))
        AND pg_get_expr(i.indpred, i.indrelid) LIKE '%expires(type)%'
);

CREATE FUNCTION windsor_private.repeat_in_fresh() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'INSERT INTO windsor_private.%I SELECT ($1).* ON CONFLICT DO NOTHING', TG_ARGV[0]
    ) USING NEW;
    RETURN NULL;
END
$$;

-- Returns the epoch of history, and how many blocks are to be copied: what is written after
-- this is repeated by the trigger.
CREATE FUNCTION windsor_private.begin_pruning(
    leaf text, until timestamptz, OUT epoch bigint, OUT blocks bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    old_leaf regclass := ('windsor_private.' || quote_ident(leaf))::regclass;
    fresh text := leaf || '_pruned';
BEGIN
    -- Those who are writing to it now are waited for: none misses the trigger.
    EXECUTE format('LOCK TABLE ONLY windsor_private.%I IN SHARE ROW EXCLUSIVE MODE', leaf);
    EXECUTE format(
        'CREATE TABLE windsor_private.%I (LIKE windsor_private.%I INCLUDING ALL)', fresh, leaf
    );
    -- So that attaching it need not scan it; a partition made for a week has one of its own.
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = old_leaf AND contype = 'c') THEN
        EXECUTE format(
            'ALTER TABLE windsor_private.%I ADD CONSTRAINT %I CHECK (%s)',
            fresh, leaf || '_bounds', pg_get_partition_constraintdef(old_leaf)
        );
    END IF;
    IF NOT windsor_private.was_pruned(fresh) THEN
        EXECUTE format(
            'CREATE INDEX ON windsor_private.%I (occurred_at)'
            ' WHERE windsor_private.expires(type)', fresh
        );
    END IF;
    EXECUTE format(
        'CREATE TRIGGER pruning AFTER INSERT ON windsor_private.%I FOR EACH ROW'
        ' WHEN (NOT windsor_private.expires(NEW.type) OR NEW.occurred_at >= %L)'
        ' EXECUTE FUNCTION windsor_private.repeat_in_fresh(%L)',
        leaf, until, fresh
    );
    epoch := (SELECT h.epoch FROM windsor_private.history AS h);
    blocks := pg_relation_size(old_leaf) / current_setting('block_size')::bigint;
END
$$;

-- Copies what stays of a range of blocks; returns how many calls of it do not.
CREATE FUNCTION windsor_private.copy_kept(
    leaf text, until timestamptz, from_block bigint, to_block bigint
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    calls bigint;
    kept bigint;
    from_tid tid := format('(%s,0)', from_block);
    to_tid tid := format('(%s,0)', to_block);
BEGIN
    EXECUTE format(
        'SELECT count(*), count(*) FILTER ('
        '    WHERE NOT windsor_private.expires(c.type) OR c.occurred_at >= $1'
        ') FROM windsor_private.%I AS c WHERE c.ctid >= $2 AND c.ctid < $3', leaf
    ) INTO calls, kept USING until, from_tid, to_tid;
    -- One that came since the trigger is there already.
    EXECUTE format(
        'INSERT INTO windsor_private.%I SELECT * FROM windsor_private.%I AS c'
        ' WHERE c.ctid >= $2 AND c.ctid < $3'
        ' AND (NOT windsor_private.expires(c.type) OR c.occurred_at >= $1)'
        ' ON CONFLICT DO NOTHING', leaf || '_pruned', leaf
    ) USING until, from_tid, to_tid;
    RETURN calls - kept;
END
$$;

-- Whether somebody still looks at the database as it was before `mark` was committed: in such
-- a snapshot what the fresh partition holds is not there yet. Of other roles only those that
-- we may see.
CREATE FUNCTION windsor_private.has_older_snapshots(mark xid) RETURNS boolean
LANGUAGE sql
RETURN EXISTS (
    SELECT FROM pg_stat_activity AS a
    WHERE
        a.datname = current_database()
        AND a.backend_type = 'client backend'
        AND a.pid <> pg_backend_pid()
        AND age(a.backend_xmin) >= age(mark)
);

-- Puts the fresh partition in the place of the old one. False if history was rewritten since
-- `epoch_begun`: what was copied may hold no more.
--
-- Everybody waits for as long as we hold the parent, which is a moment; and for as long as we
-- wait for it, which `parent_wait` bounds: the caller tries again.
CREATE FUNCTION windsor_private.end_pruning(
    leaf text, until timestamptz, epoch_begun bigint, parent_wait interval
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    bounds text;
BEGIN
    -- In the order of ensure_week.
    LOCK TABLE windsor_private.calls_bounds IN SHARE ROW EXCLUSIVE MODE;
    -- Against vacuum alone: it gives way after a second, for which nobody has to wait here.
    PERFORM set_config('lock_timeout', '5s', true);
    EXECUTE format('LOCK TABLE ONLY windsor_private.%I IN SHARE UPDATE EXCLUSIVE MODE', leaf);
    PERFORM set_config(
        'lock_timeout', (extract(EPOCH FROM parent_wait) * 1000)::integer::text, true
    );
    LOCK TABLE ONLY windsor_private.calls IN ACCESS EXCLUSIVE MODE;
    IF epoch_begun IS DISTINCT FROM (SELECT h.epoch FROM windsor_private.history AS h) THEN
        RETURN false;
    END IF;
    bounds := (
        SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class AS c
        WHERE c.oid = ('windsor_private.' || quote_ident(leaf))::regclass
    );
    EXECUTE format('ALTER TABLE windsor_private.calls DETACH PARTITION windsor_private.%I', leaf);
    -- Its trigger goes with it.
    EXECUTE format('DROP TABLE windsor_private.%I', leaf);
    EXECUTE format('ALTER TABLE windsor_private.%I RENAME TO %I', leaf || '_pruned', leaf);
    EXECUTE format(
        'ALTER TABLE windsor_private.calls ATTACH PARTITION windsor_private.%I %s', leaf, bounds
    );
    UPDATE windsor_private.calls_bounds
    SET pruned_before = greatest(pruned_before, (until AT TIME ZONE 'UTC')::date);
    RETURN true;
END
$$;

-- Takes away what a pruning that did not end has left; returns how many there were.
CREATE FUNCTION windsor_private.abandon_prunings() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    leaf text;
    abandoned integer := 0;
BEGIN
    FOR leaf IN
        SELECT c.relname
        FROM pg_trigger AS t
        INNER JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE t.tgname = 'pruning' AND c.relnamespace = 'windsor_private'::regnamespace
    LOOP
        EXECUTE format('DROP TRIGGER pruning ON windsor_private.%I', leaf);
        EXECUTE format('DROP TABLE windsor_private.%I', leaf || '_pruned');
        abandoned := abandoned + 1;
    END LOOP;
    RETURN abandoned;
END
$$;
