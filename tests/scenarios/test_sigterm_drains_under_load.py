"""`windsor consume` is told to stop in the middle: nothing is lost, nothing comes twice."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.worker import PRODUCED_MS, produce, until_consumed

PARTITIONS = 3
CALLS = 12_000
# Kubernetes kills after 30 s.
EXIT_SECONDS_MAX = 25


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


@asynccontextmanager
async def consume_process(environment: dict[str, str]) -> AsyncIterator[Process]:
    """`windsor consume`; killed if a test fails before it has left by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer.cli", "consume", env=environment, stderr=DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def exit_code_after_sigterm(process: Process) -> int:
    """Ask it to leave; it has to in time."""
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = await asyncio.wait_for(process.wait(), EXIT_SECONDS_MAX)
    assert time.monotonic() - started < EXIT_SECONDS_MAX
    return code


async def committed_offsets(kafka: str, topic: str) -> dict[int, int]:
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, group_id="windsor", enable_auto_commit=False)
    await reader.start()
    try:
        return {
            number: await reader.committed(TopicPartition(topic, number)) or 0
            for number in range(PARTITIONS)
        }
    finally:
        await reader.stop()


async def stored_calls(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[int, int]:
    """How many calls of each partition are stored."""
    rows = await connection.fetch(
        "SELECT partition, count(*) FROM windsor_private.calls GROUP BY 1"
    )
    counts = dict.fromkeys(range(PARTITIONS), 0)
    for partition, count in rows:
        counts[partition] = count
    return counts


async def test_committed_offsets_are_what_is_stored_and_the_next_worker_does_the_rest(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(PARTITIONS)
    environment = {
        **os.environ,
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": kafka_server,
        "WINDSOR_KAFKA_TOPICS": name,
        "WINDSOR_DATABASE_URL": database,
        "WINDSOR_HTTP_PORT": "0",
        # Small ones, so that the signal comes between many.
        "WINDSOR_BATCH_CALLS_MAX": "100",
        "WINDSOR_LANE_CALLS_MAX": "400",
        "WINDSOR_POLL_RECORDS_MAX": "100",
    }
    connection = await asyncpg.connect(database)
    try:
        async with consume_process(environment) as first:
            producing = asyncio.create_task(
                produce(kafka_server, name, map(track, range(CALLS)), PARTITIONS)
            )
            async with asyncio.timeout(60):
                while sum((await stored_calls(connection)).values()) < 500:  # noqa: ASYNC110 - the other process tells nobody
                    await asyncio.sleep(0.01)
            assert await exit_code_after_sigterm(first) == 0
            await producing

        stored = await stored_calls(connection)
        assert 500 <= sum(stored.values()) < CALLS, "the signal came too late to prove anything"
        # Offsets begin at 0 without gaps: as many committed as stored is none given twice.
        assert await committed_offsets(kafka_server, name) == stored

        async with consume_process(environment) as second:
            await until_consumed(kafka_server, name, PARTITIONS)
            assert await exit_code_after_sigterm(second) == 0
        assert await stored_calls(connection) == dict.fromkeys(range(PARTITIONS), CALLS // 3)
        numbers = await connection.fetchval(
            "SELECT count(DISTINCT properties -> 'number') FROM windsor_private.calls"
        )
        assert numbers == CALLS
    finally:
        await connection.close()
