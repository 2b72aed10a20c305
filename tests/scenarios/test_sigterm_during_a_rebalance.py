"""A worker is told to stop while its group waits for a slow member: it does not wait for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from tests.processes import SMALL_BATCHES, committed_offsets, consuming, stored_calls
from tests.scenarios.test_sigterm_drains_under_load import CALLS, PARTITIONS, track
from tests.worker import produce, until_consumed

# Longer than a worker may take to leave, shorter than the group waits for a member (60 s).
SLOW_SECONDS = 40.0


class SlowMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """Takes its time to give up its partitions, and with that holds up the whole group."""

    def __init__(self) -> None:
        self.assigned = asyncio.Event()
        self.asked = asyncio.Event()
        self.released = asyncio.Event()

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        if revoked:
            self.asked.set()
            await asyncio.wait_for(self.released.wait(), SLOW_SECONDS)

    async def on_partitions_assigned(self, assigned: set[Any]) -> None:
        if assigned:
            self.assigned.set()


@asynccontextmanager
async def slow_member(kafka: str, topic: str) -> AsyncIterator[SlowMember]:
    member = SlowMember()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka,
        group_id="windsor",
        enable_auto_commit=False,
        partition_assignment_strategy=[RoundRobinPartitionAssignor],
        rebalance_timeout_ms=60_000,
    )
    await consumer.start()
    consumer.subscribe([topic], listener=member)
    try:
        async with asyncio.timeout(30):
            await member.assigned.wait()
        yield member
    finally:
        member.released.set()
        await consumer.stop()


async def test_worker_leaves_in_time_and_the_others_do_the_rest(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(PARTITIONS)
    connection = await asyncpg.connect(database)
    try:
        async with consuming(kafka_server, name, database, **SMALL_BATCHES) as first:
            await produce(kafka_server, name, map(track, range(CALLS // 2)), PARTITIONS)
            await until_consumed(kafka_server, name, PARTITIONS)
            async with (
                slow_member(kafka_server, name) as slow,
                consuming(kafka_server, name, database, **SMALL_BATCHES) as second,
            ):
                async with asyncio.timeout(30):
                    await slow.asked.wait()
                await produce(kafka_server, name, map(track, range(CALLS // 2, CALLS)), PARTITIONS)
                # By its next heartbeat the first one knows, and joins anew.
                await asyncio.sleep(4)
                started = time.monotonic()
                assert await first.stop() == 0
                seconds = time.monotonic() - started
                assert not slow.released.is_set(), "the rebalance ended: nothing is proven"
                stored = await stored_calls(connection, PARTITIONS)
                committed = await committed_offsets(kafka_server, name, PARTITIONS)
                assert CALLS // 2 <= sum(stored.values()) < CALLS
                # What it took before the rebalance is stored and committed; the rest waits.
                assert all(committed[n] <= stored[n] for n in range(PARTITIONS))
                slow.released.set()
                assert await second.stop() == 0
        assert seconds < 20

        async with consuming(kafka_server, name, database, **SMALL_BATCHES) as third:
            await until_consumed(kafka_server, name, PARTITIONS)
            assert await third.stop() == 0
        assert await stored_calls(connection, PARTITIONS) == dict.fromkeys(
            range(PARTITIONS), CALLS // 3
        )
    finally:
        await connection.close()
