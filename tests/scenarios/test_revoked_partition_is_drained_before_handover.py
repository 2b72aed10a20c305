"""A member joins while another has batches in flight: they are written before it takes over."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from consumer.core.call import Outcome, Record
from consumer.core.decode import Decoder
from consumer.core.policy import BatchLimits
from consumer.kafka import KafkaOptions, KafkaSource
from consumer.metrics import Metrics
from consumer.pipeline import Pipeline, PipelineOptions
from consumer.ports import Batch, Sink, TopicPartition, Written
from consumer.postgres import PostgresOptions, open_sink
from tests.worker import produce, until_consumed

PARTITIONS = 2
CALLS = 2_400
# About 300 calls a second: what is in flight takes far longer than a rebalance.
WRITE_SECONDS = 0.3
OPTIONS = PipelineOptions(
    limits=BatchLimits(calls_max=50),
    lane_calls_max=100,
    poll_records_max=50,
    # Rarely, so that it is the handover that commits.
    commit_interval_seconds=8.0,
)

Place = tuple[int, int]
"""Partition and offset."""


class NotingDecoder(Decoder):
    """Notes each record that was delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.delivered: list[Place] = []

    def decode(self, record: Record, expired_before: int | None = None) -> Sequence[Outcome]:
        self.delivered.append((record.partition, record.offset))
        return super().decode(record, expired_before)


class SlowSink:
    """Takes its time, and notes each record that was written."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.written: list[Place] = []

    async def write(self, batch: Batch) -> Written:
        await asyncio.sleep(WRITE_SECONDS)
        written = await self._sink.write(batch)
        self.written += [(call.record.partition, call.record.offset) for call in batch.calls]
        return written


class Member(Pipeline):
    """A pipeline that notes what was in flight around each revocation."""

    def __init__(self, source: KafkaSource, sink: SlowSink, decoder: NotingDecoder) -> None:
        super().__init__(source, sink, decoder, Metrics(CollectorRegistry()), OPTIONS)
        self.sink = sink
        self.decoder = decoder
        self.in_flight_at_revocation: list[int] = []
        self.in_flight_after_revocation: list[int] = []
        self.taken: frozenset[TopicPartition] = frozenset()
        self.handed_over: dict[TopicPartition, int] = {}

    @property
    def in_flight(self) -> int:
        return len(set(self.decoder.delivered) - set(self.sink.written))

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.taken = partitions
        await super().assigned(partitions)

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self.in_flight_at_revocation.append(self.in_flight)
        await super().revoked(partitions)
        self.in_flight_after_revocation.append(self.in_flight)
        for partition in partitions:
            offsets = [o for p, o in self.decoder.delivered if p == partition.partition]
            self.handed_over[partition] = max(offsets) + 1


@asynccontextmanager
async def member(kafka: str, topic: str, dsn: str) -> AsyncIterator[Member]:
    """A running member of the group; drained and gone afterwards."""
    # Fetches of one producer's batch, so that the partitions take turns.
    options = KafkaOptions(bootstrap_servers=kafka, topics=topic, partition_fetch_bytes_max=4096)
    async with open_sink(PostgresOptions(dsn)) as sink:
        source = KafkaSource(options, Metrics(CollectorRegistry()))
        pipeline = Member(source, SlowSink(sink), NotingDecoder())
        task = asyncio.create_task(pipeline.run())
        try:
            yield pipeline
        finally:
            pipeline.stop()
            await asyncio.wait_for(task, 40)


def track(number: int) -> bytes:
    return json.dumps(
        {"type": "track", "userId": f"u{number % 50}", "event": "E", "messageId": f"m{number}"}
    ).encode()


async def test_no_record_is_delivered_to_both_members(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(PARTITIONS)
    await produce(kafka_server, name, map(track, range(CALLS)), PARTITIONS)
    async with member(kafka_server, name, database) as first:
        async with asyncio.timeout(30):
            while {partition for partition, _ in first.sink.written} != {0, 1}:  # noqa: ASYNC110 - a sink tells nobody
                await asyncio.sleep(0.02)
        # The first revocation is the one of nothing, on joining.
        first.in_flight_at_revocation.clear()
        first.in_flight_after_revocation.clear()
        async with member(kafka_server, name, database) as second:
            async with asyncio.timeout(30):
                while not second.decoder.delivered:  # noqa: ASYNC110 - a decoder tells nobody
                    await asyncio.sleep(0.001)
            assert first.in_flight_at_revocation[0] > 0, "nothing was in flight: nothing is proven"
            assert first.in_flight_after_revocation == [0]
            (taken,) = second.taken
            assert second.decoder.delivered[0] == (taken.partition, first.handed_over[taken])
            await until_consumed(kafka_server, name, PARTITIONS)

    everything = [(n % PARTITIONS, n // PARTITIONS) for n in range(CALLS)]
    delivered = first.decoder.delivered + second.decoder.delivered
    assert sorted(delivered) == sorted(everything)
    assert sorted(first.sink.written + second.sink.written) == sorted(everything)
