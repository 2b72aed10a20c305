"""`windsor status`: what an operator asks first."""

from collections.abc import Mapping
from typing import Any

import asyncpg

from consumer.schema import check_schema

_QUESTIONS = {
    "schema version": "SELECT max(version)::text FROM windsor_private.migrations",
    "users": "SELECT count(*)::text FROM windsor_private.users",
    "calls (estimate)": (
        "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint::text"
        " FROM pg_inherits AS i INNER JOIN pg_class AS c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'windsor_private.calls'::regclass"
    ),
    "newest call received": "SELECT max(received_at)::text FROM windsor_private.calls",
    "dead letters": (
        "SELECT count(*)::text FROM windsor_private.dead_letters"
        " WHERE replayed_at IS NULL AND discarded_at IS NULL"
    ),
}


async def database_status(dsn: str) -> Mapping[str, Any]:
    """Ask the database for its schema, sizes, freshness and dead letters.

    Raises:
        SchemaError: It has another version's schema, or none.
        TransientSinkError: It cannot be reached.
    """
    await check_schema(dsn)
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        return {name: await connection.fetchval(sql) for name, sql in _QUESTIONS.items()}
    finally:
        await connection.close(timeout=5)
