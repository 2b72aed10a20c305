"""The database's schema: migrations, forward only, and the check that it is this version's."""

import asyncio
import time
from importlib import resources
from typing import Final, NamedTuple

import asyncpg

from consumer.errors import SchemaError
from consumer.postgres import Connection, connected

# Workers that meet the lock wait as long, and notice nothing.
_LOCK_WAIT_SECONDS: Final = 2.0
_ATTEMPTS_MAX: Final = 10
# A migration that holds a table for longer than this has to be written otherwise.
_STATEMENT_SECONDS_MAX: Final = 600.0
# For all statements of a file together. Postgres' own bound, above, is for each: this one is for
# a Postgres that answers no more though its network is there, and is no shorter than the Job's.
_MIGRATION_SECONDS_MAX: Final = 3600.0
# For the statements around the migrations, which touch the catalogue and a few rows.
_SMALL_STATEMENT_SECONDS_MAX: Final = 60.0
# Another migration mostly ends in seconds. Five attempts of a Job fit in its hour.
_TURN_SECONDS_MAX: Final = 300.0
_TURN_POLL_SECONDS: Final = 0.5
# For the questions of `check_schema`.
_ANSWER_SECONDS_MAX: Final = 10.0
# Postgres shows the lock's number as two halves.
_HOLDER: Final = (
    "SELECT pid FROM pg_locks WHERE granted AND locktype = 'advisory' AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (classid::bigint << 32 | objid::bigint) = hashtext('windsor.migrations')"
)


class Migration(NamedTuple):
    """One file of `schemas/migrations`."""

    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Read the migrations that this version ships, oldest first."""
    folder = resources.files("schemas") / "migrations"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name
    )
    return [
        Migration(int(file.name.split("_", 1)[0]), file.name.removesuffix(".sql"), file.read_text())
        for file in files
    ]


async def migrate(dsn: str) -> list[str]:
    """Bring the schema to this version's; forward only, one at a time across processes.

    The roles of `deploy/roles.sql` that there are have their rights on it afterwards.

    Returns:
        The names of the migrations applied now.

    Raises:
        SchemaError: The database has migrations that this version does not know, or another
            migration does not end.
        TransientSinkError: Postgres cannot be reached.
    """
    applied: list[str] = []
    async with connected(dsn, statement_seconds=_SMALL_STATEMENT_SECONDS_MAX) as connection:
        await _take_turn(connection)
        await connection.execute(
            "CREATE SCHEMA IF NOT EXISTS windsor_private;"
            "CREATE TABLE IF NOT EXISTS windsor_private.migrations ("
            " version integer PRIMARY KEY, name text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done = await _applied_version(connection)
        _refuse_newer(done)
        for migration in migrations():
            if migration.version > done:
                await _apply(connection, migration)
                applied.append(migration.name)
        # Each time: roles may have come since, and this version may ask for other rights.
        await connection.execute(_grants())
    return applied


async def _take_turn(connection: Connection) -> None:
    """Wait, for a bounded time, until no other migration is under way.

    Asked for again and again: who waits inside Postgres cannot say for whom.

    Raises:
        SchemaError: The other one does not end.
    """
    deadline = time.monotonic() + _TURN_SECONDS_MAX
    while not await connection.fetchval(
        "SELECT pg_try_advisory_lock(hashtext('windsor.migrations'))"
    ):
        if time.monotonic() >= deadline:
            holder = await connection.fetchval(_HOLDER)
            raise SchemaError(
                f"another migration has not ended for {_TURN_SECONDS_MAX:g} s (process {holder} of"
                " Postgres): run `windsor migrate` again once it has; if nobody runs one, end what"
                f" it left behind with SELECT pg_terminate_backend({holder})"
            )
        await asyncio.sleep(_TURN_POLL_SECONDS)


def _grants() -> str:
    return (resources.files("schemas") / "grants.sql").read_text()


async def _apply(connection: Connection, migration: Migration) -> None:
    """Apply a migration in one transaction, in the midst of workers that write.

    While it waits for a table all who come after it wait too: so it waits but briefly, lets
    them pass, and tries again.
    """
    for attempt in range(1, _ATTEMPTS_MAX + 1):
        try:
            async with connection.transaction():
                await connection.execute(
                    f"SET LOCAL lock_timeout = '{_LOCK_WAIT_SECONDS:g}s';"
                    f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS_MAX:g}s'"
                )
                await connection.execute(migration.sql, timeout=_MIGRATION_SECONDS_MAX)
                await connection.execute(
                    "INSERT INTO windsor_private.migrations (version, name) VALUES ($1, $2)",
                    migration.version,
                    migration.name,
                )
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == _ATTEMPTS_MAX:
                raise
            await asyncio.sleep(_LOCK_WAIT_SECONDS * attempt)
        else:
            return


async def check_schema(dsn: str) -> None:
    """Make sure that the database's schema is this version's.

    Raises:
        SchemaError: It is older or newer.
        TransientSinkError: Postgres cannot be reached.
    """
    async with connected(dsn) as connection, asyncio.timeout(_ANSWER_SECONDS_MAX):
        done = await _applied_version(connection)
    _refuse_newer(done)
    newest = migrations()[-1].version
    if done < newest:
        raise SchemaError(
            f"the database's schema is version {done}, this worker needs {newest}:"
            " run `windsor migrate` first"
        )


async def _applied_version(connection: Connection) -> int:
    if await connection.fetchval("SELECT to_regclass('windsor_private.migrations')") is None:
        return 0
    version = await connection.fetchval(
        "SELECT coalesce(max(version), 0) FROM windsor_private.migrations"
    )
    return int(version)


def _refuse_newer(done: int) -> None:
    newest = migrations()[-1].version
    if done > newest:
        raise SchemaError(
            f"the database's schema is version {done}, this worker knows {newest}:"
            " run the newer windsor"
        )
