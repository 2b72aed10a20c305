"""Kafka's edge before a real broker: the pitfalls of the client, one test each."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason, create_conn
from aiokafka.errors import (
    CommitFailedError,
    CorruptRecordException,
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest
from aiokafka.protocol.metadata import MetadataRequest

from consumer.errors import RetentionError, SourceError
from consumer.kafka import KafkaOptions, KafkaSource
from consumer.kafka.connections import join_patiently
from consumer.kafka.options import security_of
from consumer.ports import Chunk, TopicPartition
from demo.servers import free_port

Topics = Callable[[int], Awaitable[str]]


class Noted:
    """Notes what the source tells: the metrics' side and the pipeline's."""

    def __init__(self) -> None:
        self.retried: list[str] = []
        self.rebalances = 0
        self.commits_failed = 0
        self.resets: list[str] = []
        self.overtaken: list[str] = []
        self.ours: frozenset[TopicPartition] = frozenset()

    def fetch_retried(self, reason: str) -> None:
        self.retried.append(reason)

    def rebalanced(self) -> None:
        self.rebalances += 1

    def commit_failed(self) -> None:
        self.commits_failed += 1

    def offset_reset(self, reason: str) -> None:
        self.resets.append(reason)

    def topic_overtaken(self, topic: str) -> None:
        self.overtaken.append(topic)

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.ours |= partitions

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self.ours -= partitions


class Read:
    """A started source, and the offsets that it delivered to a listener that knew of them."""

    def __init__(self, source: KafkaSource, noted: Noted) -> None:
        self.source = source
        self.noted = noted
        self.offsets: dict[int, list[int]] = {}

    async def poll(self, records_max: int = 1_000) -> None:
        for chunk in await self.source.poll(records_max):
            self.take(chunk)

    def take(self, chunk: Chunk) -> None:
        # As the pipeline does: what comes for a partition that is not ours is dropped.
        if chunk.partition in self.noted.ours:
            found = self.offsets.setdefault(chunk.partition.partition, [])
            found += [record.offset for record in chunk.records]

    async def until(self, expected: Mapping[int, list[int]]) -> None:
        """Poll until just this was delivered, in order."""
        deadline = time.monotonic() + 20
        while self.offsets != expected:
            assert time.monotonic() < deadline, (self.offsets, expected)
            await self.poll()

    async def until_assigned(self, partitions: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.noted.ours) != partitions:
            assert time.monotonic() < deadline, self.noted.ours
            await self.poll()


@asynccontextmanager
async def reading(kafka: str, topic: str, **options: Any) -> AsyncIterator[Read]:  # noqa: ANN401 - options of all types
    noted = Noted()
    source = KafkaSource(
        KafkaOptions(**{"bootstrap_servers": kafka, "topics": topic, **options}), noted
    )
    try:
        await source.start(noted)
        yield Read(source, noted)
    finally:
        await source.stop()


async def send(kafka: str, topic: str, counts: Mapping[int, int], codec: str | None = None) -> None:
    """Send so many records to each partition."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, compression_type=codec)
    await producer.start()
    try:
        for partition, count in counts.items():
            for number in range(count):
                await producer.send(topic, b"record %d " % number * 9, partition=partition)
    finally:
        await producer.stop()


async def committed(kafka: str, topic: str, partitions: int) -> dict[int, int | None]:
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, group_id="windsor", enable_auto_commit=False)
    await reader.start()
    try:
        return {
            number: await reader.committed(KafkaPartition(topic, number))
            for number in range(partitions)
        }
    finally:
        await reader.stop()


async def commit_as_group(kafka: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Leave committed offsets behind, as an earlier worker would."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id="windsor", enable_auto_commit=False
    )
    consumer.assign([KafkaPartition(topic, number) for number in offsets])
    await consumer.start()
    try:
        await consumer.commit({KafkaPartition(topic, n): offset for n, offset in offsets.items()})
    finally:
        await consumer.stop()


