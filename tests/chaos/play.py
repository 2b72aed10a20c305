"""One scenario, from servers in order to the judgement."""

import asyncio
import time

from tests.chaos.arena import Outcome, arena
from tests.chaos.scenario import Scenario
from tests.chaos.servers import BreakablePostgres, Servers


async def play(
    servers: Servers, scenario: Scenario, seed: int, rounds: int, timers: dict[str, str]
) -> Outcome:
    """Play one scenario from its start to the judgement."""
    settings = {**timers, **scenario.options.settings}
    if scenario.own_postgres:
        postgres = BreakablePostgres(servers.folder / f"postgres-{time.time_ns()}")
        await asyncio.to_thread(postgres.start)
        servers = servers._replace(postgres=postgres)
    async with arena(servers, scenario.options._replace(settings=settings), seed) as arena_:
        try:
            await scenario.play(arena_, rounds)
            outcome = await arena_.judged()
        except BaseException as error:
            error.add_note(arena_.last_words())
            raise
        if scenario.own_postgres:
            await asyncio.to_thread(arena_.servers.postgres.stop)
    return outcome
