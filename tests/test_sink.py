"""The sink before a network that has gone: what waits for an answer waits no longer than it may."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from consumer.core.call import CallType
from consumer.errors import SchemaError, TransientSinkError
from consumer.ports import Batch
from consumer.postgres import PostgresOptions, PostgresSink, open_sink
from tests.core.calls import call
from tests.proxy import Address, Fault, Proxy, proxying

STATEMENT_SECONDS = 3.0


@asynccontextmanager
async def sink_by_proxy(dsn: str) -> AsyncIterator[tuple[PostgresSink, Proxy]]:
    """A sink whose connections go by a proxy."""
    parts = urlsplit(dsn)
    folder = parse_qs(parts.query).get("host", [""])[0]
    address = Address(path=Path(folder) / ".s.PGSQL.5432") if folder else Address(parts.port)
    async with proxying(address) as proxy:
        by_proxy = f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}"
        if parts.password:
            by_proxy = by_proxy.replace("@", f":{parts.password}@", 1)
        options = PostgresOptions(by_proxy, statement_timeout_seconds=STATEMENT_SECONDS)
        async with open_sink(options) as sink:
            yield sink, proxy


def batch(*numbers: int) -> Batch:
    return Batch([call("track", n, user_id=f"u{n}") for n in numbers], [])


async def test_statement_that_is_not_answered_is_given_up_once(database: str) -> None:
    async with sink_by_proxy(database) as (sink, proxy):
        await sink.write(batch(1))
        proxy.fail(Fault.BLACK_HOLE)
        started = time.monotonic()
        with pytest.raises(TransientSinkError):
            await sink.write(batch(2))
        # Neither for the cancelling nor for the ROLLBACK as long again.
        assert time.monotonic() - started < 2 * STATEMENT_SECONDS
        proxy.mend()
        assert (await sink.write(batch(1, 2))).calls_new == 1


async def test_transaction_that_is_cancelled_ends_at_once(database: str) -> None:
    async with sink_by_proxy(database) as (sink, proxy):
        await sink.write(batch(1))
        proxy.fail(Fault.BLACK_HOLE)
        writing = asyncio.create_task(sink.write(batch(2)))
        await asyncio.sleep(STATEMENT_SECONDS / 10)
        started = time.monotonic()
        writing.cancel()
        with pytest.raises((asyncio.CancelledError, TransientSinkError)):
            await writing
        assert time.monotonic() - started < STATEMENT_SECONDS / 2
        proxy.mend()
        assert (await sink.write(batch(2))).calls_new == 1


async def test_server_gives_up_a_statement_whose_worker_has_hung_up(database: str) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'windsor' AND wait_event_type = 'Lock'"
    )
    holder, looker = await asyncpg.connect(database), await asyncpg.connect(database)
    try:
        async with sink_by_proxy(database) as (sink, _), holder.transaction():
            await sink.write(batch(1))
            await holder.execute("LOCK TABLE windsor_private.calls IN SHARE MODE")
            for _ in range(2):
                with pytest.raises(TransientSinkError):
                    await sink.write(batch(2))
            # Else each retry would leave one more that waits, and keeps what it has locked.
            async with asyncio.timeout(10):
                while await looker.fetchval(waiting):  # noqa: ASYNC110 - a server's state
                    await asyncio.sleep(0.1)
    finally:
        await holder.close()
        await looker.close()


async def test_time_is_the_servers(database: str) -> None:
    async with open_sink(PostgresOptions(database)) as sink:
        assert await sink.now() == pytest.approx(time.time(), abs=5)


async def test_small_batch_takes_few_round_trips(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips: list[str] = []

    def counted(method: str, count: int) -> None:
        original = getattr(asyncpg.Connection, method)

        async def counting(self: Any, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - asyncpg's
            # A statement with arguments is an `_execute` within.
            if method != "execute" or len(arguments) == 1:
                trips.extend([method] * count)
            return await original(self, *arguments, **more)

        monkeypatch.setattr(asyncpg.Connection, method, counting)

    def calls_of(people: range, at: int) -> Batch:
        """A call of each, of all types but alias."""
        types: Sequence[CallType] = ("track", "page", "identify", "group")
        said: dict[str, Any] = {"group_id": "g1", "trait_values": {"plan": b'"pro"'}}
        return Batch(
            [
                call(types[n % 4], at + n, user_id=f"u{n}", anonymous_id=f"v{n}", **said)
                for n in people
            ],
            [],
        )

    async with open_sink(PostgresOptions(database, connections_max=1)) as sink:
        # Statements are prepared, and groups are new, once.
        await sink.write(calls_of(range(50), at=0))
        counted("execute", 1)
        counted("_execute", 1)
        # The server asks for the rows, then takes them.
        counted("copy_to_table", 2)
        # Some are new, some have been there before.
        await sink.write(calls_of(range(20, 70), at=100))

    assert len(trips) <= 15, trips


async def test_migration_that_stores_elsewhere_stops_whoever_does_not_know(database: str) -> None:
    async with open_sink(PostgresOptions(database)) as sink:
        await sink.write(batch(1))
        connection = await asyncpg.connect(database)
        try:
            # As such a migration does: what each batch begins with has another name from then on.
            await connection.execute(
                "ALTER FUNCTION windsor_private.enter_batches() RENAME TO enter_batches_anew"
            )
            with pytest.raises(SchemaError, match="run the newer windsor"):
                await sink.write(batch(2))
            assert await connection.fetchval("SELECT count(*) FROM windsor_private.calls") == 1
        finally:
            await connection.close()
