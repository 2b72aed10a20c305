-- What the roles of deploy/roles.sql may do with this version's schema. `windsor migrate` runs this
-- after the migrations, every time; roles that are not there are passed over, and rights that an
-- earlier version gave are taken back.

DO $$
DECLARE
    entry record;
    worker constant name := 'windsor_worker';
BEGIN
    FOR entry IN
        SELECT r.rolname AS grantee FROM pg_roles AS r
        WHERE r.rolname IN ('windsor_worker', 'windsor_dashboard', 'windsor_reader')
    LOOP
        EXECUTE format(
            'REVOKE ALL ON ALL TABLES IN SCHEMA windsor, windsor_private FROM %I', entry.grantee
        );
        EXECUTE format('GRANT USAGE ON SCHEMA windsor TO %I', entry.grantee);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA windsor TO %I', entry.grantee);
    END LOOP;

    FOR entry IN
        SELECT r.rolname AS grantee, t.name AS relation, t.rights
        FROM (
            VALUES
            ('windsor_worker', 'migrations', 'SELECT'),
            ('windsor_worker', 'history', 'SELECT'),
            ('windsor_worker', 'calls_bounds', 'SELECT'),
            -- The log is written once: what is in it only a migrator changes.
            ('windsor_worker', 'calls', 'SELECT, INSERT'),
            ('windsor_worker', 'aliases', 'SELECT, INSERT'),
            ('windsor_worker', 'identities', 'SELECT, INSERT, UPDATE'),
            ('windsor_worker', 'members', 'SELECT, INSERT, UPDATE'),
            ('windsor_worker', 'seen', 'SELECT, INSERT, UPDATE'),
            -- A merge leaves one user less.
            ('windsor_worker', 'users', 'SELECT, INSERT, UPDATE, DELETE'),
            ('windsor_worker', 'groups', 'SELECT, INSERT, UPDATE'),
            ('windsor_worker', 'audiences', 'SELECT, INSERT, UPDATE'),
            (
                'windsor_worker', 'dead_letters',
                'SELECT, INSERT, UPDATE (replayed_at, discarded_at)'
            ),
            ('windsor_dashboard', 'migrations', 'SELECT'),
            ('windsor_dashboard', 'dead_letters', 'SELECT, UPDATE (replayed_at, discarded_at)'),
            -- Tokens are kept as hashes of what is random: to read them gives nothing away.
            (
                'windsor_dashboard', 'sources',
                'SELECT, INSERT, UPDATE (last_used_at, revoked_at, may_read)'
            ),
            ('windsor_dashboard', 'sources_shown', 'SELECT'),
            ('windsor_dashboard', 'hidden_names', 'SELECT, INSERT, DELETE')
        ) AS t (grantee, name, rights)
        INNER JOIN pg_roles AS r ON r.rolname = t.grantee
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA windsor_private TO %I', entry.grantee);
        EXECUTE format(
            'GRANT %s ON windsor_private.%I TO %I', entry.rights, entry.relation, entry.grantee
        );
    END LOOP;

    IF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'windsor_dashboard') THEN
        GRANT USAGE ON SCHEMA windsor_dashboard TO windsor_dashboard;
        GRANT SELECT ON ALL TABLES IN SCHEMA windsor_dashboard TO windsor_dashboard;
    END IF;

    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = worker) THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA windsor_private TO %I', worker);

    -- Weeks come and go by functions that do so with their owner's rights: the worker makes and
    -- drops partitions of calls, and no other table. Their search path is fixed, so that nobody
    -- can put a function or a table of their own before what they name.
    FOR entry IN
        SELECT p.oid::regprocedure AS function
        FROM pg_proc AS p
        WHERE
            p.pronamespace = 'windsor_private'::regnamespace
            AND p.proname IN (
                'ensure_week', 'begin_pruning', 'copy_kept', 'end_pruning', 'abandon_prunings',
                'prunable', 'has_older_snapshots', 'repeat_in_fresh'
            )
    LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER', entry.function);
        EXECUTE format(
            'ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', entry.function
        );
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', entry.function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', entry.function, worker);
    END LOOP;
END
$$;
