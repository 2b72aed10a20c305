"""The role of the pages may read the views, and write what people change; nothing else."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from dashboard.database import SESSION, take_role


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    found = await asyncpg.connect(database, server_settings=SESSION)
    await take_role(found)
    yield found
    await found.close()


Connection = asyncpg.Connection  # a fixture's type, for its tests


async def test_role_is_taken(connection: Connection) -> None:
    assert await connection.fetchval("SELECT current_user") == "windsor_dashboard"


async def test_every_view_can_be_read(connection: Connection) -> None:
    views = await connection.fetch(
        "SELECT format('%I.%I', schemaname, viewname) AS name FROM pg_views"
        " WHERE schemaname IN ('windsor', 'windsor_dashboard')"
    )
    assert len(views) > 15
    for view in views:
        await connection.fetch(f"SELECT * FROM {view['name']} LIMIT 1")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM windsor_private.calls",
        "SELECT * FROM windsor_private.users",
        "SELECT * FROM windsor_private.identities",
        "DELETE FROM windsor_private.calls",
        "INSERT INTO windsor_private.groups (group_id) VALUES ('g')",
        "UPDATE windsor_private.dead_letters SET value = ''",
        "DELETE FROM windsor_private.dead_letters",
        "DELETE FROM windsor_private.sources",
        "UPDATE windsor_private.sources SET token_hash = ''",
        "DELETE FROM windsor.groups",
        "CREATE TABLE windsor_private.mine (x integer)",
        "CREATE TABLE windsor_dashboard.mine (x integer)",
    ],
)
async def test_nothing_else_can_be_done(statement: str, connection: Connection) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
