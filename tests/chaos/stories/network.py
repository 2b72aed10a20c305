"""The network fails, on either side, in each of its ways."""

import asyncio

from tests.chaos.arena import Arena
from tests.chaos.scenario import Play
from tests.proxy import Fault


def network_fails(sides: tuple[str, ...], seconds: float, black_hole_seconds: float) -> Play:
    """Each way in which a network fails, on the way to Kafka, to Postgres, or to both at once.

    Args:
        sides: The proxies that fail.
        seconds: For how long, in each way but one.
        black_hole_seconds: Longer than a statement or a request may take: nobody tells a worker
            of a black hole, and only its own timeouts get it out.
    """

    async def play(arena: Arena, rounds: int) -> None:
        proxies = [getattr(arena.network, side) for side in sides]
        for _ in range(rounds):
            for fault in tuple(Fault)[1:]:
                for proxy in proxies:
                    proxy.fail(fault)
                await asyncio.sleep(black_hole_seconds if fault is Fault.BLACK_HOLE else seconds)
                for proxy in proxies:
                    proxy.mend()
                await arena.recovered()
                arena.facts[fault.value] = max(
                    arena.facts.get(fault.value, 0.0), arena.recovery_seconds[-1]
                )

    return play