async def delete_before(kafka: str, topic: str, offset: int) -> None:
    """What retention does, at once."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_records(
            {KafkaPartition(topic, 0): RecordsToDelete(before_offset=offset)}
        )
    finally:
        await admin.close()


def upto(count: int, first: int = 0) -> list[int]:
    return list(range(first, count))


# Where reading begins -------------------------------------------------------------------------


async def test_new_group_begins_at_the_earliest_record(kafka_server: str, topic: Topics) -> None:
    name = await topic(2)
    await send(kafka_server, name, {0: 30, 1: 40})
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(30), 1: upto(40)})
        assert read.noted.rebalances == 1
        assert read.noted.resets == []


async def test_new_group_begins_where_retention_has_left_off(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    await delete_before(kafka_server, name, 12)
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(30, 12)})
        # Nothing of ours was lost.
        assert read.noted.resets == []


async def test_known_group_begins_at_its_committed_offsets(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(2)
    await send(kafka_server, name, {0: 30, 1: 40})
    await commit_as_group(kafka_server, name, {0: 10})
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(30, 10), 1: upto(40)})


async def test_record_polled_while_partitions_are_being_assigned_is_not_lost(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(2)
    await send(kafka_server, name, {0: 30, 1: 40})
    await commit_as_group(kafka_server, name, {0: 0, 1: 0})
    async with reading(kafka_server, name) as read:
        ask = read.source._consumer.committed  # noqa: SLF001 - a slow broker's answer
        asked: list[Any] = []

        async def slow(tp: Any) -> Any:  # noqa: ANN401 - aiokafka's
            answer = await ask(tp)
            # The first is known, and its records arrive, long before the second is.
            if asked:
                await asyncio.sleep(1)
            asked.append(tp)
            return answer

        monkeypatch.setattr(read.source._consumer, "committed", slow)  # noqa: SLF001
        await read.until({0: upto(30), 1: upto(40)})
        assert len(asked) == 2


# When fetching fails --------------------------------------------------------------------------


async def test_failed_fetch_loses_nothing_that_it_had_drained(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(2)
    await send(kafka_server, name, {0: 30, 1: 40})
    async with reading(kafka_server, name) as read:
        fetch = read.source._consumer.getmany  # noqa: SLF001 - the client's own is made to fail
        lost = 0

        async def corrupt_once(**options: Any) -> Any:  # noqa: ANN401 - aiokafka's
            nonlocal lost
            drained = await fetch(**options)
            if drained and not lost:
                # As when the checksum of another partition's batch is wrong.
                lost = sum(map(len, drained.values()))
                raise CorruptRecordException
            return drained

        monkeypatch.setattr(read.source._consumer, "getmany", corrupt_once)  # noqa: SLF001
        await read.until({0: upto(30), 1: upto(40)})
        assert lost > 0
        assert read.noted.retried == ["CorruptRecordException"]


async def test_fetch_that_fails_for_ever_ends_the_worker(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(1)
    monkeypatch.setattr("consumer.kafka.source._FAILURES_MAX", 2)
    async with reading(kafka_server, name) as read:
        await read.until_assigned(1)

        async def corrupt(**_: Any) -> Any:  # noqa: ANN401 - aiokafka's
            raise CorruptRecordException

        monkeypatch.setattr(read.source._consumer, "getmany", corrupt)  # noqa: SLF001
        await read.poll()
        await read.poll()
        with pytest.raises(SourceError, match="look at the broker's log"):
            await read.poll()


async def test_missing_right_to_read_ends_the_worker(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with reading(kafka_server, await topic(1)) as read:

        async def refuse(**_: Any) -> Any:  # noqa: ANN401 - aiokafka's
            raise TopicAuthorizationFailedError("calls")

        monkeypatch.setattr(read.source._consumer, "getmany", refuse)  # noqa: SLF001
        with pytest.raises(SourceError, match="denies us the topic calls: grant Read"):
            await read.poll()


async def test_failed_assignment_ends_the_worker(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(1)
    async with reading(kafka_server, name) as read:

        async def broken(_: Any) -> Any:  # noqa: ANN401 - aiokafka's
            raise LookupError("no such partition")

        monkeypatch.setattr(read.source._consumer, "committed", broken)  # noqa: SLF001
        with pytest.raises(SourceError, match="the assignment of partitions failed"):
            await read.until_assigned(1)


async def test_assignment_waits_for_a_broker_that_is_away(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    async with reading(kafka_server, name) as read:
        ask = read.source._consumer.committed  # noqa: SLF001 - a broker that restarts
        errors = iter([TimeoutError(), NodeNotReadyError()])

        async def away(tp: Any) -> Any:  # noqa: ANN401 - aiokafka's
            for error in errors:
                raise error
            return await ask(tp)

        monkeypatch.setattr(read.source._consumer, "committed", away)  # noqa: SLF001
        await read.until({0: upto(30)})
        assert read.noted.retried == ["TimeoutError", "NodeNotReadyError"]


# When retention overtakes us --------------------------------------------------------------------


async def test_overtaken_worker_stops_unless_told_otherwise(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    await commit_as_group(kafka_server, name, {0: 5})
    await delete_before(kafka_server, name, 12)
    async with reading(kafka_server, name) as read:
        with pytest.raises(RetentionError) as caught:
            await read.until({0: upto(30, 12)})
        assert str(caught.value) == (
            f"the topic's retention has overtaken the worker: records are lost, {name}/0 from 5"
            " to 11: set WINDSOR_KAFKA_OFFSET_OUT_OF_RANGE=earliest to go on with the rest"
        )
        assert read.offsets == {}
        assert (read.noted.resets, read.noted.overtaken) == ([], [name])
    # Restarts do not change that: nothing was committed.
    assert await committed(kafka_server, name, 1) == {0: 5}


async def test_overtaken_worker_goes_on_from_the_earliest_where_allowed(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(2)
    await send(kafka_server, name, {0: 30, 1: 40})
    await commit_as_group(kafka_server, name, {0: 5, 1: 20})
    await delete_before(kafka_server, name, 12)
    async with reading(kafka_server, name, earliest_when_out_of_range=True) as read:
        await read.until({0: upto(30, 12), 1: upto(40, 20)})
        assert (read.noted.resets, read.noted.overtaken) == (["retention"], [])


async def test_offset_beyond_the_end_is_of_a_topic_that_was_made_again(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    await commit_as_group(kafka_server, name, {0: 1_000})
    # Also where retention must stop us: nothing is lost here, and nothing is skipped.
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(30)})
        assert (read.noted.resets, read.noted.overtaken) == (["made_again"], [])
        # The lag is counted from what is committed, though that is less than before.
        await read.source.commit({TopicPartition(name, 0): 30})
        assert read.source.committed_offsets == {TopicPartition(name, 0): 30}


async def test_reset_that_the_broker_does_not_answer_is_tried_again(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    await commit_as_group(kafka_server, name, {0: 1_000})
    async with reading(kafka_server, name, earliest_when_out_of_range=True) as read:
        ask = read.source._consumer.beginning_offsets  # noqa: SLF001 - a broker that is away once
        asked = 0

        async def away_once(partitions: Any) -> Any:  # noqa: ANN401 - aiokafka's
            nonlocal asked
            asked += 1
            if asked == 1:
                raise TimeoutError
            return await ask(partitions)

        monkeypatch.setattr(read.source._consumer, "beginning_offsets", away_once)  # noqa: SLF001
        await read.until({0: upto(30)})
        assert read.noted.retried == ["TimeoutError"]
        assert read.noted.resets == ["made_again"]


# Committing -----------------------------------------------------------------------------------


async def test_only_offsets_given_and_only_of_assigned_partitions_are_committed(
    kafka_server: str, topic: Topics
) -> None:
    name, other = await topic(2), await topic(1)
    await send(kafka_server, name, {0: 30, 1: 40})
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(30), 1: upto(40)})
        await read.source.commit({TopicPartition(name, 0): 7, TopicPartition(other, 0): 3})
        assert await committed(kafka_server, name, 2) == {0: 7, 1: None}
    # Nor does leaving commit what was only delivered.
    assert await committed(kafka_server, name, 2) == {0: 7, 1: None}
    assert await committed(kafka_server, other, 1) == {0: None}
    assert read.noted.commits_failed == 0


async def test_member_that_was_put_out_commits_nothing_though_the_group_is_empty(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 10})
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(10)})
        here = TopicPartition(name, 0)
        assert await read.source.commit({here: 10})
        # As the broker and the client have it after a session that has ended.
        await read.source._say_goodbye()  # noqa: SLF001 - the way of a member that leaves
        read.source._consumer._coordinator.reset_generation()  # noqa: SLF001 - the client's own step
        assert not await read.source.commit({here: 3})
        assert read.noted.commits_failed == 1
        assert await committed(kafka_server, name, 1) == {0: 10}


@pytest.mark.parametrize("error", [CommitFailedError(), TimeoutError()])
async def test_failed_commit_is_counted_and_a_later_one_covers_it(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(30)})
        with monkeypatch.context() as patch:

            async def refuse(_: Any) -> None:  # noqa: ANN401 - aiokafka's
                raise error

            patch.setattr(read.source._consumer, "commit", refuse)  # noqa: SLF001
            await read.source.commit({TopicPartition(name, 0): 7})
        assert read.noted.commits_failed == 1
        assert await committed(kafka_server, name, 1) == {0: None}
        await read.source.commit({TopicPartition(name, 0): 9})
        assert await committed(kafka_server, name, 1) == {0: 9}


async def test_commit_that_is_tried_again_does_not_overtake_a_later_one(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(30)})
        commit = read.source._consumer.commit  # noqa: SLF001 - the client's own way of retrying
        asked: list[int] = []

        async def busy_once(offsets: Mapping[Any, int]) -> None:
            asked.extend(offsets.values())
            if len(asked) == 1:
                await asyncio.sleep(0.3)
            await commit(offsets)

        monkeypatch.setattr(read.source._consumer, "commit", busy_once)  # noqa: SLF001
        place = TopicPartition(name, 0)
        first = asyncio.create_task(read.source.commit({place: 7}))
        await asyncio.sleep(0.05)
        assert await read.source.commit({place: 9})
        assert await first
        assert asked == [7, 9]
        assert await committed(kafka_server, name, 1) == {0: 9}


# Brokers that are away, or frozen -----------------------------------------------------------------


async def test_start_waits_for_an_absent_broker_and_can_be_cancelled() -> None:
    noted = Noted()
    # Nobody listens on port 1.
    source = KafkaSource(KafkaOptions(bootstrap_servers="127.0.0.1:1", topics="calls"), noted)
    starting = asyncio.create_task(source.start(noted))
    async with asyncio.timeout(20):
        while len(noted.retried) < 2:  # noqa: ASYNC110 - the source tells nobody else
            await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await source.stop()
    assert set(noted.retried) == {"bootstrap"}


async def test_broker_that_comes_up_later_is_found(kafka_server: str, topic: Topics) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 30})
    noted = Noted()
    port = free_port()
    source = KafkaSource(KafkaOptions(bootstrap_servers=f"127.0.0.1:{port}", topics=name), noted)
    starting = asyncio.create_task(source.start(noted))
    try:
        async with asyncio.timeout(20):
            while not noted.retried:  # noqa: ASYNC110 - the source tells nobody else
                await asyncio.sleep(0.02)
        away = f"Kafka at 127.0.0.1:{port} cannot be reached: Connection refused"
        assert source.waiting_for == f"{away}: check WINDSOR_KAFKA_*"
        async with forwarding(port, kafka_server):
            await asyncio.wait_for(starting, 20)
        assert source.waiting_for is None
        await Read(source, noted).until({0: upto(30)})
    finally:
        await source.stop()


@asynccontextmanager
async def forwarding(port: int, server: str) -> AsyncIterator[None]:
    """A broker's other address, which is there while inside."""
    host, _, their_port = server.rpartition(":")

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65_536):
            writer.write(some)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(their_port))
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", port):
        yield


