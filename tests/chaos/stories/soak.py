"""Half of what the group can do, for long."""

import asyncio
import time
from typing import Final

from tests.chaos.arena import Arena, ArenaOptions
from tests.chaos.growth import Sample, growth
from tests.chaos.load import LoadOptions
from tests.chaos.scenario import Play
from tests.processes import WorkerProcess

SOAKED: Final = ArenaOptions(3, load=LoadOptions(users=20_000, merges=0.0002, kept=False))
"""So many calls that the model would not hold them."""


def soak(seconds: float, backlog_calls: int = 200_000) -> Play:
    """Half of what the group can do, and a kill a round of so many seconds.

    One worker is spared, and watched for what it does not give back.
    """

    async def play(arena: Arena, rounds: int) -> None:
        fastest = await _fastest(arena, backlog_calls)
        arena.load.calls_per_second = round(fastest / 2)
        arena.facts["calls a second"] = arena.load.calls_per_second
        spared = arena.workers[0]
        samples = []
        for _ in range(rounds):
            await arena.lose(arena.rng.choice(arena.workers[1:]))
            await arena.add_worker()
            await arena.recovered()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await asyncio.sleep(min(2.0, seconds / 4))
                samples.append(await _sampled(spared))
        found = growth(samples)
        arena.facts |= found.facts
        arena.broken += found.broken

    return play


async def _fastest(arena: Arena, backlog_calls: int) -> float:
    """Let calls pile up; gives how many a second are committed while nearly none come in."""
    await arena.pile_up(backlog_calls)
    committed = await arena.committed_total()
    started = time.monotonic()
    await arena.caught_up(300)
    return (await arena.committed_total() - committed) / (time.monotonic() - started)


async def _sampled(worker: WorkerProcess) -> Sample:
    metrics = await worker.metrics()
    connections = worker.connections()
    held = {
        "files": worker.files_count(),
        "tcp connections": len(connections),
        "half-closed": connections.count("CLOSE_WAIT"),
        "tasks": int(metrics["windsor_tasks"]),
    }
    return Sample(time.monotonic() / 3600, worker.rss_bytes(), held)
