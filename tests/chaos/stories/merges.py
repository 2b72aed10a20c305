"""Workers merge the same users."""

import asyncio
from typing import Final

import asyncpg

from tests.chaos.arena import Arena, ArenaOptions
from tests.chaos.load import LoadOptions

EIGHT: Final = ArenaOptions(
    8, 8, LoadOptions(calls_per_second=200, users=12, merges=0.5, block_calls=100),
    # The default: a wait for a lock is no failure.
    {"database_statement_timeout_seconds": "20"},
)  # fmt: skip
"""Eight workers, and half of the calls merge one of a dozen users into another, all the time."""


async def contended(arena: Arena, rounds: int) -> None:
    """All workers merge the same few users, a pile of calls a round."""
    for _ in range(rounds):
        merges, large = await _merges_and_large_batches(arena)
        # One by one calls would be no batches, and wait for nobody.
        async with arena.writes_held():
            await arena.pile_up(1_500, calls_per_second=5_000)
            await asyncio.sleep(1)
        await arena.recovered()
        merges_after, large_after = await _merges_and_large_batches(arena)
        for name, grown in (
            ("merges a round", merges_after - merges),
            ("batches of dozens a round", large_after - large),
        ):
            arena.facts[name] = min(arena.facts.get(name, grown), grown)
            assert grown > 0, name
    dsn = arena.servers.postgres.direct(arena.database_name)
    connection = await asyncpg.connect(dsn)
    try:
        arena.facts["deadlocks"] = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()
    arena.facts["retries"] = await arena.total("windsor_retries_total")
    assert arena.facts["retries"] == 0


async def _merges_and_large_batches(arena: Arena) -> tuple[float, float]:
    """So far; a large batch has more than 30 calls."""
    return (
        await arena.total("windsor_merges_total"),
        await arena.total("windsor_batch_calls_count")
        - await arena.total('windsor_batch_calls_bucket{le="30.0"}'),
    )
