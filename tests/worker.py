"""Whole workers in a test: real Kafka, real Postgres, the pipeline between them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from consumer.core.decode import Decoder, DecodeRules
from consumer.kafka import KafkaOptions, KafkaSource
from consumer.metrics import Metrics
from consumer.pipeline import Observer, Pipeline, PipelineOptions
from consumer.postgres import PostgresOptions, open_sink

PRODUCED_MS = 1_793_750_400_000  # 2026-11-04


class Worker:
    """A pipeline between real ends, and its metrics."""

    def __init__(self, pipeline: Pipeline, source: KafkaSource, metrics: Metrics) -> None:
        self.pipeline = pipeline
        self.source = source
        self.metrics = metrics

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def working(
    kafka: str,
    topic: str,
    dsn: str,
    group: str = "windsor",
    *,
    earliest: bool = False,
    lanes: int = 2,
    rules: DecodeRules | None = None,
    observed_by: Callable[[Metrics], Observer] = lambda metrics: metrics,
) -> AsyncIterator[Worker]:
    """Run a worker of a group; drained and gone afterwards."""
    metrics = Metrics(CollectorRegistry())
    options = KafkaOptions(
        bootstrap_servers=kafka, topics=topic, group_id=group, earliest_when_out_of_range=earliest
    )
    async with open_sink(PostgresOptions(dsn)) as sink:
        source = KafkaSource(options, metrics)
        pipeline = Pipeline(
            source, sink, Decoder(rules), observed_by(metrics), PipelineOptions(lanes=lanes)
        )
        task = asyncio.create_task(pipeline.run())
        try:
            yield Worker(pipeline, source, metrics)
        finally:
            pipeline.stop()
            await asyncio.wait_for(task, 40)


async def produce(
    kafka: str, topic: str, values: Iterable[bytes | None], partitions: int = 1
) -> int:
    """Produce records, spread over partitions without regard to whose they are."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, max_request_size=12 * 1024 * 1024)
    await producer.start()
    sent = 0
    try:
        for value in values:
            await producer.send(
                topic, value=value, partition=sent % partitions, key=b"k",
                timestamp_ms=PRODUCED_MS, headers=[("source", b"test")],
            )  # fmt: skip
            sent += 1
    finally:
        await producer.stop()
    return sent


async def until_consumed(
    kafka: str, topic: str, partitions: int = 1, group: str = "windsor"
) -> None:
    """Wait until the group has committed everything that the topic has now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=None)
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await consumer.start()
    await reader.start()
    try:
        tps = [TopicPartition(topic, number) for number in range(partitions)]
        ends = await consumer.end_offsets(tps)
        async with asyncio.timeout(60):
            for tp, end in ends.items():
                while (await reader.committed(tp) or 0) < end:  # noqa: ASYNC110 - the broker tells nobody
                    await asyncio.sleep(0.05)
    finally:
        await consumer.stop()
        await reader.stop()


async def committed_offset(kafka: str, topic: str, group: str = "windsor") -> int:
    """The next offset that the group reads of the first partition."""
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await reader.start()
    try:
        return int(await reader.committed(TopicPartition(topic, 0)) or 0)
    finally:
        await reader.stop()
