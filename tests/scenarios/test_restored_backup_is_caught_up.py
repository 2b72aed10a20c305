"""A database comes back from a backup, the group's offsets are set back, and nothing is missing.

What `docs/operate.md` tells under Restore: the backup lacks what came after it, and of what is read
again some is stored already.
"""

import re
from collections.abc import Awaitable, Callable

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.calls import calls
from consumer.verify import verify_database
from tests.views import stored_views
from tests.worker import produce, until_consumed, working


async def administer(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(
        re.sub(r"(?<=[^/])/[^/?]*(\?|$)", r"/postgres\1", dsn, count=1)
    )
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def set_offset(kafka: str, topic: str, offset: int) -> None:
    group = AIOKafkaConsumer(bootstrap_servers=kafka, group_id="windsor", enable_auto_commit=False)
    await group.start()
    try:
        partition = TopicPartition(topic, 0)
        group.assign([partition])
        await group.commit({partition: offset})
    finally:
        await group.stop()


async def test_backup_and_rewound_offsets_are_as_if_nothing_had_happened(
    kafka_server: str, database: str, topic: Callable[[int], Awaitable[str]]
) -> None:
    name = await topic(1)
    values = [record.value for record in calls(3_000)]
    database_name = re.findall(r"(?<=[^/])/([^/?]*)(?:\?|$)", database)[0]
    backup = f"{database_name}_backup"
    async with working(kafka_server, name, database):
        await produce(kafka_server, name, values[:2_000])
        await until_consumed(kafka_server, name)
    await administer(database, f"CREATE DATABASE {backup} TEMPLATE {database_name}")
    async with working(kafka_server, name, database):
        await produce(kafka_server, name, values[2_000:])
        await until_consumed(kafka_server, name)
    expected = await stored_views(database)

    # The disaster, and the way back; half of what is read again was stored before the backup.
    await administer(
        database,
        f"DROP DATABASE {database_name} WITH (FORCE)",
        f"ALTER DATABASE {backup} RENAME TO {database_name}",
    )
    assert await stored_views(database) != expected
    await set_offset(kafka_server, name, 1_000)
    async with working(kafka_server, name, database) as worker:
        await until_consumed(kafka_server, name)
        outcomes = {
            outcome: worker.metric("windsor_calls_stored_total", outcome=outcome)
            for outcome in ("new", "duplicate")
        }

    assert await stored_views(database) == expected
    assert outcomes == {"new": 1_000, "duplicate": 1_000}
    assert (await verify_database(database)).differences == 0
