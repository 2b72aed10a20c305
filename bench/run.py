"""`make bench`: from Kafka to committed, on this machine, with all that the worker does.

Kafka, Postgres and the worker share the machine's cores, so figures compare only within one
run. Beside Windsor runs a good loop by hand, which stores the calls and knows no customers.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import asyncpg
import msgspec
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.calls import calls
from consumer.connection import prepare_connection
from consumer.schema import migrate
from demo.servers import embedded_kafka, embedded_postgres

PARTITIONS = 4
RESULTS = Path(".bench/latest.json")

_COPY_LOOP_TABLE = """
CREATE TABLE calls (message_id text PRIMARY KEY, user_id text, occurred_at timestamptz,
received_at timestamptz, type text, name text, properties jsonb, context jsonb, traits jsonb)
"""


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


async def windsor(kafka: str, topic: str, dsn: str, count: int) -> dict[str, float]:
    """One worker process, all semantics on, from an empty database."""
    await migrate(dsn)
    environment = {
        **os.environ,
        "WINDSOR_KAFKA_BOOTSTRAP_SERVERS": kafka,
        "WINDSOR_KAFKA_TOPICS": topic,
        "WINDSOR_KAFKA_GROUP_ID": f"bench-{time.monotonic_ns()}",
        "WINDSOR_DATABASE_URL": dsn,
        "WINDSOR_HTTP_PORT": "0",
        "WINDSOR_LOG_LEVEL": "error",
    }
    connection = await asyncpg.connect(dsn)
    worker = subprocess.Popen([sys.executable, "-m", "consumer.cli", "consume"], env=environment)
    try:
        process = psutil.Process(worker.pid)
        await _until(connection, "windsor_private.calls", 1)
        started = time.monotonic()
        first = await connection.fetchval("SELECT count(*) FROM windsor_private.calls")
        await _until(connection, "windsor_private.calls", count)
        seconds = time.monotonic() - started
        times = process.cpu_times()
        rss = process.memory_info().rss
    finally:
        worker.terminate()
        worker.wait(30)
        await connection.close()
    return {
        "calls_per_second": (count - first) / seconds,
        "worker_cpu_seconds_per_million": (times.user + times.system) / count * 1e6,
        "worker_rss_bytes_max": float(rss),
    }


async def copy_loop(kafka: str, topic: str, dsn: str, count: int) -> dict[str, float]:
    """A loop by hand: poll 5,000, decode, COPY into one table, commit; nothing overlaps."""
    connection = await asyncpg.connect(dsn)
    await prepare_connection(connection)
    await connection.reset_type_codec("timestamptz", schema="pg_catalog")
    await connection.execute(_COPY_LOOP_TABLE)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id=f"loop-{time.monotonic_ns()}", enable_auto_commit=False
    )
    await consumer.start()
    tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(tps)
    await consumer.seek_to_beginning(*tps)
    decode = msgspec.json.Decoder(_Wire).decode
    from datetime import datetime  # noqa: PLC0415 - the rival's own

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
    return {"copy_loop_calls_per_second": count / seconds}


async def _until(connection: "asyncpg.Connection[asyncpg.Record]", table: str, count: int) -> None:
    async with asyncio.timeout(600):
        while await connection.fetchval(f"SELECT count(*) FROM {table}") < count:  # noqa: S608, ASYNC110 - our own table; Postgres tells nobody
            await asyncio.sleep(0.05)


async def _produce(kafka: str, topic: str, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, linger_ms=20, max_batch_size=1 << 20, compression_type="lz4"
    )
    await producer.start()
    for key, value, timestamp_ms in calls(count):
        await producer.send(topic, value=value, key=key, timestamp_ms=timestamp_ms)
    await producer.stop()


async def _measure(count: int, rounds: int, kafka: str, dsn: str) -> dict[str, float]:
    await _produce(kafka, "bench", count)
    rivals: list[Callable[[str, str, str, int], Awaitable[dict[str, float]]]]
    rivals = [windsor, copy_loop]
    figures: dict[str, list[float]] = {}
    for turn in range(rounds):
        for rival in rivals:
            name = f"bench_{rival.__name__}_{turn}"
            server = await asyncpg.connect(dsn)
            await server.execute(f"CREATE DATABASE {name}")
            found = await rival(kafka, "bench", dsn.replace("/postgres?", f"/{name}?"), count)
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await server.execute("CHECKPOINT")
            await server.close()
            for key, value in found.items():
                figures.setdefault(key, []).append(value)
            print(f"  round {turn + 1}: {rival.__name__}: {_shown(found)}", flush=True)
    return {key: median(values) for key, values in figures.items()}


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:,.0f}" for key, value in figures.items())


def main() -> None:
    """Measure, print a table, write `.bench/latest.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
    with (
        tempfile.TemporaryDirectory(prefix="windsor-bench-") as folder,
        embedded_postgres(Path(folder) / "postgres", settings) as postgres,
        embedded_kafka(Path(folder) / "kafka") as kafka,
    ):
        Path(folder).chmod(0o755)
        figures = asyncio.run(
            _measure(options.calls, options.rounds, kafka.bootstrap_servers, postgres.dsn)
        )
    figures["ratio_to_copy_loop"] = (
        figures["calls_per_second"] / figures["copy_loop_calls_per_second"]
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print("\n| figure | value |\n| --- | ---: |")
    for key, value in figures.items():
        print(f"| `{key}` | {value:,.2f} |" if value < 100 else f"| `{key}` | {value:,.0f} |")


if __name__ == "__main__":
    main()
