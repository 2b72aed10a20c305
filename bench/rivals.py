"""What Windsor is held against: the limit of its tables, a good loop by hand, a simple one.

None of them knows customers: they store calls, and that is all.
"""

import asyncio
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.servers import LOGS, PARTITIONS
from consumer.errors import WindsorError
from consumer.postgres import prepare_connection

_TABLE = """
CREATE TABLE calls (message_id text PRIMARY KEY, user_id text, occurred_at timestamptz,
received_at timestamptz, type text, name text, properties jsonb, context jsonb, traits jsonb)
"""
_INSERT = "INSERT INTO calls VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"

# As many rows in one COPY as the worker writes in one batch at most.
_COPY_ROWS: Final = 5_000

_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""
_LEAVES = """
SELECT t.relid::regclass::text AS name, pg_relation_size(t.relid) / 8192 AS blocks
FROM pg_partition_tree($1::regclass) AS t WHERE t.isleaf AND pg_relation_size(t.relid) > 0
"""


# A good loop by hand ------------------------------------------------------------------------


class _Wire(msgspec.Struct):
    """What the loop by hand decodes."""

    messageId: str  # noqa: N815 - the field's own name
    type: str
    timestamp: str
    userId: str | None = None  # noqa: N815 - as above
    event: str | None = None
    properties: msgspec.Raw = msgspec.Raw(b"null")
    context: msgspec.Raw = msgspec.Raw(b"null")
    traits: msgspec.Raw = msgspec.Raw(b"null")


async def copy_loop(kafka: str, topic: str, dsn: str, count: int) -> float:
    """Run a loop by hand: poll 5,000, decode, COPY into one table, commit; nothing overlaps.

    Returns:
        Its calls per second.
    """
    connection = await asyncpg.connect(dsn)
    await prepare_connection(connection)
    await connection.reset_type_codec("timestamptz", schema="pg_catalog")
    await connection.execute(_TABLE)
    consumer = await _consumer(kafka, topic)
    decode = msgspec.json.Decoder(_Wire).decode
    done = 0
    started = time.monotonic()
    while done < count:
        fetched = await consumer.getmany(timeout_ms=500, max_records=5_000)
        rows = []
        for records in fetched.values():
            for record in records:
                call = decode(record.value)
                at = datetime.fromisoformat(call.timestamp)
                rows.append(
                    (
                        *(call.messageId, call.userId, at, at, call.type, call.event),
                        *(bytes(call.properties), bytes(call.context), bytes(call.traits)),
                    )
                )
        if rows:
            await connection.copy_records_to_table("calls", records=rows)
            await consumer.commit()
            done += len(rows)
    seconds = time.monotonic() - started
    await consumer.stop()
    await connection.close()
    return count / seconds


async def _consumer(kafka: str, topic: str) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id=f"loop-{uuid.uuid4()}", enable_auto_commit=False
    )
    await consumer.start()
    tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(tps)
    await consumer.seek_to_beginning(*tps)
    return consumer


# A simple loop ------------------------------------------------------------------------------


async def per_message(kafka: str, topic: str, dsn: str, count: int) -> float:
    """Run what a team writes in an afternoon: an INSERT, and a commit, for each message.

    The INSERT is what commits; the offset is not even committed each time.

    Returns:
        Its calls per second.
    """
    connection = await asyncpg.connect(dsn)
    await connection.execute(_TABLE)
    consumer = await _consumer(kafka, topic)
    done = 0
    started = time.monotonic()
    async for message in consumer:
        call = json.loads(message.value)
        at = datetime.fromisoformat(call["timestamp"])
        await connection.execute(
            _INSERT,
            call["messageId"],
            call.get("userId"),
            at,
            at,
            call["type"],
            call.get("event"),
            json.dumps(call.get("properties")),
            json.dumps(call.get("context")),
            json.dumps(call.get("traits")),
        )
        done += 1
        if done == count:
            break
    seconds = time.monotonic() - started
    await consumer.stop()
    await connection.close()
    return count / seconds


# The limit ----------------------------------------------------------------------------------


class Chunk(NamedTuple):
    """Rows of a table, as binary COPY has them."""

    table: str
    columns: tuple[str, ...]
    rows_count: int
    content: bytes


async def dump_calls(dsn: str, count: int) -> list[Chunk]:
    """Take the rows of all calls out of a database that Windsor has filled.

    Args:
        dsn: Of the database.
        count: Of the calls that must be in it.

    Raises:
        WindsorError: The rows are others: calls are kept elsewhere, too.
    """
    connection = await asyncpg.connect(dsn)
    try:
        chunks = [chunk for log in LOGS async for chunk in _dumped(connection, log)]
    finally:
        await connection.close()
    rows_count = sum(chunk.rows_count for chunk in chunks)
    if rows_count != count:
        raise WindsorError(f"{count:,} calls are {rows_count:,} rows: see bench/servers.py, LOGS")
    return chunks


async def _dumped(
    connection: "asyncpg.Connection[asyncpg.Record]", log: str
) -> AsyncIterator[Chunk]:
    table = f"windsor_private.{log}"
    columns = tuple(row[0] for row in await connection.fetch(_COLUMNS, table))
    selected = ", ".join(f'"{column}"' for column in columns)
    for name, blocks in await connection.fetch(_LEAVES, table):
        rows = await connection.fetchval(f"SELECT count(*) FROM {name}")  # noqa: S608 - its own name
        # In the order in which they were written, so many as make a batch.
        step = max(1, blocks * _COPY_ROWS // max(rows, 1))
        for first in range(0, blocks, step):
            content = io.BytesIO()
            status = await connection.copy_from_query(
                f"SELECT {selected} FROM {name}"  # noqa: S608 - the catalog's names
                f" WHERE ctid >= '({first},0)' AND ctid < '({first + step},0)'",
                output=content,
                format="binary",
            )
            yield Chunk(log, columns, int(status.split()[-1]), content.getvalue())


async def empty(dsn: str) -> None:
    """Take all calls out of a database: what is left are their tables, indexes and partitions."""
    connection = await asyncpg.connect(dsn)
    try:
        logs = ", ".join(f"windsor_private.{log}" for log in LOGS)
        await connection.execute(f"TRUNCATE {logs}")
    finally:
        await connection.close()


async def copy_limit(dsn: str, chunks: Sequence[Chunk], connections_count: int) -> float:
    """Load the rows into the tables of an empty database, over so many connections.

    Returns:
        Its calls per second.
    """
    connections = [await asyncpg.connect(dsn) for _ in range(connections_count)]
    left = iter(chunks)

    async def load(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        for chunk in left:
            await connection.copy_to_table(
                chunk.table,
                schema_name="windsor_private",
                columns=chunk.columns,
                source=io.BytesIO(chunk.content),
                format="binary",
            )

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(load(connection))
    seconds = time.monotonic() - started
    for connection in connections:
        await connection.close()
    return sum(chunk.rows_count for chunk in chunks) / seconds
