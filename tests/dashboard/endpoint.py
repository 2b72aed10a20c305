"""The endpoint with all that it needs: a topic, a token, and a look at what reached the topic."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from dashboard.tokens import Generated, generate
from tests.dashboard.serving import dashboard, settings_for

MakeTopic = Callable[[int], Awaitable[str]]


class Endpoint(NamedTuple):
    """A running endpoint, and a client that has its token."""

    client: httpx.AsyncClient
    url: str
    probes_url: str
    kafka: str
    topic: str
    dsn: str
    token: str
    source_id: str

    async def records(self) -> list[Any]:
        """All records of its topic, by partition and offset."""
        return await records_of(self.kafka, self.topic)

    async def calls(self) -> list[dict[str, Any]]:
        """The calls of its topic."""
        return [json.loads(record.value) for record in await self.records()]

    async def metric(self, line: str) -> float:
        """The value of a metric's line: `windsor_x{a="b"}`."""
        async with httpx.AsyncClient(base_url=self.probes_url) as client:
            shown = (await client.get("/metrics")).text
        found = [text for text in shown.splitlines() if text.startswith(f"{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    async def until_metric(self, line: str, wanted: float) -> None:
        """Wait until a metric's line has this value."""
        found, deadline = await self.metric(line), time.monotonic() + 30
        while found != wanted:
            assert time.monotonic() < deadline, f"{line}: {found}, not {wanted}"
            await asyncio.sleep(0.05)
            found = await self.metric(line)


async def new_token(
    dsn: str, name: str = "web", calls_per_second_max: int | None = None
) -> Generated:
    """Make a source, as the command does."""
    connection = await asyncpg.connect(dsn)
    try:
        return await generate(connection, name, calls_per_second_max)
    finally:
        await connection.close()


@asynccontextmanager
async def endpoint(
    kafka: str, topic: str, dsn: str, *, ready: bool = True, **settings: object
) -> AsyncIterator[Endpoint]:
    """Serve an endpoint of a topic and a database; ready to take calls."""
    source, token = await new_token(dsn)
    async with (
        dashboard(settings_for(kafka, topic, dsn, **settings)) as served,
        httpx.AsyncClient(base_url=served.url, auth=(token, ""), timeout=30) as client,
    ):
        if ready:
            await until_ready(served.probes_url)
        yield Endpoint(
            client, served.url, served.probes_url, kafka, topic, dsn, token, source.source_id
        )


async def until_ready(probes_url: str, wanted: int = 200) -> None:
    """Wait until the probe of readiness answers so."""
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=probes_url) as client:
        while (await client.get("/readyz")).status_code != wanted:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


async def records_of(kafka: str, topic: str) -> list[Any]:
    """Read a topic to its end."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
    await consumer.start()
    found: list[Any] = []
    try:
        partitions = [
            TopicPartition(topic, number) for number in await consumer_partitions(consumer, topic)
        ]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                fetched = await consumer.getmany(partition, timeout_ms=500)
                found += fetched.get(partition, [])
    finally:
        await consumer.stop()
    return found


async def consumer_partitions(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
    """The partitions of a topic."""
    await consumer._client._wait_on_metadata(topic)  # noqa: SLF001 - no other way to ask for one
    return sorted(consumer.partitions_for_topic(topic) or ())
