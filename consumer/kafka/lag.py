"""How far the group is, by the broker's own word."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import aiokafka
from aiokafka import errors as kafka_errors

from consumer.errors import SourceError
from consumer.kafka.access import check_connection, explained
from consumer.kafka.options import KafkaOptions, security_of, topics_read
from consumer.ports import TopicPartition


class Lag(NamedTuple):
    """How far a group is in one partition."""

    partition: TopicPartition
    committed: int | None
    """The next offset to read; None before the first commit."""
    begin: int
    end: int

    @property
    def records(self) -> int:
        """Records that are not committed yet; at most, where offsets have gaps."""
        return max(0, self.end - (self.begin if self.committed is None else self.committed))


async def lag_of_group(options: KafkaOptions) -> Sequence[Lag]:
    """Ask the broker how far the group is in its topics, as a bystander.

    Returns:
        All partitions, in order.

    Raises:
        SourceError: It cannot be reached, refuses us, or has none of the topics.
    """
    await check_connection(options)
    try:
        consumer = _bystander(options)
        try:
            async with asyncio.timeout(options.request_timeout_seconds):
                await consumer.start()
                # Of topics that it does not read a consumer knows the names, not the partitions.
                metadata = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - see above
                tps = [
                    aiokafka.TopicPartition(name, number)
                    for name in topics_read(options.topics, metadata.topics())
                    for number in sorted(metadata.partitions_for_topic(name) or ())
                ]
                begins = await consumer.beginning_offsets(tps)
                ends = await consumer.end_offsets(tps)
                committed = await asyncio.gather(*map(consumer.committed, tps))
        finally:
            with suppress(kafka_errors.KafkaError, TimeoutError):
                async with asyncio.timeout(options.leave_timeout_seconds):
                    await consumer.stop()
    except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
        raise SourceError(explained(error, options)) from error
    if not tps:
        raise SourceError(f"Kafka has no topic {options.topics}: check WINDSOR_KAFKA_TOPICS")
    return [
        Lag(TopicPartition(*tp), offset, begins[tp], ends[tp])
        for tp, offset in zip(tps, committed, strict=True)
    ]


def _bystander(options: KafkaOptions) -> Any:  # noqa: ANN401 - aiokafka's
    """A consumer with the group's name but no subscription: no member of it."""
    return aiokafka.AIOKafkaConsumer(
        bootstrap_servers=options.bootstrap_servers,
        group_id=options.group_id,
        client_id="windsor-status",
        enable_auto_commit=False,
        isolation_level="read_committed",
        **security_of(options),
    )
