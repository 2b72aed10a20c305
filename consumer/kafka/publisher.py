"""The producer of the endpoint: calls to a topic, acknowledged by all in-sync replicas.

Each partition has a queue and at most one batch with the broker: what comes in while a batch
is written makes the next one, so that a busy endpoint writes few large batches and an idle
one waits for nothing. Requests wait until the last of their records is acknowledged.

An idempotent producer is dead for a partition once a batch was refused (the broker waits for
its sequence number for ever), so a refusal opens a new one. A batch refused as too large is
halved until the record is found that is too large by itself.

Source: aiokafka 0.14, `producer/sender.py` and `producer/message_accumulator.py`.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, Final, Protocol, TypeAlias

import aiokafka
import structlog
from aiokafka import errors as kafka_errors

from consumer.errors import RecordRefusedError, SourceError
from consumer.kafka.options import KafkaOptions, security_of
from consumer.ports import Outgoing

log = structlog.get_logger()

# Under the broker's default for a batch (1 MiB) with room for its headers.
_BATCH_BYTES_MAX: Final = 768 * 1024
# aiokafka's own bound must not be in the way: a single record may be larger than a batch.
_REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
_RECORD_OVERHEAD_BYTES: Final = 64
_RETRY_SECONDS: Final = 0.5
_WATCH_SECONDS: Final = 0.25
_GOODBYE_SECONDS_MAX: Final = 5.0
# How soon a partition that was added is used.
_METADATA_SECONDS: Final = 60.0
_KEYS_REMEMBERED_MAX: Final = 65_536

Headers = Sequence[tuple[str, bytes]]


class PublisherObserver(Protocol):
    """Is told what happens, once a batch."""

    def batch_produced(self, records: int, seconds: float) -> None:
        """A batch was acknowledged."""

    def produce_failed(self, reason: str) -> None:
        """A batch was not, or the broker is away; `reason` is the error's class."""


class _Request:
    """The records of one caller, until the last is acknowledged."""

    __slots__ = ("acknowledged", "deadline", "headers", "is_abandoned", "left", "timestamp_ms")

    def __init__(self, left: int, timestamp_ms: int, headers: Headers, deadline: float) -> None:
        self.left = left
        self.timestamp_ms = timestamp_ms
        # The client takes no other sequence.
        self.headers = list(headers)
        self.deadline = deadline
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_abandoned = False

    def succeed(self) -> None:
        self.left -= 1
        if not self.left and not self.acknowledged.done():
            self.acknowledged.set_result(None)

    def fail(self, error: Exception) -> None:
        self.is_abandoned = True
        if not self.acknowledged.done():
            self.acknowledged.set_exception(error)


_Entry: TypeAlias = tuple[Outgoing, _Request]
"""A record that waits in a partition's queue, and whose it is."""


class _Partition:
    """A partition's queue, and since when a batch of it is with the broker."""

    def __init__(self) -> None:
        self.waiting: deque[_Entry] = deque()
        self.filled = asyncio.Event()
        self.sent_at: float | None = None
        self.is_stuck = False
        self.batch_bytes_max = _BATCH_BYTES_MAX

    def put(self, entry: _Entry) -> None:
        self.waiting.append(entry)
        self.filled.set()

    def take(self) -> list[_Entry]:
        """What makes the next batch, within its bound; those who gave up are left out."""
        taken: list[_Entry] = []
        size = 0
        while self.waiting:
            record, request = entry = self.waiting[0]
            size += len(record.value) + _RECORD_OVERHEAD_BYTES
            if taken and size > self.batch_bytes_max:
                break
            self.waiting.popleft()
            if not request.is_abandoned:
                taken.append(entry)
        return taken


class _ReopenError(Exception):
    """The producer is of no use any more; the next one may be."""


