"""The producer: dead letters back to the topics that they came from."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiokafka
import structlog
from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient

from consumer.core.call import Record
from consumer.errors import RecordRefusedError, SourceError, WindsorError
from consumer.kafka.access import check_connection, explained
from consumer.kafka.options import KafkaOptions, reads_topic, security_of

log = structlog.get_logger()

# What was on a topic once was within its broker's limit; the client's own must not be in the way.
_SENT_BYTES_MAX: Final = 256 * 1024 * 1024
# Retries are without an end inside an idempotent producer.
_SENDING_SECONDS_MAX: Final = 60.0
# What a broker has against one record, not against us.
_REFUSALS: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTimestampError,
    kafka_errors.PolicyViolationError,
)


class KafkaSender:
    """Sends records once more, to the partitions that they came from.

    Made by `open_sender`.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._producer: Any = None

    async def check_topics(self, topics: Collection[str]) -> None:
        """Make sure that what is sent will be read by the worker of these settings.

        Raises:
            SourceError: A topic is not there, or not among the worker's; or Kafka is away.
        """
        wanted = self._options.topics
        for topic in sorted(topics):
            if not reads_topic(wanted, topic):
                raise SourceError(
                    f"topic {topic} is not among WINDSOR_KAFKA_TOPICS ({wanted}): no worker would"
                    " read the records; set it as the worker has it"
                )
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self._options.bootstrap_servers, **security_of(self._options)
        )
        try:
            async with asyncio.timeout(self._options.request_timeout_seconds):
                await admin.start()
                # Asked for all: to ask for one by name may create it.
                there = set(await admin.list_topics())
        except (kafka_errors.KafkaError, TimeoutError) as error:
            raise SourceError(explained(error, self._options)) from error
        finally:
            # What is known by now counts, also where the broker does not let us go.
            with suppress(kafka_errors.KafkaError, TimeoutError):
                async with asyncio.timeout(self._options.leave_timeout_seconds):
                    await admin.close()
        for topic in sorted(topics):
            if topic not in there:
                raise SourceError(
                    f"topic {topic} is not on this Kafka: check WINDSOR_KAFKA_BOOTSTRAP_SERVERS,"
                    " or create it again"
                )

    async def send(self, records: Sequence[Record]) -> list[WindsorError | None]:
        """Send records with their key, headers and timestamp; all in-sync replicas have them.

        Args:
            records: So few that they fit in memory twice.

        Returns:
            For each record None, or what went wrong: `RecordRefusedError` if it alone is the
            reason, `SourceError` if Kafka is.
        """
        # The client would give the timestamp of another record of its batch to one without.
        together = [n for n, record in enumerate(records) if record.timestamp >= 0]
        errors: list[WindsorError | None] = [None] * len(records)
        for n, error in zip(
            together, await self._send_batch([records[n] for n in together]), strict=True
        ):
            errors[n] = error
        for n, record in enumerate(records):
            # One that is refused takes its whole batch with it: each again, by itself.
            if record.timestamp < 0 or isinstance(errors[n], RecordRefusedError):
                (errors[n],) = await self._send_batch([record])
        return errors

    async def _send_batch(self, records: Sequence[Record]) -> list[WindsorError | None]:
        """Send records and wait for all of them."""
        futures: list[asyncio.Future[Any]] = []
        failure: BaseException = TimeoutError("no answer")
        try:
            async with asyncio.timeout(_SENDING_SECONDS_MAX):
                for record in records:
                    futures.append(await self._send_one(record))  # noqa: PERF401 - keep what was sent before a failure
                if futures:
                    await asyncio.wait(futures)
        except (kafka_errors.KafkaError, TimeoutError) as error:
            failure = error
        errors = [_outcome(future, failure) for future in futures]
        errors += [_send_error(failure)] * (len(records) - len(futures))
        if any(isinstance(error, RecordRefusedError) for error in errors):
            # The broker waits for the sequence number of what it refused, for ever.
            await self.stop()
            await self.start()
        return errors

    async def _send_one(self, record: Record) -> "asyncio.Future[Any]":
        try:
            partitions = await self._producer.partitions_for(record.topic)
            # One that is not there any more: by its key, as others are.
            partition = record.partition if record.partition in partitions else None
            sent: asyncio.Future[Any] = await self._producer.send(
                record.topic,
                value=record.value,
                key=record.key,
                partition=partition,
                timestamp_ms=record.timestamp,
                headers=list(record.headers),
            )
        except _REFUSALS as error:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(error)
        return sent

    async def start(self) -> None:
        """Connect.

        Raises:
            SourceError: Kafka is away, or refuses us.
        """
        await check_connection(self._options)
        self._producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=self._options.bootstrap_servers,
            client_id="windsor",
            acks="all",
            enable_idempotence=True,
            # A record that came compressed may fit in no other way.
            compression_type="gzip",
            max_request_size=_SENT_BYTES_MAX,
            **security_of(self._options),
        )
        try:
            async with asyncio.timeout(self._options.request_timeout_seconds):
                await self._producer.start()
        except (kafka_errors.KafkaError, TimeoutError) as error:
            await self.stop()
            raise SourceError(explained(error, self._options)) from error

    async def stop(self) -> None:
        """Close, within a deadline."""
        try:
            async with asyncio.timeout(self._options.request_timeout_seconds):
                await self._producer.stop()
        except (kafka_errors.KafkaError, TimeoutError) as error:
            log.warning("kafka.left_without_goodbye", error=str(error) or type(error).__name__)


@asynccontextmanager
async def open_sender(options: KafkaOptions) -> AsyncIterator[KafkaSender]:
    """Open a sender.

    Raises:
        SourceError: Kafka is away, or refuses us.
    """
    sender = KafkaSender(options)
    await sender.start()
    try:
        yield sender
    finally:
        await sender.stop()


def _outcome(future: "asyncio.Future[Any]", failure: BaseException) -> WindsorError | None:
    """What became of a record that was sent; `failure` where nobody knows."""
    if not future.done():
        # Whatever comes later is looked at, or the event loop complains that nobody did.
        future.add_done_callback(lambda late: late.cancelled() or late.exception())
        return _send_error(failure)
    error = future.exception()
    return None if error is None else _send_error(error)


def _send_error(error: BaseException) -> WindsorError:
    words = str(error) or type(error).__name__
    if isinstance(error, _REFUSALS):
        return RecordRefusedError(f"Kafka refuses it: {words}")
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        return SourceError(
            "Kafka does not let us send: grant Write on the topic, as docs/settings.md says"
        )
    return SourceError(f"Kafka did not take the records: {words}: look at the broker, try again")
