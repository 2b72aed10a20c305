"""`windsor consume` is told to stop in the middle: nothing is lost, nothing comes twice."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import asyncpg

from tests.processes import SMALL_BATCHES, committed_offsets, consuming, stored_calls
from tests.worker import PRODUCED_MS, produce, until_consumed

PARTITIONS = 3
CALLS = 12_000


def track(number: int) -> bytes:
    return json.dumps(
        {
            "type": "track",
            "userId": f"u{number % 500}",
            "event": "Feature Used",
            "messageId": f"m{number}",
            "timestamp": PRODUCED_MS - number,
            "properties": {"number": number},
        }
    ).encode()


async def test_committed_offsets_are_what_is_stored_and_the_next_worker_does_the_rest(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(PARTITIONS)
    connection = await asyncpg.connect(database)
    try:
        async with consuming(kafka_server, name, database, **SMALL_BATCHES) as first:
            producing = asyncio.create_task(
                produce(kafka_server, name, map(track, range(CALLS)), PARTITIONS)
            )
            async with asyncio.timeout(60):
                while sum((await stored_calls(connection, PARTITIONS)).values()) < 500:  # noqa: ASYNC110 - the other process tells nobody
                    await asyncio.sleep(0.01)
            assert await first.stop() == 0
            await producing

        stored = await stored_calls(connection, PARTITIONS)
        assert 500 <= sum(stored.values()) < CALLS, "the signal came too late to prove anything"
        # Offsets begin at 0 without gaps: as many committed as stored is none given twice.
        assert await committed_offsets(kafka_server, name, PARTITIONS) == stored

        async with consuming(kafka_server, name, database, **SMALL_BATCHES) as second:
            await until_consumed(kafka_server, name, PARTITIONS)
            assert await second.stop() == 0
        assert await stored_calls(connection, PARTITIONS) == dict.fromkeys(
            range(PARTITIONS), CALLS // 3
        )
        numbers = await connection.fetchval(
            "SELECT count(DISTINCT properties -> 'number') FROM windsor_private.calls"
        )
        assert numbers == CALLS
    finally:
        await connection.close()