class Publisher:
    """Writes records to one topic; `run` keeps it connected."""

    def __init__(
        self,
        options: KafkaOptions,
        topic: str,
        observer: PublisherObserver,
        produce_timeout_seconds: float,
    ) -> None:
        self._options = options
        self._topic = topic
        self._observer = observer
        self._timeout_seconds = produce_timeout_seconds
        self._partitions: list[_Partition] = []
        self._requests: deque[_Request] = deque()
        self._next = 0
        self._away: str | None = "waiting for Kafka"

    async def publish(
        self, records: Sequence[Outgoing], timestamp_ms: int, headers: Headers = ()
    ) -> None:
        """Write records; all in-sync replicas have every one of them when this returns.

        Args:
            records: At least one.
            timestamp_ms: Of all of them, milliseconds since the epoch.
            headers: Likewise.

        Raises:
            SourceError: Kafka did not take them in time; some may be there all the same.
            RecordRefusedError: One is too large for the topic, or refused for what it is.
        """
        if self._away is not None:
            raise SourceError(self._away)
        count = len(self._partitions)
        self._next = (self._next + 1) % count
        chosen = [
            self._next if record.key is None else partition_hash(record.key) % count
            for record in records
        ]
        if any(self._partitions[number].is_stuck for number in chosen):
            raise SourceError("Kafka does not answer")
        deadline = time.monotonic() + self._timeout_seconds
        request = _Request(len(records), timestamp_ms, headers, deadline)
        self._requests.append(request)
        for record, number in zip(records, chosen, strict=True):
            self._partitions[number].put((record, request))
        try:
            await request.acknowledged
        finally:
            request.is_abandoned = True

    def ready_reason(self) -> str | None:
        """Why nothing can be written now, None while all is well."""
        if self._away is not None:
            return self._away
        stuck = sum(partition.is_stuck for partition in self._partitions)
        return f"Kafka does not answer for {stuck} partitions" if stuck else None

    async def run(self) -> None:
        """Keep connected, for ever; leaves once cancelled."""
        while True:
            wait = 0.0
            try:
                async with self._producer() as producer:
                    await self._connected(producer)
            except* _ReopenError:
                # Nothing to wait for: the broker is there.
                log.info("kafka.opened_anew")
            except* (kafka_errors.KafkaError, OSError, TimeoutError) as group:
                error = group.exceptions[0]
                self._leave(f"Kafka cannot be used now: {type(error).__name__}")
                self._observer.produce_failed(type(error).__name__)
                log.warning("kafka.unreachable", error=str(error) or type(error).__name__)
                wait = _RETRY_SECONDS
            await asyncio.sleep(wait)

    async def _connected(self, producer: Any) -> None:  # noqa: ANN401 - aiokafka has no types
        """Drain the queues of all partitions as long as the producer is good."""
        async with asyncio.timeout(self._options.request_timeout_seconds):
            await producer.partitions_for(self._topic)
        async with asyncio.TaskGroup() as tasks:
            drains: list[asyncio.Task[None]] = []
            while True:
                # From the client's memory, which it refreshes now and then.
                there = len(producer.client.cluster.partitions_for_topic(self._topic) or ())
                if 0 < there < len(self._partitions):
                    self._shrink(there)
                    for drain in drains[there:]:
                        drain.cancel()
                    del drains[there:]
                for number in range(len(drains), there):
                    if number == len(self._partitions):
                        self._partitions.append(_Partition())
                    drains.append(tasks.create_task(self._drain(producer, number)))
                self._away = None
                self._mark_late()
                await asyncio.sleep(_WATCH_SECONDS)

    def _shrink(self, there: int) -> None:
        """The topic was made again, with fewer partitions: nobody serves the others any more."""
        gone, self._partitions = self._partitions[there:], self._partitions[:there]
        for partition in gone:
            _fail(list(partition.waiting), SourceError("the topic has fewer partitions now"))

    def _mark_late(self) -> None:
        """Let those go who have waited too long, and see for which partitions nobody need wait.

        A timer for each request would take as long as handing it over.
        """
        now = time.monotonic()
        for partition in self._partitions:
            sent_at = partition.sent_at
            partition.is_stuck = sent_at is not None and now - sent_at > self._timeout_seconds
        # All have the same time: the first is the first to be late.
        requests = self._requests
        while requests and (requests[0].acknowledged.done() or requests[0].deadline < now):
            request = requests.popleft()
            if not request.acknowledged.done():
                request.fail(SourceError("Kafka did not answer in time"))

    async def _drain(self, producer: Any, number: int) -> None:  # noqa: ANN401 - likewise
        """Write a partition's queue, a batch at a time."""
        partition = self._partitions[number]
        while True:
            await partition.filled.wait()
            if not (entries := partition.take()):
                partition.filled.clear()
                continue
            partition.sent_at = time.monotonic()
            try:
                await self._write(producer, number, entries)
            except kafka_errors.KafkaError as error:
                self._refused(partition, entries, error)
                raise _ReopenError from error
            except asyncio.CancelledError:
                _fail(entries, SourceError("the connection to Kafka was opened anew"))
                raise
            finally:
                partition.sent_at = None

    async def _write(self, producer: Any, number: int, entries: list[_Entry]) -> None:  # noqa: ANN401 - likewise
        begun_at = time.monotonic()
        builder = producer.create_batch()
        for record, request in entries:
            builder.append(
                timestamp=request.timestamp_ms,
                key=record.key,
                value=record.value,
                headers=request.headers,
            )
        builder.close()
        await (await producer.send_batch(builder, self._topic, partition=number))
        self._observer.batch_produced(len(entries), time.monotonic() - begun_at)
        for _, request in entries:
            request.succeed()

    def _refused(
        self, partition: _Partition, entries: list[_Entry], error: kafka_errors.KafkaError
    ) -> None:
        """Say what becomes of a batch that the broker does not take."""
        self._observer.produce_failed(type(error).__name__)
        too_large = isinstance(
            error, kafka_errors.MessageSizeTooLargeError | kafka_errors.RecordListTooLargeError
        )
        if too_large and len(entries) > 1:
            partition.waiting.extendleft(reversed(entries))
            partition.batch_bytes_max = max(1, partition.batch_bytes_max // 2)
            partition.filled.set()
        elif too_large:
            _fail(entries, RecordRefusedError("the topic takes no record of this size"))
        else:
            words = str(error) or type(error).__name__
            log.warning("batch.refused", topic=self._topic, error=words)
            _fail(entries, SourceError(f"Kafka refuses the batch: {type(error).__name__}"))

    def _leave(self, reason: str) -> None:
        """Nothing can be written for now: those who wait are told."""
        self._away = reason
        for partition in self._partitions:
            waiting = list(partition.waiting)
            partition.waiting.clear()
            partition.is_stuck = False
            _fail(waiting, SourceError(reason))

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[Any]:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self._options.bootstrap_servers,
            client_id="windsor-endpoint",
            acks="all",
            enable_idempotence=True,
            metadata_max_age_ms=int(_METADATA_SECONDS * 1000),
            max_batch_size=_REQUEST_BYTES_MAX,
            max_request_size=_REQUEST_BYTES_MAX,
            **security_of(self._options),
        )
        try:
            async with asyncio.timeout(self._options.request_timeout_seconds):
                await producer.start()
            yield producer
        finally:
            try:
                async with asyncio.timeout(_GOODBYE_SECONDS_MAX):
                    await producer.stop()
            except (kafka_errors.KafkaError, TimeoutError) as error:
                log.warning("kafka.left_without_goodbye", error=str(error) or type(error).__name__)
                await _abandoned(producer)