@pytest.mark.parametrize("method", ["stop", "commit", "end_offsets"])
async def test_frozen_broker_keeps_us_no_longer_than_the_deadline(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    name = await topic(1)
    async with reading(kafka_server, name, request_timeout_seconds=1.0) as read:
        await read.until_assigned(1)
        with monkeypatch.context() as patch:

            async def hang(*_: Any) -> None:  # noqa: ANN401 - aiokafka's
                await asyncio.sleep(60)

            patch.setattr(read.source._consumer, method, hang)  # noqa: SLF001
            started = time.monotonic()
            if method == "stop":
                await read.source.stop()
            elif method == "commit":
                await read.source.commit({TopicPartition(name, 0): 0})
                assert read.noted.commits_failed == 1
            else:
                assert await read.source.end_offsets() == {}
            assert 0.9 < time.monotonic() - started < 30


# Pausing --------------------------------------------------------------------------------------


async def test_paused_source_stays_a_member_and_delivers_everything_on_resuming(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(2)
    await send(kafka_server, name, {0: 30, 1: 40})
    # Put out of the group after 3 s without a poll, as production is after 300 s.
    async with reading(
        kafka_server, name, max_poll_interval_ms=3_000, session_timeout_ms=6_000
    ) as read:
        await read.until_assigned(2)
        read.source.pause()
        seen = {partition: list(offsets) for partition, offsets in read.offsets.items()}
        await send(kafka_server, name, {0: 10, 1: 10})
        until = time.monotonic() + 5
        polls = 0
        while time.monotonic() < until:
            await read.poll()
            polls += 1
        assert read.offsets == seen
        assert read.noted.rebalances == 1
        assert len(read.noted.ours) == 2
        # A wait in each poll: pausing is no busy loop.
        assert polls < 500
        read.source.resume()
        await read.until({0: upto(40), 1: upto(50)})


async def test_partition_that_comes_while_paused_is_paused(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(2)
    await send(kafka_server, name, {0: 30, 1: 40})
    async with reading(kafka_server, name) as read:
        read.source.pause()
        await read.until_assigned(2)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            await read.poll()
        assert read.offsets == {}
        read.source.resume()
        await read.until({0: upto(30), 1: upto(40)})


# What producers send ------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_is_read(kafka_server: str, topic: Topics, codec: str) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 200}, codec)
    async with reading(kafka_server, name) as read:
        await read.until({0: upto(200)})
        assert read.noted.retried == []


async def test_topics_are_named_by_list_or_by_pattern(kafka_server: str, topic: Topics) -> None:
    one, two = await topic(1), await topic(1)
    for topics in (f"{one}, {two}", f"^({one}|{two})$"):
        async with reading(kafka_server, topics) as read:
            await read.until_assigned(2)
            assert read.noted.ours == {TopicPartition(one, 0), TopicPartition(two, 0)}


async def test_end_offsets_are_the_brokers_own_while_paused(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(2)
    async with reading(kafka_server, name) as read:
        assert await read.source.end_offsets() == {}
        await read.until_assigned(2)
        read.source.pause()
        await send(kafka_server, name, {0: 3, 1: 4})
        assert await read.source.end_offsets() == {
            TopicPartition(name, 0): 3,
            TopicPartition(name, 1): 4,
        }


async def test_request_that_the_client_cancels_is_a_failed_fetch(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic(1)
    await send(kafka_server, name, {0: 5})
    async with reading(kafka_server, name) as read:
        await read.until_assigned(1)
        with monkeypatch.context() as patch:

            async def cancelled(**_: Any) -> None:  # noqa: ANN401 - aiokafka's
                raise asyncio.CancelledError

            patch.setattr(read.source._consumer, "getmany", cancelled)  # noqa: SLF001
            await read.poll()
        assert read.noted.retried == ["KafkaConnectionError"]
        await read.until({0: upto(5)})


@pytest.mark.parametrize("method", ["stop", "commit", "end_offsets"])
async def test_request_that_the_client_cancels_is_no_order_to_end(
    kafka_server: str, topic: Topics, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    name = await topic(1)
    async with reading(kafka_server, name) as read:
        await read.until_assigned(1)
        with monkeypatch.context() as patch:

            async def cancelled(*_: Any) -> None:  # noqa: ANN401 - aiokafka's
                raise asyncio.CancelledError

            patch.setattr(read.source._consumer, method, cancelled)  # noqa: SLF001
            if method == "stop":
                await read.source.stop()
            elif method == "commit":
                assert not await read.source.commit({TopicPartition(name, 0): 0})
            else:
                assert await read.source.end_offsets() == {}


async def test_client_that_fetches_no_more_ends_the_worker(
    kafka_server: str, topic: Topics
) -> None:
    name = await topic(1)
    async with reading(kafka_server, name) as read:
        await read.until_assigned(1)

        async def mistaken() -> None:
            raise RuntimeError("the handler is closed")

        fetcher = read.source._consumer._fetcher  # noqa: SLF001 - no way from outside
        fetcher._fetch_task.cancel()  # noqa: SLF001
        fetcher._fetch_task = asyncio.create_task(mistaken())  # noqa: SLF001
        with pytest.raises(SourceError, match="the handler is closed"):
            await read.until({0: [1]})


async def test_only_who_joins_waits_longer_than_a_request_may() -> None:
    answer = asyncio.Event()
    closed: list[object] = []

    async def send_req(_: Any) -> str:  # noqa: ANN401 - aiokafka's
        await answer.wait()
        return "answered"

    def close(reason: object) -> None:
        closed.append(reason)

    connection = SimpleNamespace(_request_timeout=0.05, close=close)

    async def get_conn(*_: Any, **__: Any) -> Any:  # noqa: ANN401 - aiokafka's
        return connection

    coordinator = SimpleNamespace(
        coordinator_id=1, _send_req=send_req, coordinator_dead=lambda: closed.append("dead")
    )
    client = SimpleNamespace(
        _request_timeout_ms=50,
        _get_conn=get_conn,
        _conns={(1, ConnectionGroup.COORDINATION): connection},
    )
    join_patiently(SimpleNamespace(_client=client, _coordinator=coordinator), 7.0)

    # The client's own timeout, which all requests of a connection share, is the longer one.
    await client._get_conn(1, group=ConnectionGroup.COORDINATION)  # noqa: SLF001 - aiokafka's
    assert connection._request_timeout == 7.0  # noqa: SLF001
    joining = asyncio.create_task(
        coordinator._send_req(JoinGroupRequest("g", 1, 1, "", "", "consumer", []))  # noqa: SLF001
    )
    with pytest.raises(RequestTimedOutError):
        await coordinator._send_req(HeartbeatRequest("g", 1, "m"))  # noqa: SLF001
    assert closed == [CloseReason.CONNECTION_TIMEOUT, "dead"]
    assert not joining.done()
    answer.set()
    assert await joining == "answered"


def test_write_to_a_connection_that_was_just_closed_is_a_lost_connection(
    kafka_server: str,
) -> None:
    host, port = kafka_server.split(",", maxsplit=1)[0].rsplit(":", 1)

    async def write_to_a_closed_one() -> None:
        connection = await create_conn(host, int(port))
        connection._writer.transport.abort()  # noqa: SLF001 - what a broker's end comes to
        await asyncio.sleep(0)
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        assert not connection.connected()

    # The worker's loop: asyncio's own would drop what is written.
    uvloop.run(write_to_a_closed_one())


def test_security_settings_reach_the_client() -> None:
    options = KafkaOptions(bootstrap_servers="b:1", topics="t")
    assert security_of(options) == {"security_protocol": "PLAINTEXT"}
    secured = msgspec.structs.replace(
        options,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="windsor",
        sasl_password="secret",  # noqa: S106 - of nothing
    )
    settings = security_of(secured)
    assert settings.pop("ssl_context").check_hostname is True
    assert settings == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "windsor",
        "sasl_plain_password": "secret",
    }
