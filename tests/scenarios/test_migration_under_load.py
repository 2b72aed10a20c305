"""A migration is applied while workers of the version before write: nothing is lost."""

from consumer import schema
from tests.chaos.arena import Arena
from tests.chaos.stories import Scenario, migrated
from tests.processes import start_worker
from tests.scenarios.conftest import Played


async def and_a_late_worker(arena: Arena, rounds: int) -> None:
    """One of the version before that is started afterwards refuses to run."""
    await migrated(arena, rounds)
    late = await start_worker(arena.servers.kafka.bootstrap_servers, arena.topics, arena.dsn)
    assert await late.ended(30) == 1
    newest = schema.migrations()[-1].version
    knows = f"this worker knows {newest}: run the newer windsor"
    assert late.said == [f"windsor: the database's schema is version 9999, {knows}"]


async def test_workers_that_run_go_on_and_no_other_starts(played: Played) -> None:
    outcome = await played(Scenario("migrations", and_a_late_worker, 1))

    assert outcome.faultless, outcome
    assert outcome.facts["migrated after"] < 30
