"""Sends the realistic mix at a steady pace, as a process of its own: `python -m bench.pacer`.

Among the calls are numbered probes (`bench.calls.probe`), which an observer waits for; a few users
have them in turn. A record's timestamp is when it was handed to the producer. Told to go by
a line on stdin; answers with one line of JSON (`Sent`).
"""

import argparse
import asyncio
import gc
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from aiokafka import AIOKafkaProducer

from bench.calls import Record, calls, probe
from bench.servers import partition_of, producing

if TYPE_CHECKING:
    from aiokafka.producer.message_accumulator import BatchBuilder

PROBE_USERS: Final = 20
PROBES_PER_SECOND: Final = 100

# As a producer that lingers a little; how exactly the bench looks, too.
_TICK_SECONDS: Final = 0.01

_Placed: TypeAlias = tuple[int, bytes, bytes]
"""A record's partition, key and value."""


class Sent(msgspec.Struct):
    """What the pacer did."""

    probes_ms: list[int]
    """The timestamp of each probe."""

    calls_per_second: float
    """The pace that was kept."""


async def pace(kafka: str, topic: str, calls_per_second: float, seconds: float) -> Sent:
    """Send for so long, once stdin has a line."""
    ordinary_per_second = max(1.0, calls_per_second - PROBES_PER_SECOND)
    # Made before, since making one takes as long as sending ten.
    ordinary = [
        _placed(record)
        for record in calls(
            int(seconds * ordinary_per_second),
            seed=9,
            start=datetime.now(UTC),
            step=timedelta(seconds=1 / ordinary_per_second),
        )
    ]
    gc.freeze()
    async with producing(kafka) as producer:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        return await _pace(producer, topic, ordinary, ordinary_per_second, seconds)


async def _pace(
    producer: AIOKafkaProducer,
    topic: str,
    ordinary: list[_Placed],
    ordinary_per_second: float,
    seconds: float,
) -> Sent:
    probes_ms: list[int] = []
    sent = 0
    started = time.monotonic()
    while sent < len(ordinary):
        elapsed = min(time.monotonic() - started, seconds)
        timestamp_ms = int(time.time() * 1000)
        due = min(int(elapsed * ordinary_per_second) + 1, len(ordinary))
        records = ordinary[sent:due]
        sent = due
        for number in range(len(probes_ms), int(elapsed * PROBES_PER_SECOND)):
            records.append(_placed(probe(number % PROBE_USERS, number, timestamp_ms)))
            probes_ms.append(timestamp_ms)
        await _send(producer, topic, records, timestamp_ms)
        await asyncio.sleep(_TICK_SECONDS)
    seconds = time.monotonic() - started
    return Sent(probes_ms, (sent + len(probes_ms)) / seconds)


def _placed(record: Record) -> _Placed:
    return partition_of(record.key), record.key, record.value


async def _send(
    producer: AIOKafkaProducer, topic: str, records: list[_Placed], timestamp_ms: int
) -> None:
    """Send by hand-made batches; in few steps, since what we take is taken from who is measured."""
    builders: dict[int, BatchBuilder] = {}
    for partition, key, value in records:
        builder = builders.get(partition)
        if builder is None:
            builder = builders[partition] = producer.create_batch()
        if builder.append(key=key, value=value, timestamp=timestamp_ms) is None:
            await producer.send_batch(builder, topic, partition=partition)
            builder = builders[partition] = producer.create_batch()
            builder.append(key=key, value=value, timestamp=timestamp_ms)
    for partition, builder in builders.items():
        await producer.send_batch(builder, topic, partition=partition)


def main() -> None:
    """Send, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--calls-per-second", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    sent = asyncio.run(
        pace(options.kafka, options.topic, options.calls_per_second, options.seconds)
    )
    print(msgspec.json.encode(sent).decode(), flush=True)


if __name__ == "__main__":
    main()
