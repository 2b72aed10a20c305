"""The broker dies, freezes and is away; topics come, grow and go, and forget."""

import asyncio
import os
import signal
import time
from typing import Final

from tests.chaos.arena import Arena, ArenaOptions
from tests.chaos.scenario import Play

BY_PATTERN: Final = ArenaOptions(by_pattern=True)


async def broker_restarted(arena: Arena, rounds: int) -> None:
    """Stopped in an orderly way or killed, and started again."""
    for number in range(rounds):
        kafka = arena.servers.kafka
        await asyncio.to_thread(kafka.kill if number % 2 else kafka.stop)
        await asyncio.sleep(arena.rng.uniform(0.5, 2.0))
        await asyncio.to_thread(kafka.start)
        await arena.recovered()


def broker_frozen(seconds: float) -> Play:
    """The broker answers nothing for a while, its connections open."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            os.kill(arena.servers.kafka.pid, signal.SIGSTOP)
            try:
                # One that is told to leave meanwhile does.
                await asyncio.sleep(seconds / 2)
                started = time.monotonic()
                assert await arena.retire(arena.rng.choice(arena.workers)) == 0
                arena.facts["exit seconds while frozen"] = time.monotonic() - started
                await asyncio.sleep(max(0.0, seconds / 2 - (time.monotonic() - started)))
            finally:
                os.kill(arena.servers.kafka.pid, signal.SIGCONT)
            await arena.recovered()
            await arena.add_worker()

    return play


def broker_away(seconds: float) -> Play:
    """The broker is not there for a while."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.to_thread(arena.servers.kafka.stop)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(arena.servers.kafka.start)
            await arena.recovered()

    return play


async def topics_change(arena: Arena, rounds: int) -> None:
    """Partitions are added, topics match the pattern anew, and one is deleted and made again."""
    first = arena.load.topic
    for number in range(rounds):
        partitions = 4 + 2 * (number + 1)
        await arena.grow_topic(first, partitions)
        await arena.load.aim(first, partitions)
        await asyncio.sleep(1)
        await arena.recovered()
        fresh = f"{first}-{number}"
        await arena.create_topic(fresh, 2)
        await arena.load.aim(fresh, 2)
        await asyncio.sleep(1)
        await arena.recovered()
        # Nothing of a deleted topic may be missed that was not read before.
        await arena.load.stop()
        await arena.caught_up()
        await arena.delete_topic(fresh)
        await arena.create_topic(fresh, 2)
        await arena.load.aim(fresh, 2)
        await asyncio.sleep(1)
        await arena.recovered()
        await arena.load.aim(first, partitions)


async def retention_overtakes(arena: Arena, rounds: int) -> None:
    """Retention drops what nobody has read: a worker stops and says so, and is told to go on."""
    stopping, resets = dict(arena.settings), 0.0
    for _ in range(rounds):
        await arena.load.stop()
        await arena.caught_up()
        for worker in list(arena.workers):
            assert await arena.retire(worker) == 0
        before = await arena.committed_total()
        # Of calls that are stored already, for what is dropped is lost.
        await arena.load.repeat(1_000)
        ends = {n: end for (_, n), end in arena.load.ends.items()}
        await arena.drop_records(
            arena.load.topic, {n: end - arena.rng.randrange(100) for n, end in ends.items()}
        )

        arena.settings = stopping
        overtaken = await arena.add_worker()
        await overtaken.until_logged("worker.overtaken")
        assert await arena.retire(overtaken) == 1
        assert await arena.committed_total() == before, "it went on"

        arena.settings = {**stopping, "kafka_offset_out_of_range": "earliest"}
        for _ in range(2):
            await arena.add_worker()
        await arena.load.start()
        await asyncio.sleep(arena.rng.uniform(1.0, 3.0))
        await arena.recovered()
        found = await arena.total('windsor_offset_resets_total{reason="retention"}')
        assert found == len(ends), "each partition is begun anew, and says so"
        resets += found
    arena.facts["resets"] = resets
