-- The roles of a Windsor database, each with what it needs and nothing else:
--
--   windsor_migrator   owns the schema: `windsor migrate`, and the commands that rewrite history
--                      (`windsor verify --repair` and the like); no process has it for long
--   windsor_worker     `windsor consume`, `windsor status`, `windsor dead-letters`
--   windsor_dashboard  reads views; writes tokens, hidden names, and the marks of dead letters
--   windsor_reader     reads the public views: analysts, other programs
--
-- Once, by an administrator (a superuser, or who may create roles and owns the database), before
-- the first `windsor migrate` or after any; again does no harm:
--
--   MIGRATOR_PASSWORD=... WORKER_PASSWORD=... DASHBOARD_PASSWORD=... READER_PASSWORD=... \
--     psql -X -v ON_ERROR_STOP=1 -f deploy/roles.sql "postgresql://admin@db/windsor"
--
-- Then `windsor migrate` as windsor_migrator: each run grants the others their rights on what
-- there is then (schemas/grants.sql). A role whose password is not given keeps the one it has, or
-- has none: for certificates, and for authentication outside of Postgres.
--
-- Roles belong to the server, rights to the database: several Windsors on one server share the
-- names, and a role reaches those databases in which this file was run.

\getenv migrator_password MIGRATOR_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv dashboard_password DASHBOARD_PASSWORD
\getenv reader_password READER_PASSWORD

BEGIN;

SELECT format('CREATE ROLE %I', wanted.name)
FROM unnest(
    ARRAY['windsor_migrator', 'windsor_worker', 'windsor_dashboard', 'windsor_reader']
) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = wanted.name)
\gexec

ALTER ROLE windsor_migrator LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
ALTER ROLE windsor_worker LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
ALTER ROLE windsor_dashboard LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
ALTER ROLE windsor_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;

\if :{?migrator_password}
ALTER ROLE windsor_migrator PASSWORD :'migrator_password';
\endif
\if :{?worker_password}
ALTER ROLE windsor_worker PASSWORD :'worker_password';
\endif
\if :{?dashboard_password}
ALTER ROLE windsor_dashboard PASSWORD :'dashboard_password';
\endif
\if :{?reader_password}
ALTER ROLE windsor_reader PASSWORD :'reader_password';
\endif

-- By default everybody may connect to every database, and make temporary tables there.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME"
TO windsor_migrator, windsor_worker, windsor_dashboard, windsor_reader;
-- For its schemas, and for what `windsor verify` compares.
GRANT CREATE, TEMPORARY ON DATABASE :"DBNAME" TO windsor_migrator;

-- A reader that asks for too much must not hold up the workers for hours.
ALTER ROLE windsor_reader IN DATABASE :"DBNAME" SET statement_timeout = '5min';
ALTER ROLE windsor_reader IN DATABASE :"DBNAME" SET idle_in_transaction_session_timeout = '1min';
ALTER ROLE windsor_reader IN DATABASE :"DBNAME" SET default_transaction_read_only = on;

COMMIT;

-- Before a week is pruned, whoever still looks at the database as it was is waited for, whatever
-- their role. Some services do not let an administrator grant this: then only Windsor's own
-- sessions are waited for.
DO $$
BEGIN
    GRANT pg_read_all_stats TO windsor_migrator;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'pg_read_all_stats cannot be granted: %', SQLERRM;
END
$$;
