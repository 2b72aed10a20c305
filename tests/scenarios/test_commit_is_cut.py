"""Connections are cut before, in the middle of, and after COMMIT: no effect is doubled."""

from tests.chaos.scenario import Scenario
from tests.chaos.stories.postgres import commit_cut
from tests.scenarios.conftest import Played


async def test_every_call_is_stored_once_wherever_the_cut_was(played: Played) -> None:
    outcome = await played(Scenario("cut in COMMIT", commit_cut, 20))

    assert outcome.faultless, outcome
    assert min(outcome.facts[place] for place in ("before", "during", "after")) > 0
