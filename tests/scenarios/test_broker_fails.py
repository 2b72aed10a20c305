"""The broker is restarted, killed, and frozen: the group goes on by itself."""

from tests.chaos.arena import Arena
from tests.chaos.scenario import Scenario
from tests.chaos.stories.kafka import broker_frozen, broker_restarted
from tests.scenarios.conftest import Played


async def every_way(arena: Arena, rounds: int) -> None:
    """One that is told to leave while the broker is frozen leaves in time."""
    await broker_restarted(arena, 2 * rounds)
    await broker_frozen(6)(arena, rounds)


async def test_workers_go_on_by_themselves(played: Played) -> None:
    outcome = await played(Scenario("broker", every_way, 1))

    assert outcome.faultless, outcome
    assert max(outcome.recovery_seconds) < 30
    assert outcome.facts["exit seconds while frozen"] < 25
