"""Waiting for a connection has an end, and whoever reads slowly keeps none."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from starlette.datastructures import QueryParams

from consumer.sql import load_queries
from dashboard import app, people_found
from dashboard import database as asked
from dashboard.database import SESSION, Views
from dashboard.people_found import People, user_filters_of
from tests.dashboard.looking import looking, store_calls


@pytest_asyncio.fixture
async def views(database: str) -> AsyncIterator[Views]:
    """Pages that have one connection between them."""
    async with asyncpg.create_pool(
        database, min_size=0, max_size=1, server_settings=SESSION
    ) as pool:
        yield Views(pool)
        pool.terminate()


async def test_export_keeps_no_connection_while_its_reader_is_slow(
    database: str, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_found, "_EXPORTED_AT_ONCE", 2)
    await store_calls(
        database,
        [{"type": "identify", "userId": f"u{n}", "messageId": f"m{n}"} for n in range(5)],
    )
    found = []

    async for user in People(views).export(user_filters_of(QueryParams())):
        # Where the only connection were in use, this would wait.
        await asyncio.wait_for(views.rows("SELECT 1"), 10)
        found.append(user["user_id"])

    # All, each once, over three pages.
    assert sorted(found) == [f"u{n}" for n in range(5)]


async def test_export_walks_along_an_index_and_sorts_nothing(views: Views) -> None:
    query = load_queries("people.sql", "dashboard.sql")["users_export"]

    async with views.connection() as connection:
        await connection.execute(
            f"PREPARE export (text, text, text, text, boolean, bigint[], bigint, bigint) AS {query}"
        )
    rows = await views.next_rows(
        "EXPLAIN EXECUTE export (NULL, NULL, NULL, NULL, false, NULL, 0, 1000)"
    )

    plan = [row["QUERY PLAN"] for row in rows]
    assert any("Index Scan using users_pkey" in line for line in plan)
    assert not any("Sort" in line or "Gather" in line for line in plan)


async def test_page_that_gets_no_connection_says_so(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_CONNECTIONS_MAX", 1)
    monkeypatch.setattr(asked, "_ACQUIRE_SECONDS_MAX", 0.3)
    async with looking(database) as looker:
        csrf = await looker.csrf_token()
        other = await asyncpg.connect(database)
        try:
            async with other.transaction():
                await other.execute("LOCK TABLE windsor_private.sources IN ACCESS EXCLUSIVE MODE")
                holding = asyncio.create_task(looker.get("/sources"))
                await asyncio.sleep(1)

                page = await asyncio.wait_for(looker.get("/users"), 10)
                made = await asyncio.wait_for(
                    looker.client.post("/sources/generate", data={"name": "a", "csrf": csrf}), 10
                )
            answered = await holding
        finally:
            await other.close()

    assert (page.status_code, made.status_code, answered.status_code) == (503, 503, 200)
    assert "The database does not answer" in page.text
