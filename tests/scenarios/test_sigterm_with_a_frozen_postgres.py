"""A worker is told to stop while Postgres answers nothing: it leaves, and nothing is lost."""

from tests.chaos.arena import ArenaOptions
from tests.chaos.scenario import Scenario
from tests.chaos.stories.postgres import postgres_frozen
from tests.processes import EXIT_SECONDS_MAX
from tests.scenarios.conftest import Played


async def test_worker_leaves_in_time_and_the_others_do_the_rest(played: Played) -> None:
    # Longer than it may drain: it has to give up a statement that is under way.
    options = ArenaOptions(settings={"database_statement_timeout_seconds": "10"})
    outcome = await played(Scenario("frozen", postgres_frozen(8), 1, options))

    assert outcome.faultless, outcome
    assert outcome.facts["exit seconds while frozen"] < EXIT_SECONDS_MAX
    assert max(outcome.recovery_seconds) < 30
