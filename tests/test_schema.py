"""Migrating next to others: a wait has an end, and says for whom it was."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from consumer import schema
from consumer.errors import SchemaError, TransientSinkError
from consumer.postgres.connection import notice_dead_network
from consumer.schema import migrate
from tests.proxy import Fault, postgres_behind_a_proxy


@asynccontextmanager
async def another_migration(dsn: str) -> AsyncIterator[int]:
    """Hold the lock of migrations; gives the server's process."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT pg_advisory_lock(hashtext('windsor.migrations'))")
        # Of another number, and so of no concern.
        await connection.execute("SELECT pg_advisory_lock(1)")
        yield connection.get_server_pid()
    finally:
        await connection.close()


async def test_migration_that_does_not_end_is_waited_for_a_while_and_named(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_TURN_SECONDS_MAX", 1.0)

    async with another_migration(database) as process:
        with pytest.raises(SchemaError) as refused:
            await asyncio.wait_for(migrate(database), 30)

    assert str(refused.value) == (
        f"another migration has not ended for 1 s (process {process} of Postgres): run `windsor"
        " migrate` again once it has; if nobody runs one, end what it left behind with SELECT"
        f" pg_terminate_backend({process})"
    )


async def test_migration_that_ends_is_followed_by_ours(database: str) -> None:
    async with another_migration(database):
        waiting = asyncio.create_task(migrate(database))
        assert not (await asyncio.wait((waiting,), timeout=1))[0]

    assert await asyncio.wait_for(waiting, 30) == []


async def test_server_that_answers_no_more_is_not_waited_for_without_end(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_SMALL_STATEMENT_SECONDS_MAX", 1.0)
    async with (
        postgres_behind_a_proxy(database) as (proxy, by_proxy),
        another_migration(database),
    ):
        migrating = asyncio.create_task(migrate(by_proxy))
        # In the midst of asking for its turn.
        await asyncio.wait((migrating,), timeout=1)
        proxy.fail(Fault.BLACK_HOLE)

        with pytest.raises(TransientSinkError, match="Postgres cannot be used now"):
            await asyncio.wait_for(migrating, 30)


async def test_network_is_asked_whether_it_is_there_while_a_statement_takes_long(
    database: str,
) -> None:
    async with postgres_behind_a_proxy(database) as (_, by_proxy):
        connection = await asyncpg.connect(by_proxy)
        ours = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # noqa: SLF001 - as the code
        before = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)

        notice_dead_network(connection)

        assert before > 30
        assert {
            option: ours.getsockopt(level, option)
            for level, option in (
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            )
        } == {socket.SO_KEEPALIVE: 1, socket.TCP_KEEPIDLE: 30}
        await connection.close()
