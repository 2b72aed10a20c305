"""Workers are killed at random moments, poison on the way: nothing is lost, nothing doubled."""

from tests.chaos.arena import ArenaOptions
from tests.chaos.load import LoadOptions
from tests.chaos.scenario import Scenario
from tests.chaos.stories.workers import killed
from tests.scenarios.conftest import Played


async def test_views_equal_the_model_and_each_poison_is_one_dead_letter(played: Played) -> None:
    options = ArenaOptions(
        load=LoadOptions(poison=0.01), settings={"kafka_session_timeout_seconds": "3"}
    )
    outcome = await played(Scenario("kill -9", killed, 2, options))

    assert outcome.faultless, outcome
    assert (outcome.lost, outcome.doubled, outcome.rounds) == (0, 0, 2)
    assert max(outcome.recovery_seconds) < 30
