"""The endpoint's producer on a real Kafka: what it is told when Kafka does not take a batch."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import RecordRefusedError, SourceError
from consumer.kafka import KafkaOptions
from consumer.kafka import publisher as publisher_module
from consumer.kafka.publisher import Publisher, partition_hash
from consumer.ports import Outgoing
from demo.servers import embedded_kafka, free_port
from tests.dashboard.endpoint import records_of
from tests.processes import frozen

MakeTopic = Callable[[int], Awaitable[str]]
NOW_MS = 1_793_750_400_000


class Seen:
    """What the publisher reports."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.failures: list[str] = []

    def batch_produced(self, records: int, seconds: float) -> None:
        assert seconds > 0
        self.batches.append(records)

    def produce_failed(self, reason: str) -> None:
        self.failures.append(reason)


@asynccontextmanager
async def publishing(
    kafka: str, topic: str, timeout_seconds: float = 10.0
) -> AsyncIterator[tuple[Publisher, Seen]]:
    """A publisher that is connected, or tries to."""
    seen = Seen()
    options = KafkaOptions(bootstrap_servers=kafka, topics=topic, request_timeout_seconds=2.0)
    publisher = Publisher(options, topic, seen, timeout_seconds)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher, seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)


async def until_ready(publisher: Publisher, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while publisher.ready_reason() is not None:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)


