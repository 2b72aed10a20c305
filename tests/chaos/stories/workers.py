"""Workers are killed, told to leave, stopped, and live by a clock that jumps."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Final

from tests.chaos.arena import Arena, ArenaOptions
from tests.chaos.load import LATE_MS_MAX
from tests.chaos.scenario import Play
from tests.processes import EXIT_SECONDS_MAX, WorkerProcess
from tests.worker import PRODUCED_MS

_DAY_MS: Final = 86_400_000


# By the true clock none of the load's calls expires for two months, by a clock that is a year
# ahead all of them have.
_RETENTION_DAYS: Final = round((time.time() * 1000 - PRODUCED_MS + LATE_MS_MAX) / _DAY_MS) + 60


JUMPING: Final = ArenaOptions(
    settings={
        "PYTHONPATH": str(Path(__file__).parents[1] / "clock"),
        "retention_days": str(_RETENTION_DAYS),
    }
)
"""Workers with a retention, whose clock jumps by hours, and by a year, every two seconds."""


async def killed(arena: Arena, rounds: int) -> None:
    """SIGKILL a random worker, start another."""
    for _ in range(rounds):
        await asyncio.sleep(arena.rng.uniform(0.2, 1.0))
        await arena.lose(arena.rng.choice(arena.workers))
        await arena.add_worker()
        await arena.recovered()


async def terminated(arena: Arena, rounds: int) -> None:
    """SIGTERM a random worker, start another: in time, and no record is delivered twice."""
    duplicates = 0.0
    for _ in range(rounds):
        await asyncio.sleep(arena.rng.uniform(0.2, 1.0))
        leaving = arena.rng.choice(arena.workers)
        duplicates += _duplicates(await leaving.metrics())
        started = time.monotonic()
        assert await arena.retire(leaving) == 0
        seconds = time.monotonic() - started
        arena.facts["exit seconds"] = max(arena.facts.get("exit seconds", 0.0), seconds)
        await arena.add_worker()
        await arena.recovered()
    for worker in arena.workers:
        duplicates += _duplicates(await worker.metrics())
    arena.facts["delivered twice"] = duplicates
    assert duplicates == 0, arena.facts
    assert arena.facts["exit seconds"] < EXIT_SECONDS_MAX, arena.facts


def _duplicates(metrics: dict[str, float]) -> float:
    return metrics.get('windsor_calls_stored_total{outcome="duplicate"}', 0.0)


def zombie(seconds: float) -> Play:
    """A worker stands still until the group has given it up, then goes on where it was."""

    async def play(arena: Arena, rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(arena.rng.uniform(0.2, 1.0))
            undead = arena.rng.choice(arena.workers)
            others = [worker for worker in arena.workers if worker is not undead]
            revoked = undead.events.count("partitions.revoked")

            async def given_up(others: list[WorkerProcess] = others) -> bool:
                return await _assigned(others) == len(arena.load.ends)

            try:
                async with arena.writes_held():
                    os.kill(undead.pid, signal.SIGSTOP)
                await arena.watch(seconds)
                await arena.until(given_up, 30)
            finally:
                os.kill(undead.pid, signal.SIGCONT)
            await arena.recovered()

            async def has_partitions(undead: WorkerProcess = undead, before: int = revoked) -> bool:
                after = undead.events.count("partitions.revoked")
                return after > before and await _assigned([undead]) > 0

            arena.facts["rejoined after"] = await arena.until(has_partitions, 60)
            await arena.watch(1)
        assert arena.rewinds == 0

    return play


async def _assigned(workers: list[WorkerProcess]) -> float:
    shown = await asyncio.gather(*(worker.metrics() for worker in workers))
    return sum(of.get("windsor_partitions_assigned", 0) for of in shown)


async def storm(arena: Arena, rounds: int) -> None:
    """Workers join and leave every two seconds."""
    for _ in range(rounds):
        change = asyncio.create_task(_come_or_go(arena))
        await asyncio.sleep(2)
        await change
    await arena.recovered()


async def _come_or_go(arena: Arena) -> None:
    if len(arena.workers) < 2 or (len(arena.workers) < 4 and arena.rng.random() < 0.5):
        await arena.add_worker()
    else:
        assert await arena.retire(arena.rng.choice(arena.workers)) == 0


async def clock_jumps(arena: Arena, rounds: int) -> None:
    """Nothing is done but to look at workers whose clocks jump: not even ages tell of it."""
    for worker in arena.workers:
        # Said once it is in force, by whatever process it is loaded into.
        assert "the clock jumps" in worker.said, worker.said
    ages = []
    for _ in range(rounds):
        before = await _ages(arena)
        await asyncio.sleep(2)
        await arena.recovered()
        after = await _ages(arena)
        ages.append((after[0] - before[0]) / (after[1] - before[1]))
    arena.facts["ages apart by seconds"] = max(ages) - min(ages)
    # The least of the jumps is an hour.
    assert max(ages) - min(ages) < 600, ages


async def _ages(arena: Arena) -> tuple[float, float]:
    """How old calls were when they were committed: sum of seconds, and number."""
    # Both of one look: calls go on coming.
    shown = await asyncio.gather(*(worker.metrics() for worker in arena.workers))
    name = "windsor_freshness_seconds"
    return sum(of[f"{name}_sum"] for of in shown), sum(of[f"{name}_count"] for of in shown)
