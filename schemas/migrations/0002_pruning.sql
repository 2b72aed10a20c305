-- Pruning a week: what the retention drops goes with its partition, and what stays is put in a
-- fresh one of the same bounds, which replaces it. Workers go on writing meanwhile:
--
--   begin_pruning   the fresh partition, empty and beside the parent; a trigger that repeats
--                   into it what is written to the old one from now on
--   copy_kept       what was there before, some blocks at a time
--   end_pruning     the fresh one for the old one, in one short transaction
--
-- Each is a transaction of its own. After a crash the week is begun again: a fresh partition
-- that is half full is dropped, and the old one is whole until the last step.

-- What the retention drops; all else of the log stays.
CREATE FUNCTION windsor_private.expires(type windsor_private.call_type) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN type IN ('track', 'page', 'screen');

-- Partitions that hold calls of before the cutoff, oldest first: up to `until`, their end or
-- the cutoff, calls expire. A partition is pruned when it has the index of what is to be
-- dropped, and nothing in it: late calls may come, should retention be off for a while.
CREATE FUNCTION windsor_private.prunable(cutoff timestamptz)
RETURNS TABLE (leaf text, until timestamptz)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    is_due boolean;
BEGIN
    FOR leaf, until IN
        SELECT b.leaf, least(b.upper_bound, cutoff)
        FROM windsor_private.partitions() AS b
        WHERE b.lower_bound IS NULL OR b.lower_bound < cutoff
        ORDER BY b.lower_bound NULLS FIRST
    LOOP
        IF to_regclass('windsor_private.' || quote_ident(leaf || '_expiring')) IS NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM windsor_private.%I AS c'
            ' WHERE windsor_private.expires(c.type) AND c.occurred_at < $1)', leaf
        ) INTO is_due USING until;
        IF is_due THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

-- The partitions of calls and their bounds; NULL is without end.
CREATE FUNCTION windsor_private.partitions()
RETURNS TABLE (leaf text, lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE sql STABLE
RETURN (SELECT NULL::text, NULL::timestamptz, NULL::timestamptz WHERE false);