async def make_topic(kafka: str, name: str, partitions: int, **configs: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([
            NewTopic(name, partitions, 1, topic_configs={
                key.replace("_", "."): value for key, value in configs.items()
            })
        ])  # fmt: skip
    finally:
        await admin.close()


async def delete_topic(kafka: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_topics([name])
    finally:
        await admin.close()


@given(st.binary(max_size=80))
def test_keys_are_hashed_as_javas_producer_does(key: bytes) -> None:
    assert partition_hash(key) == murmur2(key) & 0x7FFFFFFF


async def test_what_comes_in_while_a_batch_is_written_makes_the_next(
    kafka_server: str, topic: MakeTopic
) -> None:
    name = await topic(1)
    async with publishing(kafka_server, name) as (publisher, seen):
        await until_ready(publisher)
        await asyncio.gather(*[
            publisher.publish([Outgoing(b"k", b"%d" % number)], NOW_MS) for number in range(500)
        ])  # fmt: skip
    records = await records_of(kafka_server, name)

    assert [int(record.value) for record in records] == list(range(500))
    assert sum(seen.batches) == 500
    assert len(seen.batches) < 20


async def test_a_record_too_large_for_its_topic_is_refused_alone(kafka_server: str) -> None:
    name = f"small-{os.getpid()}"
    await make_topic(kafka_server, name, 1, max_message_bytes="20000")
    small = [Outgoing(b"k", b"x" * 1_000) for _ in range(100)]
    async with publishing(kafka_server, name) as (publisher, seen):
        await until_ready(publisher)
        # Together they are too large too, and are halved until they fit.
        await asyncio.gather(*[publisher.publish([record], NOW_MS) for record in small])
        with pytest.raises(RecordRefusedError, match="takes no record of this size"):
            await publisher.publish([Outgoing(b"k", b"x" * 30_000)], NOW_MS)
        await publisher.publish([Outgoing(b"k", b"after")], NOW_MS)
    records = await records_of(kafka_server, name)

    assert [record.value for record in records] == [*[b"x" * 1_000] * 100, b"after"]
    assert set(seen.failures) == {"MessageSizeTooLargeError"}


async def test_records_without_a_key_go_to_all_partitions_those_added_too(
    kafka_server: str, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "_METADATA_SECONDS", 1.0)
    name = await topic(1)
    async with publishing(kafka_server, name) as (publisher, _):
        await until_ready(publisher)
        await publisher.publish([Outgoing(None, b"first")], NOW_MS)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_server)
        await admin.start()
        await admin.create_partitions({name: NewPartitions(3)})
        await admin.close()
        async with asyncio.timeout(30):
            while len({record.partition for record in await records_of(kafka_server, name)}) < 3:
                await publisher.publish([Outgoing(None, b"more")], NOW_MS)


async def test_a_topic_made_again_with_fewer_partitions_gets_all_keys(
    kafka_server: str, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "_METADATA_SECONDS", 1.0)
    name = await topic(3)
    records = [Outgoing(b"k%d" % number, b"v") for number in range(20)]
    async with publishing(kafka_server, name, timeout_seconds=60.0) as (publisher, _):
        await until_ready(publisher)
        await publisher.publish(records, NOW_MS)
        await delete_topic(kafka_server, name)
        waiting = asyncio.create_task(publisher.publish(records, NOW_MS))
        await make_topic(kafka_server, name, 1)
        # Told long before their time is over.
        async with asyncio.timeout(20):
            with pytest.raises(SourceError, match=r"opened anew|fewer partitions"):
                await waiting
            while True:
                with suppress(SourceError):
                    await publisher.publish(records, NOW_MS)
                    break
    found = await records_of(kafka_server, name)

    assert {record.partition for record in found} == {0}
    assert {record.key for record in found} == {record.key for record in records}


async def test_without_a_broker_nothing_is_taken_and_it_is_told(topic: MakeTopic) -> None:
    async with publishing("127.0.0.1:1", await topic(1)) as (publisher, seen):
        with pytest.raises(SourceError, match="waiting for Kafka"):
            await publisher.publish([Outgoing(None, b"1")], NOW_MS)
        async with asyncio.timeout(20):
            while not seen.failures:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
        assert publisher.ready_reason() == "Kafka cannot be used now: KafkaConnectionError"


async def test_a_broker_that_freezes_is_told_in_time_and_used_when_it_is_back(
    server_folder: Path,
) -> None:
    with embedded_kafka(server_folder / "kafka-of-publisher") as broker:
        kafka = broker.bootstrap_servers
        await make_topic(kafka, "calls", 1)
        async with publishing(kafka, "calls", timeout_seconds=3.0) as (publisher, _):
            await until_ready(publisher)
            await publisher.publish([Outgoing(b"k", b"before")], NOW_MS)
            with frozen(broker.pid):
                with pytest.raises(SourceError, match="did not answer in time"):
                    await publisher.publish([Outgoing(b"k", b"during")], NOW_MS)
                await asyncio.sleep(0.5)
                # Who comes now is told at once, and what was given up is not sent later.
                began = asyncio.get_running_loop().time()
                with pytest.raises(SourceError, match="Kafka does not answer"):
                    await publisher.publish([Outgoing(b"k", b"refused")], NOW_MS)
                assert asyncio.get_running_loop().time() - began < 1
                assert publisher.ready_reason() == "Kafka does not answer for 1 partitions"
            await until_ready(publisher)
            await publisher.publish([Outgoing(b"k", b"after")], NOW_MS)
        values = [record.value for record in await records_of(kafka, "calls")]
    # It was with the broker already: its sender was told to send it again, which is harmless.
    assert values == [b"before", b"during", b"after"]


async def test_a_broker_that_restarts_is_used_again(server_folder: Path) -> None:
    port = free_port()
    folder = server_folder / "kafka-that-restarts"
    with embedded_kafka(folder, port) as broker:
        await make_topic(broker.bootstrap_servers, "calls", 1)
        async with publishing(broker.bootstrap_servers, "calls", 2.0) as (publisher, _):
            await until_ready(publisher)
            await publisher.publish([Outgoing(b"k", b"1")], NOW_MS)
            os.kill(broker.pid, 9)
            with pytest.raises(SourceError):
                await publisher.publish([Outgoing(b"k", b"2")], NOW_MS)
            with embedded_kafka(folder, port) as again:
                await until_ready(publisher, 60)
                await publisher.publish([Outgoing(b"k", b"3")], NOW_MS)
                values = [r.value for r in await records_of(again.bootstrap_servers, "calls")]
    assert values in ([b"1", b"3"], [b"1", b"2", b"3"])