async def _abandoned(producer: Any) -> None:  # noqa: ANN401 - likewise
    """Take from a producer what it still tries to send, which else goes on beside the next one."""
    accumulator = producer._message_accumulator  # noqa: SLF001 - the client has no other way
    for batches in (*accumulator._batches.values(), accumulator._pending_batches):  # noqa: SLF001 - likewise
        for batch in batches:
            batch.future.cancel()
    with suppress(kafka_errors.KafkaError, TimeoutError):
        async with asyncio.timeout(_GOODBYE_SECONDS_MAX):
            await producer.client.close()
            await producer._sender.close()  # noqa: SLF001 - likewise


def _fail(entries: list[_Entry], error: Exception) -> None:
    for _, request in entries:
        request.fail(error)


@lru_cache(maxsize=_KEYS_REMEMBERED_MAX)
def partition_hash(key: bytes) -> int:
    """Hash a key as Java's producer does (murmur2), to be taken modulo the partitions.

    aiokafka's own takes three times as long; people come again and again, hence the memory.

    Source: org.apache.kafka.common.utils.Utils.murmur2.
    """
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(key)
    whole = length & ~3
    found = 0x9747B28C ^ length
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        mixed = word * multiplier & mask
        mixed = (mixed ^ mixed >> 24) * multiplier & mask
        found = found * multiplier & mask ^ mixed
    if rest := key[whole:]:
        found = (found ^ int.from_bytes(rest, "little")) * multiplier & mask
    found = (found ^ found >> 13) * multiplier & mask
    return (found ^ found >> 15) & 0x7FFFFFFF
