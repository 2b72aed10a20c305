"""Workers join and leave every two seconds: nothing is lost, and the lag is soon gone."""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.workers import storm
from tests.scenarios.conftest import Played


async def test_group_catches_up_soon_after_the_last_change(played: Played) -> None:
    outcome = await played(Scenario("storm", storm, 5))

    assert outcome.faultless, outcome
    assert max(outcome.recovery_seconds) < 30
