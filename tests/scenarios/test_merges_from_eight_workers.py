"""Eight workers merge the same few users: no deadlock surfaces, all merges are applied."""

from tests.chaos.arena import ArenaOptions
from tests.chaos.load import LoadOptions
from tests.chaos.stories import Scenario, contended
from tests.scenarios.conftest import Played


async def test_no_failure_surfaces_and_views_equal_the_model(played: Played) -> None:
    options = ArenaOptions(8, 8, LoadOptions(calls_per_second=200, users=12, merges=0.5))
    outcome = await played(Scenario("merges", contended, 3, options))

    assert outcome.faultless, outcome
    assert (outcome.facts["deadlocks"], outcome.facts["retries"]) == (0, 0)
