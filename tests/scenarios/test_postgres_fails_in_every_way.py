"""Postgres is restarted, killed, read-only, full: the workers stay members and go on."""

from tests.chaos.arena import Arena
from tests.chaos.scenario import Scenario
from tests.chaos.stories.postgres import (
    postgres_disk_full,
    postgres_killed,
    postgres_out_of_connections,
    postgres_promoted,
    postgres_read_only,
    postgres_restarted,
)
from tests.scenarios.conftest import Played


async def every_way(arena: Arena, rounds: int) -> None:
    """One after the other; each asserts that no dead letter was made and nobody left the group."""
    await postgres_restarted(arena, rounds)
    await postgres_killed(arena, 2 * rounds)
    await postgres_read_only(arena, rounds)
    await postgres_out_of_connections(arena, rounds)
    await postgres_disk_full(arena, rounds)


async def test_nothing_is_set_aside_and_workers_are_ready_soon(played: Played) -> None:
    outcome = await played(Scenario("Postgres", every_way, 1))

    assert outcome.faultless, outcome
    assert outcome.rounds == 6
    assert max(outcome.recovery_seconds) < 30
    assert outcome.facts["ready after"] < 15


async def test_promoted_standby_has_everything_and_takes_the_rest(played: Played) -> None:
    outcome = await played(Scenario("promoted", postgres_promoted, 1, own_postgres=True))

    assert outcome.faultless, outcome
    assert max(outcome.recovery_seconds) < 30
