"""Eight workers merge the same few users: no deadlock surfaces, all merges are applied."""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.merges import EIGHT, contended
from tests.scenarios.conftest import Played


async def test_no_failure_surfaces_and_views_equal_the_model(played: Played) -> None:
    outcome = await played(Scenario("merges", contended, 2, EIGHT))

    assert outcome.faultless, outcome
    assert outcome.facts["batches of dozens a round"] >= 16
    assert (outcome.facts["deadlocks"], outcome.facts["retries"]) == (0, 0)
