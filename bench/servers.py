"""The servers of a bench, its databases and topics, and what Postgres costs."""

import asyncio
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError

from bench import calls
from bench.calls import Record
from consumer.errors import WindsorError
from consumer.schema import migrate
from demo.servers import embedded_kafka, embedded_postgres

PARTITIONS: Final = 4
# The tables of `windsor_private` that calls are kept in.
LOGS: Final = ("calls",)

# Some ninety calls a batch: what a producer that lingers for 20 ms sends at such a rate.
_BATCH_BYTES: Final = 64 * 1024
_POSTGRES: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
}
_LOOKS_MAX: Final = 10
_NUMBERS: Final = itertools.count()


class Servers(NamedTuple):
    """What runs beside the bench."""

    kafka: str
    dsn: str
    postgres_pid: int


@contextmanager
def running(folder: Path) -> Iterator[Servers]:
    """Run both servers.

    Args:
        folder: Keeps Kafka's topics from run to run, while the calls are made alike; the
            databases are new each time.
    """
    kafka_folder = folder.absolute() / f"kafka-{_calls_version()}"
    for stale in folder.glob("kafka-*"):
        if stale.name != kafka_folder.name:
            shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix="windsor-bench-") as temporary:
        # Postgres does not run as root, and has to get there.
        Path(temporary).chmod(0o755)
        with (
            embedded_postgres(Path(temporary) / "postgres", _POSTGRES) as postgres,
            embedded_kafka(kafka_folder, progress=print) as kafka,
        ):
            yield Servers(kafka.bootstrap_servers, postgres.dsn, postgres.pid)


def _calls_version() -> str:
    return hashlib.sha256(Path(calls.__file__).read_bytes()).hexdigest()[:8]


# Databases ----------------------------------------------------------------------------------


@asynccontextmanager
async def new_database(dsn: str, template: str | None = None) -> AsyncIterator[str]:
    """Make a database for a while: migrated, or a copy of another; give its address."""
    name = f"bench_{os.getpid()}_{next(_NUMBERS)}"
    server = await asyncpg.connect(dsn)
    try:
        if template is None:
            await server.execute(f"CREATE DATABASE {name}")
            await migrate(_with_database(dsn, name))
        else:
            source = urlsplit(template).path.removeprefix("/")
            await server.execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy")
        # What was written before is not to be paid for by what is measured next.
        await server.execute("CHECKPOINT")
        yield _with_database(dsn, name)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await server.close()


async def calls_count(dsn: str) -> int:
    """Count the calls that are stored."""
    connection = await asyncpg.connect(dsn)
    try:
        counts = [
            await connection.fetchval(f"SELECT count(*) FROM windsor_private.{log}")  # noqa: S608 - ours
            for log in LOGS
        ]
    finally:
        await connection.close()
    return sum(counts)


async def database_bytes(dsn: str) -> int:
    """Tell how much room a database takes, indexes included."""
    connection = await asyncpg.connect(dsn)
    try:
        size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
    finally:
        await connection.close()
    return size


def _with_database(dsn: str, database: str) -> str:
    """The same server, another database."""
    return re.sub(r"(?<=[^/])/[^/?]*(\?|$)", rf"/{database}\1", dsn, count=1)


def postgres_cpu_seconds(pid: int) -> float:
    """CPU of the whole server since its start: backends, past ones too, writers, checkpointer.

    Args:
        pid: Of the postmaster, which has the times of its children that have ended.
    """
    server = psutil.Process(pid)
    before = server.cpu_times()
    for _ in range(_LOOKS_MAX):
        running = 0.0
        for backend in server.children():
            with suppress(psutil.NoSuchProcess):
                times = backend.cpu_times()
                running += times.user + times.system
        own = server.cpu_times()
        ended = own.children_user + own.children_system
        # A backend that ends between the two looks is in neither of them, or in both.
        if ended == before.children_user + before.children_system:
            break
        before = own
    return float(own.user + own.system + ended + running)


# Topics -------------------------------------------------------------------------------------


async def ensure_topic(
    kafka: str, name: str, records: Callable[[], Iterable[Record]], count: int
) -> None:
    """Make a topic that holds so many records, unless an earlier run has made it.

    Raises:
        WindsorError: The broker did not take all of them.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        if name in await admin.list_topics():
            if await _records_count(kafka, name) == count:
                return
            # An earlier run was ended while it produced.
            await admin.delete_topics([name])
        await _create(admin, name)
    finally:
        await admin.close()
    await _produce(kafka, name, records())
    if (found := await _records_count(kafka, name)) != count:
        raise WindsorError(f"the broker took {found:,} of {count:,} records of {name}")


@asynccontextmanager
async def new_topic(kafka: str) -> AsyncIterator[str]:
    """Make an empty topic for a while."""
    name = f"fresh-{os.getpid()}-{next(_NUMBERS)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await _create(admin, name)
        yield name
        await admin.delete_topics([name])
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, name: str) -> None:
    async with asyncio.timeout(30):
        while True:
            # A topic that is being deleted is still there for a moment.
            with suppress(TopicAlreadyExistsError):
                await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
                return
            await asyncio.sleep(0.2)


async def _records_count(kafka: str, topic: str) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, n) for n in range(PARTITIONS)])
        return sum(ends.values())
    finally:
        await consumer.stop()


async def _produce(kafka: str, topic: str, records: Iterable[Record]) -> None:
    async with producing(kafka) as producer:
        builders = [producer.create_batch() for _ in range(PARTITIONS)]
        for record in records:
            partition = partition_of(record.key)
            if not append(builders[partition], record):
                await producer.send_batch(builders[partition], topic, partition=partition)
                builders[partition] = producer.create_batch()
                append(builders[partition], record)
        for partition, builder in enumerate(builders):
            if builder.record_count():
                await producer.send_batch(builder, topic, partition=partition)


@asynccontextmanager
async def producing(kafka: str) -> AsyncIterator[AIOKafkaProducer]:
    """Run a producer for batches made by hand: one future a batch, not one a record."""
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, max_batch_size=_BATCH_BYTES, compression_type="lz4"
    )
    await producer.start()
    try:
        yield producer
    finally:
        # Sends what is still there.
        await producer.stop()


def partition_of(key: bytes) -> int:
    """Whose key it is decides, as with any partitioner."""
    return zlib.crc32(key) % PARTITIONS


def append(builder: "object", record: Record) -> bool:
    """Add a record to a batch; False where there is no room."""
    key, value, timestamp_ms = record
    return builder.append(key=key, value=value, timestamp=timestamp_ms) is not None  # type: ignore[attr-defined]
