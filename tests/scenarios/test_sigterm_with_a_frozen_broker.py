"""A worker is told to stop while its broker answers nothing: it leaves, and nothing is lost."""

import asyncio
import json
from pathlib import Path

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from demo.servers import embedded_kafka
from tests.processes import SMALL_BATCHES, committed_offsets, consuming, frozen, stored_calls
from tests.scenarios.test_sigterm_drains_under_load import PARTITIONS
from tests.worker import PRODUCED_MS, produce, until_consumed

TOPIC = "calls"
CALLS = 6_000


def track(number: int) -> bytes:
    """A call of some size: a partition's do not fit into what the client fetches ahead."""
    call = {
        "type": "track",
        "userId": f"u{number % 500}",
        "event": "Feature Used",
        "messageId": f"m{number}",
        "timestamp": PRODUCED_MS - number,
        "properties": {"number": number, "padding": "x" * 4_000},
    }
    return json.dumps(call).encode()


async def test_worker_leaves_in_time_and_the_next_one_does_the_rest(
    server_folder: Path, database: str
) -> None:
    # A broker of its own: the others' tests go on.
    with embedded_kafka(server_folder / "kafka-to-freeze") as broker:
        kafka = broker.bootstrap_servers
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
        await admin.close()
        await produce(kafka, TOPIC, map(track, range(CALLS)), PARTITIONS)
        connection = await asyncpg.connect(database)
        try:
            async with consuming(kafka, TOPIC, database, **SMALL_BATCHES) as first:
                async with asyncio.timeout(60):
                    while sum((await stored_calls(connection, PARTITIONS)).values()) < 500:  # noqa: ASYNC110 - the other process tells nobody
                        await asyncio.sleep(0.01)
                with frozen(broker.pid):
                    # What was fetched is written; then it has nothing but a silent broker.
                    await asyncio.sleep(2)
                    assert await first.stop() == 0
            stored = await stored_calls(connection, PARTITIONS)
            committed = await committed_offsets(kafka, TOPIC, PARTITIONS)
            assert sum(stored.values()) < CALLS, "the broker froze too late to prove anything"
            assert all(committed[number] <= stored[number] for number in range(PARTITIONS))

            async with consuming(kafka, TOPIC, database, **SMALL_BATCHES) as second:
                await until_consumed(kafka, TOPIC, PARTITIONS)
                assert await second.stop() == 0
            assert await stored_calls(connection, PARTITIONS) == dict.fromkeys(
                range(PARTITIONS), CALLS // 3
            )
        finally:
            await connection.close()
